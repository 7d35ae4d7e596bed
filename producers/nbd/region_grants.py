"""The gate: which regions nbdkit may write to by itself, and the books of what it wrote. ring.h has the protocol."""

from __future__ import annotations

import errno
import socket
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from threading import Thread
from typing import Final

from mirrorlog.domain.extents import ExtentKind
from mirrorlog.errors import DeviceFailed, MirrorlogError
from mirrorlog.producers.batches.batch import Flight
from mirrorlog.producers.batches.hot_regions import WHOLE, HotRegion
from mirrorlog.producers.nbd.ring import GRANT_REQUEST, MESSAGE, Extents, Ring, regions_of
from mirrorlog.producers.writes.write_tracker import OpenVolume, WriteTracker

REVOKED_AT_ONCE: Final = 64
"""When leases must be taken back to make room, so many are, so that it isn't needed for each."""
_KINDS: Final = tuple(ExtentKind)


@dataclass(frozen=True, slots=True)
class _RevokedRegions:
    """Leases that nobody begins a write under any more; those that did have ended once the ring's tail is at `until`."""

    until: int
    leases: Mapping[int, HotRegion]


class RegionGrants:
    """A lease is a region of the activity log that stays there: nbdkit may begin writes in it without a word.

    There are at most `limit` of them, and those that writes in flight need; the one written to longest ago is the first
    to be taken back. Given back, it is one of the tracker's hot regions like any other.
    """

    def __init__(self, tracker: WriteTracker, opened: OpenVolume, ring: Ring, limit: int) -> None:
        self._tracker: Final = tracker
        self._opened: Final = opened
        self._ring: Final = ring
        self._limit: Final = limit
        self._leases: Final[OrderedDict[int, HotRegion]] = OrderedDict()
        self._taken_back: Final[deque[_RevokedRegions]] = deque()
        self._flights: dict[int, Flight] = {}
        tracker.lend(opened, self.refresh)

    def admit(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Writes to these (offset, length) may begin: H1 and H2. One thread at a time; it may wait for a flush or Kafka."""
        wanted = {
            number
            for offset, length in ranges
            for number in self._ring.geometry.numbers(offset, length)
        }
        with self._tracker.lock:
            missing = sorted(wanted - self._leases.keys())
            self._make_room(len(missing), wanted)
        leased = self._tracker.lease(self._opened, missing)  # H1
        with self._tracker.lock:
            self._leases.update(zip(missing, leased, strict=True))
            self._ring.grant(wanted & self._leases.keys())  # H2

    def refresh(self, *, orphaned: bool = False) -> None:
        """What nbdkit has ended joins the batch, what it has in flight is known (B1). With the tracker's lock held.

        orphaned: nbdkit is dead, and what it had in flight has ended.
        """
        self._share_failure()
        if not self._ring.has_writes and not self._flights:
            self._give_back()
            return
        ended, in_flight = self._ring.collect(orphaned=orphaned)
        if len(ended):
            regions = self._regions(ended)
            self._tracker.landed(self._opened, _flights(ended, tuple(regions)), regions)
        for key in self._flights:
            del self._opened.in_flight[key]
        regions = self._regions(in_flight)
        self._flights = {id(flight): flight for flight in _flights(in_flight, tuple(regions))}
        self._opened.in_flight.update(self._flights)
        self._give_back()

    def _give_back(self) -> None:
        """Nobody writes without asking while writes may not begin; a lease on a whole volume ends with its being whole."""
        if not self._tracker.is_open:
            self._take_back(list(self._leases))
        elif self._opened.regions.whole is not None and not self._opened.is_wide:
            self._take_back(
                [number for number, region in self._leases.items() if region.number == WHOLE]
            )
        while self._taken_back and self._taken_back[0].until <= self._ring.tail:
            self._tracker.give_back(self._taken_back.popleft().leases.values())  # C3

    def _take_back(self, numbers: Sequence[int]) -> None:
        """No write begins in these regions any more without asking: C1 and C2. With the tracker's lock held."""
        if not numbers:
            return
        until = self._ring.revoke(numbers)
        self._taken_back.append(
            _RevokedRegions(until, {number: self._leases.pop(number) for number in numbers})
        )

    def close(self) -> None:
        """nbdkit is dead: all that it wrote is known to the tracker when this returns, and nothing is in flight."""
        with self._tracker.lock:
            self.refresh(orphaned=True)
            held = [self._leases, *(each.leases for each in self._taken_back)]
            self._tracker.give_back(region for leases in held for region in leases.values())
            self._tracker.lend(self._opened, None)

    def _regions(self, extents: Extents) -> list[HotRegion]:
        """Under whose leases these writes can be: one that was taken back meanwhile, one that was given anew."""
        found: dict[int, HotRegion] = {}
        for number in regions_of(extents, self._ring.geometry.region_bytes):
            for leases in (self._leases, *(each.leases for each in self._taken_back)):
                if number in leases:
                    found[id(leases[number])] = leases[number]
            if number in self._leases:
                self._leases.move_to_end(number)
        return list(found.values())

    def _make_room(self, missing: int, wanted: set[int]) -> None:
        surplus = len(self._leases) + missing - self._limit
        if missing and surplus > 0:
            ahead = max(surplus, min(REVOKED_AT_ONCE, self._limit // 4))
            self._take_back([number for number in self._leases if number not in wanted][:ahead])

    def _share_failure(self) -> None:
        """A volume that has failed on one side fails on the other."""
        if self._opened.failed is not None:
            if not self._ring.failed:
                self._ring.fail(errno.EIO)
        elif self._ring.failed:
            where = f"volume {self._opened.name}"
            advice = "Look at the kernel log and at the device, then start the host again."
            self._tracker.fail(
                self._opened,
                DeviceFailed("nbdkit couldn't flush the primary", where=where, next=advice),
            )


def _flights(extents: Extents, regions: tuple[HotRegion, ...]) -> list[Flight]:
    """As the tracker has them; each with all the regions, for what becomes of these is decided for all at once."""
    kinds = [_KINDS[kind] for kind in extents["kind"].tolist()]
    columns = (extents[name].tolist() for name in ("offset", "length", "at_us"))
    return [Flight._make(each) for each in zip(kinds, *columns, repeat(regions), strict=False)]


class GrantServer:
    """Answers those who wait at the gate, from a thread of its own, until nbdkit hangs up.

    error: why it stopped before that; nbdkit has been hung up on then, so no write begins any more.
    """

    def __init__(
        self,
        gate: RegionGrants,
        gather: Callable[[], None],
        control: socket.socket,
        report: Callable[[str], None],
    ) -> None:
        self._gate: Final = gate
        self._gather: Final = gather
        self._control: Final = control
        self._report: Final = report
        self.error: BaseException | None = None
        self._thread: Final = Thread(target=self._run, name="nbd porter", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The thread has ended when it returns."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._control.close()

    def _run(self) -> None:
        try:
            while messages := self._heard():
                self._answer([message for message in messages if message[0] == GRANT_REQUEST])
                self._gather()
        except BaseException as error:  # noqa: BLE001 - the host's own thread raises it
            self.error = error
        finally:
            with suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)

    def _heard(self) -> list[tuple[int, int, int, int]]:
        """All that has come, waiting for the first; nothing once nbdkit has hung up."""
        messages = []
        flags = 0
        with suppress(BlockingIOError, ConnectionResetError):
            while packet := self._control.recv(MESSAGE.size, flags):
                messages.append(MESSAGE.unpack(packet))
                flags = socket.MSG_DONTWAIT
        return messages

    def _answer(self, misses: Sequence[tuple[int, int, int, int]]) -> None:
        """All that wait are admitted together, for one sync of the activity log."""
        if not misses:
            return
        code = 0
        try:
            self._gate.admit((offset, length) for _, _, offset, length in misses)
        except MirrorlogError as error:
            code = errno.EIO
            self._report(str(error))
        for _, position, _, _ in misses:
            self._control.send(MESSAGE.pack(code, position, 0, 0))
