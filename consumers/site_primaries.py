"""The primaries that a site reads: files and devices of its machine, and NBD exports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from uuid import uuid4

from mirrorlog.adapters.addresses import open_file
from mirrorlog.adapters.device_identity import device_name
from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.nbd_client.nbd_uri import NbdUri, is_nbd
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.consumers.group_snapshots import take_together
from mirrorlog.consumers.kept_exports import KeptExports
from mirrorlog.consumers.resync.retry_pace import RetryPace
from mirrorlog.consumers.resync.secondaries import FoundDevice, TakenSnapshot
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.domain.primary_marks import PrimaryMark
from mirrorlog.domain.snapshots import (
    LiveExport,
    SnapshotExport,
    parse_description,
    snapshot_export,
)
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed, StateDamaged
from mirrorlog.ports.clock import Clock, SystemClock
from mirrorlog.ports.devices import BlockDevice

_SNAPSHOT_S: Final = 3.0
"""How long a host may take to answer with a snapshot. The site's other volumes wait meanwhile."""
_SLOW_S: Final = 1.0
"""A question for a snapshot that fails only after this time holds up other volumes."""
_FIRST_SILENCE_S: Final = 3.0
"""For this long, no further snapshot is asked for at that server."""
_MOST_SILENCE_S: Final = 60.0
"""The same of a server that fails again and again."""


class SitePrimaries:
    """Opens primaries for reading. Its methods raise BadUse and DeviceFailed."""

    def __init__(
        self, addresses: SiteAddresses, marks: PrimaryMarkFiles, clock: Clock | None = None
    ) -> None:
        self._addresses: Final = addresses
        self._marks: Final = marks
        self._exports: Final = KeptExports(writable=False)
        self._clock: Final = clock or SystemClock()
        self._slow: Final[dict[str, RetryPace]] = {}
        """By server, when snapshots are asked for again."""

    def close(self) -> None:
        """Close all connections."""
        self._exports.close()

    def find(self, volume: Volume) -> FoundDevice:
        """Look what is there, and change nothing."""
        address = self._addresses.primary(volume)
        if is_nbd(address):
            return self._exports.look(volume.volume, address)
        with self.open(volume) as primary:
            return found_device(primary)

    def open(self, volume: Volume) -> BlockDevice:
        """Open the primary. DeviceFailed if it is another volume's, or a former one.

        An NBD export must have been found before.
        """
        address = self._addresses.primary(volume)
        if is_nbd(address):
            return self._exports.open(volume.volume, address)
        primary = open_file(address, writable=False)
        try:
            mark = self.mark_of(primary)
            if mark is not None and not mark.is_of(volume):
                which = "an earlier volume" if mark.volume == volume.volume else "volume"
                raise DeviceFailed(
                    f"this is the primary of {which} {mark.volume}: its mark says so",
                    where=f"volume {volume.volume}, {address}, offset 0",
                    next="Mount the right one. The secondary stays as it is.",
                )
            right_id = volume.primary_id
            if right_id is not None and (mark is None or mark.primary_id != right_id):
                raise DeviceFailed(
                    "this isn't the copy that was promoted: its mark is gone, isn't in this state "
                    "folder, or has another id",
                    where=f"volume {volume.volume}, {address}, offset 0",
                    next=f"The primary is {volume.primary}. Take this site's --primary away, or "
                    "name the right one. The secondary stays as it is.",
                )
        except BaseException:
            primary.close()
            raise
        return primary

    def has_snapshots(self, volume: Volume) -> bool:
        """Return whether the primary was found to be an export of a host that serves the volume."""
        return self._served(volume) is not None

    def take_snapshot(self, volume: Volume) -> TakenSnapshot:
        """Take a snapshot of the primary, which was found. DeviceFailed if none is taken now."""
        live = self._exports.open(volume.volume, self._addresses.primary(volume))
        served = self._served(volume)
        if served is None:
            raise DeviceFailed("it has no snapshots", where=f"{live.uri}, offset 0")
        uri = replace(live.uri, export=snapshot_export(str(uuid4())))
        device = self._open_snapshot(uri)
        taken = parse_description(device.description)
        same = (served.volume, served.session)
        if not isinstance(taken, SnapshotExport) or (taken.volume, taken.session) != same:
            device.close()
            raise DeviceFailed(
                f"another server answers now: it says '{device.description}' of its export",
                where=f"{uri}, offset 0",
                next="The site connects again, and looks whether it is the same export.",
            )
        return TakenSnapshot(self._exports.pinged(device), taken)

    def _open_snapshot(self, uri: NbdUri) -> NbdDevice:
        """Open the export of a new snapshot. A server that hangs isn't asked again for a while.

        Several threads may call it.
        """
        self._check_not_slow(uri)
        begin_s = self._clock.monotonic_s()
        try:
            device = NbdDevice(uri, writable=False, reconnects=False, connect_s=_SNAPSHOT_S)
        except DeviceFailed:
            now_s = self._clock.monotonic_s()
            if now_s - begin_s >= _SLOW_S:
                new = RetryPace(first_s=_FIRST_SILENCE_S, most_s=_MOST_SILENCE_S)
                pace = self._slow.setdefault(uri.server, new)
                if pace.is_over(begin_s):  # no other thread has noted it meanwhile
                    pace.note_failed(now_s)
            raise
        self._slow.pop(uri.server, None)
        return device

    def _check_not_slow(self, uri: NbdUri) -> None:
        """Raise DeviceFailed while no snapshot is asked for at that server."""
        pace = self._slow.get(uri.server)
        if pace is not None and not pace.is_over(self._clock.monotonic_s()):
            raise DeviceFailed(
                "its host didn't answer an earlier question for a snapshot in time",
                where=f"{uri}, offset 0",
                next=f"The site asks it again within {_MOST_SILENCE_S:g} s.",
            )

    def take_snapshots(self, volumes: Sequence[Volume]) -> dict[str, TakenSnapshot]:
        """Take snapshots of primaries that were found, as of one moment; return them by volume.

        DeviceFailed if that can't be done now.
        """
        exports = {}
        for volume in volumes:
            live = self._exports.open(volume.volume, self._addresses.primary(volume))
            served = self._served(volume)
            if served is None:
                raise DeviceFailed("it has no snapshots", where=f"{live.uri}, offset 0")
            self._check_not_slow(live.uri)  # no other host is to hold its writers back for nothing
            exports[volume.volume] = (live.uri, served)
        opened = take_together(exports, str(uuid4()), self._open_snapshot)
        return {
            name: TakenSnapshot(self._exports.pinged(device), export)
            for name, (device, export) in opened.items()
        }

    def _served(self, volume: Volume) -> LiveExport | None:
        description = self._exports.description(volume.volume, self._addresses.primary(volume))
        served = parse_description(description)
        if isinstance(served, LiveExport) and served.volume == volume.volume:
            return served
        return None

    def mark_of(self, device: BlockDevice) -> PrimaryMark | None:
        """Return the mark of a device of this machine as a primary, if it has one."""
        try:
            return self._marks.read(device)
        except StateDamaged as error:
            raise DeviceFailed(error.what, where=error.where, next=error.next) from error


def found_device(device: BlockDevice) -> FoundDevice:
    """Return what an open file or block device is."""
    identity = device.identity
    return FoundDevice(
        size_bytes=device.size_bytes,
        identity=identity,
        device_name=device_name(identity),
        is_zeroed=next(device.allocated(), None) is None,
    )
