"""Writes that begin and end without a lock: those that lie in one region, which is hot.

A writer (TrackedVolume.pwrite), in any number of threads:

    W0  Is its region in `writable`? If not, the write begins with WriteTracker.begin.
    W1  The write is in `in_flight`: from now on every batch that closes names it.
    W2  Is its region still in `writable`? If not, the write is removed from `in_flight`, with the
        tracker's lock held. Nothing was touched, and the write begins with WriteTracker.begin.
    W3  The data goes to the primary.
    W4  The write is in `ended`, whether it succeeded or not. If `ended_since_s` isn't set, or the
        batch is full, the writer calls WriteTracker.note_ended.

The tracker, with its lock held:

    H1  A region is durable in the activity log.
    H2  The region is in `writable`.

    C1  A region that may leave is removed from `writable`.
    C2  If a write in `in_flight` lies in the region, the region is put back.
    C3  The region leaves the activity log.

    B1  `ended_since_s` is unset. The ended writes join the open batch, and leave `in_flight`.
    B2  A batch is closed with what is in `in_flight`.

If the volume is forked, and the fork mode makes no writer wait, the range of W3 also is that of no
other write, and W4 leads to the secondaries:

    F1  Before W3, the write is in `to_primary`. If its range overlaps another one there, or one in
        `claimed`, the write is removed from `to_primary` and `in_flight`, and takes the lock.
    F2  Instead of W4, the write and its data are in `to_fork`, whether it succeeded or not.
    F3  The write is removed from `to_primary`.

    E1  A write that takes the lock claims its range: it is in `claimed`.
    E2  It waits until no write in `to_primary` overlaps it. Then it writes its data.
    E3  Before it joins the queue of a secondary, those in `to_fork` do (B1).

No write is missed. Of W1 and W2 against C1 and C2, of W4 against B1, of F1 against E1 and E2, and
of two writers at F1, each side writes first and reads then, so at least one of them sees the other
(Dekker's algorithm). Writes that have ended and aren't collected yet are still in `in_flight`, so
B2 names them. Without the lock `in_flight` only grows: so B1 may compare its first entries, and
then remove them. Of two writes to one range, the later one begins F1 after F3 of the earlier one,
so they are in `to_fork` in the order in which they ended.

This stands on CPython's interpreter lock: each step is one operation of a built-in type, and all
threads see the steps in one order. A free-threaded interpreter doesn't promise that. There
has_interpreter_lock() is False, so TrackerState.update_writable keeps `writable` empty, and every
write begins and ends with the tracker's lock.
"""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass, field
from typing import TypeAlias

from mirrorlog.producers.batches.batch import InFlightTuple
from mirrorlog.producers.batches.hot_regions import HotRegion


def has_interpreter_lock() -> bool:
    """Return True if this interpreter runs one thread at a time (CPython's GIL, PEP 703).

    Once it is on in a process it stays on, so one call at the start of a session is enough.
    """
    is_gil_enabled = getattr(sys, "_is_gil_enabled", None)  # from Python 3.13 on
    if is_gil_enabled is None:
        return not sysconfig.get_config_var("Py_GIL_DISABLED")
    return bool(is_gil_enabled())


@dataclass(slots=True)
class CoarseClock:
    """The wall-clock time of the last tick, in microseconds since the epoch.

    To ask the clock for each write would cost as much as the rest of its bookkeeping.
    """

    now_us: int


ForkedTuple: TypeAlias = tuple[InFlightTuple, bytes | None]
"""A lock-free write to a forked volume that has ended, and its data; None if the primary failed."""


@dataclass(slots=True, eq=False)
class LockFreeWrites:
    """The lock-free writes of one volume.

    writable: the volume's hot regions by number; empty while its writes must take the lock.
    in_flight: the writes that have begun and aren't collected, in the order in which they began.
        Equal writes stand for each other.
    ended: the writes that have ended and aren't collected.
    ended_since_s: when the first of `ended` was noted, by the monotonic clock.

    Of a forked volume:
    to_primary: the writes whose data is on its way to the primary, by identity.
    claimed: (offset, length) of the writes that took the lock and are on their way to the primary.
    to_fork: the writes that have ended and aren't collected, in an order that is right for every
        range; used in place of `ended`.
    """

    writable: dict[int, HotRegion] = field(default_factory=dict)
    in_flight: list[InFlightTuple] = field(default_factory=list)
    ended: list[InFlightTuple] = field(default_factory=list)
    ended_since_s: float | None = None
    to_primary: dict[int, InFlightTuple] = field(default_factory=dict)
    claimed: dict[int, tuple[int, int]] = field(default_factory=dict)
    to_fork: list[ForkedTuple] = field(default_factory=list)

    def take_ended(self) -> list[InFlightTuple]:
        """Do step B1, and return the ended writes. Call it with the tracker's lock held."""
        self.ended_since_s = None
        ended = self.ended[:]
        del self.ended[: len(ended)]
        self._forget(ended)
        return ended

    def take_to_fork(self) -> tuple[list[InFlightTuple], list[bytes | None]]:
        """Do step B1 of a forked volume. Return the ended writes, and the data of each.

        The data is None if the primary failed. Call it with the tracker's lock held.
        """
        taken = self.to_fork[:]
        del self.to_fork[: len(taken)]
        ended = [write for write, _ in taken]
        self._forget(ended)
        return ended, [data for _, data in taken]

    def _forget(self, ended: list[InFlightTuple]) -> None:
        """Remove ended writes from `in_flight`."""
        if self.in_flight[: len(ended)] == ended:  # as always with one writer
            del self.in_flight[: len(ended)]
        else:
            for write in ended:
                self.in_flight.remove(write)

    def overlaps_to_primary(self, *, offset: int, length: int) -> bool:
        """Return whether a write in `to_primary` overlaps this range (E2)."""
        return any(
            other[1] < offset + length and offset < other[1] + other[2]
            for other in self.to_primary.copy().values()
        )

    def enter(self, write: InFlightTuple) -> bool:
        """Do step F1. Return False, with `to_primary` unchanged, if the write takes the lock."""
        self.to_primary[id(write)] = write
        if len(self.to_primary) == 1 and not self.claimed:
            return True
        others = [other[1:3] for other in self.to_primary.copy().values() if other is not write]
        end = write[1] + write[2]
        if any(
            start < end and write[1] < start + length
            for start, length in [*others, *self.claimed.copy().values()]
        ):
            del self.to_primary[id(write)]
            return False
        return True

    def back_out(self, write: InFlightTuple) -> None:
        """Remove a write that touched nothing (W2). Call it with the tracker's lock held."""
        self.in_flight.remove(write)

    def copy_in_flight(self) -> list[InFlightTuple]:
        """Return the writes that are in flight at one moment (B2)."""
        return self.in_flight[:]

    def regions_in_flight(self, region_bytes: int) -> set[int]:
        """Return the numbers of the regions that writes are in flight in (C2)."""
        return {write[1] // region_bytes for write in self.copy_in_flight()}
