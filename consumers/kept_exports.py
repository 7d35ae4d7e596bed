"""Connections to NBD exports that a site keeps from one cycle to the next.

An export has no lasting identity: its server and its name are names. But while a connection lasts,
what it leads to is the same. So a site keeps its connections, never replaces one silently, and
holds what a new one leads to against what it knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event, Thread
from typing import Final

from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.nbd_client.nbd_uri import NbdUri, parse_nbd_uri
from mirrorlog.consumers.resync.secondaries import FoundDevice
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.clock import Clock, SystemClock

_SLOW_S: Final = 1.0
"""An attempt to connect that fails only after this time holds up other volumes."""
_PING_S: Final = 2.0
"""How long a server that is to stop waits for an idle site."""
_SILENCE_S: Final = 60.0
"""For this long, no further attempt is made at that server."""


class KeptExport(NbdDevice):
    """An export whose connections outlast every `with` block: close() does nothing."""

    def close(self) -> None:
        """Do nothing. disconnect() closes it."""

    def disconnect(self) -> None:
        """Close all connections."""
        super().close()


@dataclass(slots=True)
class _Kept:
    """may_be_zeroed: it read as zeros when it was looked at last, or wasn't looked at yet."""

    address: str
    device: KeptExport
    may_be_zeroed: bool = True


class KeptExports:
    """At most one export for each volume. One thread uses it.

    A server that doesn't answer would hold up all volumes of the site, each for the deadline of a
    connection. So it is asked again only after a while, for whichever volume.

    A server that is to stop may wait for its clients (nbdkit does), so a thread asks each export
    now and then whether it still answers, and drops it otherwise.

    writable: whether they are opened for writing. ping_s: how often exports are asked.
    """

    def __init__(
        self, *, writable: bool, clock: Clock | None = None, ping_s: float = _PING_S
    ) -> None:
        self._writable: Final = writable
        self._clock: Final = clock or SystemClock()
        self._kept: Final[dict[str, _Kept]] = {}
        self._silent: Final[dict[str, tuple[float, DeviceFailed]]] = {}
        """By server, until when it isn't asked, and why."""
        self._ping_s: Final = ping_s
        self._pinged: list[NbdDevice] = []
        self._is_closed: Final = Event()
        self._pinging: Thread | None = None

    def look(self, volume: str, address: str) -> FoundDevice:
        """Return what is there. Connect if there is no connection, or if it was lost.

        is_new of the result says whether it did. Its is_zeroed is False, whatever is there, unless
        exports are opened for writing. Raise BadUse and DeviceFailed.
        """
        kept = self._kept.get(volume)
        is_new = kept is None or kept.address != address or not kept.device.is_intact()
        if is_new or kept is None:
            self.drop(volume)
            kept = self._kept[volume] = _Kept(address, self._connect(parse_nbd_uri(address)))
        if self._writable and kept.may_be_zeroed:  # of a primary, nobody asks that
            kept.may_be_zeroed = next(kept.device.allocated(), None) is None
        return FoundDevice(
            size_bytes=kept.device.size_bytes,
            identity=kept.device.identity,
            is_zeroed=self._writable and kept.may_be_zeroed,
            is_new=is_new,
        )

    def _connect(self, uri: NbdUri) -> KeptExport:
        begin_s = self._clock.monotonic_s()
        until_s, reason = self._silent.get(uri.server, (0.0, None))
        if reason is not None and begin_s < until_s:
            raise DeviceFailed(reason.what, where=reason.where, next=reason.next)
        try:
            device = KeptExport(uri, writable=self._writable, reconnects=False)
        except DeviceFailed as error:
            now_s = self._clock.monotonic_s()
            if now_s - begin_s >= _SLOW_S:
                self._silent[uri.server] = (now_s + _SILENCE_S, error)
            raise
        self._silent.pop(uri.server, None)
        if self._pinging is None:
            self._pinging = Thread(target=self._ping, name="nbd-ping", daemon=True)
            self._pinging.start()
        return device

    def _ping(self) -> None:
        while not self._is_closed.wait(self._ping_s):
            for kept in tuple(self._kept.values()):
                kept.device.ping()
            for device in tuple(self._pinged):
                device.ping()

    def description(self, volume: str, address: str) -> str | None:
        """Return what the server said of the export; None if nothing, or if it isn't kept."""
        kept = self._kept.get(volume)
        return None if kept is None or kept.address != address else kept.device.description

    def pinged(self, device: NbdDevice) -> NbdDevice:
        """Ask this export now and then, too, until it is closed. Return it."""
        self._pinged = [other for other in self._pinged if other.is_open] + [device]
        return device

    def open(self, volume: str, address: str) -> KeptExport:
        """Return the export at which look() has looked. DeviceFailed if its connection was lost."""
        kept = self._kept.get(volume)
        if kept is None or kept.address != address or not kept.device.is_intact():
            raise DeviceFailed(
                "the connection to the NBD export was lost",
                where=f"{parse_nbd_uri(address)}, offset 0",
                next="The site connects again, and looks whether it is the same export.",
            )
        return kept.device

    def volume_at(self, address: str, *, but: str) -> str | None:
        """Return another volume than `but` whose export is at the same place, if there is one."""
        place = parse_nbd_uri(address).place
        return next(
            (
                name
                for name, kept in self._kept.items()
                if name != but and kept.device.uri.place == place
            ),
            None,
        )

    def drop(self, volume: str) -> None:
        """Close the volume's connection, if there is one."""
        kept = self._kept.pop(volume, None)
        if kept is not None:
            kept.device.disconnect()

    def close(self) -> None:
        """Close all connections."""
        self._is_closed.set()
        for device in self._pinged:
            device.close()
        for volume in list(self._kept):
            self.drop(volume)
