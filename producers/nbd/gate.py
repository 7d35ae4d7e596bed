"""The gate: which regions nbdkit may write to by itself, and the books of what it wrote. ring.h has the protocol."""

from __future__ import annotations

import errno
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from threading import Thread
from typing import Final

from mirrorlog.errors import DeviceFailed, MirrorlogError
from mirrorlog.extents import ExtentKind
from mirrorlog.producers.batch import Batch, Flight
from mirrorlog.producers.hot_regions import HotRegion
from mirrorlog.producers.nbd.ring import MESSAGE, MISS, Extents, Ring, regions_of
from mirrorlog.producers.write_tracker import OpenVolume, WriteTracker

TAKEN_BACK_AHEAD: Final = 64
"""When regions must be taken back to make room, so many are, so that it isn't needed for each."""
_KINDS: Final = tuple(ExtentKind)


class Gate:
    """A lease is a region that is in the activity log and stays there: nbdkit may begin writes in it without a word.

    There are at most `limit` of them, and those that writes in flight need; the one written to longest ago is the first
    to be taken back. Given back, it is one of the tracker's hot regions like any other.
    """

    def __init__(self, tracker: WriteTracker, opened: OpenVolume, ring: Ring, limit: int) -> None:
        self._tracker: Final = tracker
        self._opened: Final = opened
        self._ring: Final = ring
        self._limit: Final = limit
        self._leases: Final[OrderedDict[int, HotRegion]] = OrderedDict()
        tracker.lend(opened, self.refresh)

    def admit(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Writes to these (offset, length) may begin: H1 and H2. One thread at a time; it may wait for a flush or Kafka."""
        wanted = {number for offset, length in ranges for number in self._ring.geometry.numbers(offset, length)}
        missing = sorted(wanted - self._leases.keys())
        self._take_back(len(self._leases) + len(missing) - self._limit, wanted)
        leased = self._tracker.lease(self._opened, missing)  # H1
        with self._tracker.lock:
            self._leases.update(zip(missing, leased, strict=True))
            self._ring.heat(wanted)  # H2

    def refresh(self, *, orphaned: bool = False) -> None:
        """What nbdkit has ended joins the batch, what it has in flight is known (B1). With the tracker's lock held.

        orphaned: nbdkit is dead, and what it had in flight has ended.
        """
        self._share_failure()
        if self._ring.stirred or self._opened.in_flight:
            ended, flying = self._ring.collect(orphaned=orphaned)
            self._opened.in_flight = {
                Flight(ExtentKind.WRITE, offset, length, at_us, []): None
                for offset, length, at_us, _ in flying.tolist()
            }
            if len(ended):
                self._land(ended)

    def close(self) -> None:
        """nbdkit is dead: all that it wrote is known to the tracker when this returns, and nothing is in flight."""
        with self._tracker.lock:
            self.refresh(orphaned=True)
            self._tracker.give_back(self._leases.values())
            self._leases.clear()
            self._tracker.lend(self._opened, None)

    def _land(self, ended: Extents) -> None:
        regions = []
        for number in regions_of(ended, self._ring.geometry.region_bytes):
            regions.append(self._leases[number])
            self._leases.move_to_end(number)
        offsets, lengths, times = (ended[name].tolist() for name in ("offset", "length", "at_us"))
        kinds = [_KINDS[kind] for kind in ended["kind"].tolist()]
        self._tracker.landed(self._opened, Batch(None, offsets, lengths, kinds, times), regions)

    def _take_back(self, surplus: int, wanted: set[int]) -> None:
        """Gives back `surplus` leases and some more, where there is a surplus: C1 to C3. None that is wanted."""
        if surplus <= 0:
            return
        with self._tracker.lock:
            ahead = max(surplus, min(TAKEN_BACK_AHEAD, self._limit // 4))
            oldest = [number for number in self._leases if number not in wanted][:ahead]
            self._ring.cool(oldest)  # C1
            self.refresh()  # C2
            in_flight = {
                number for flight in self._opened.in_flight for number in self._numbers(flight) if number in self._leases
            }
            self._ring.heat(in_flight.intersection(oldest))
            cold = [number for number in oldest if number not in in_flight]
            self._tracker.give_back([self._leases.pop(number) for number in cold])  # C3

    def _numbers(self, flight: Flight) -> range:
        return self._ring.geometry.numbers(flight.offset, flight.length)

    def _share_failure(self) -> None:
        """A volume that has failed on one side fails on the other."""
        if self._opened.failed is not None:
            if not self._ring.failed:
                self._ring.fail(errno.EIO)
        elif self._ring.failed:
            where = f"volume {self._opened.name}"
            advice = "Look at the kernel log and at the device, then start the host again."
            self._tracker.fail(self._opened, DeviceFailed("nbdkit couldn't flush the primary", where=where, next=advice))


class Porter:
    """Answers those who wait at the gate, from a thread of its own, until nbdkit hangs up.

    error: why it stopped before that; nbdkit has been hung up on then, so no write begins any more.
    """

    def __init__(
        self, gate: Gate, gather: Callable[[], None], control: socket.socket, report: Callable[[str], None]
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
                self._answer([message for message in messages if message[0] == MISS])
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
