"""Where the writes of most applications begin and end without a lock: one region, and it is hot.

A writer (TrackedVolume.pwrite), any number of threads:

    W1  The flight is in `flying`: from now on whatever batch closes names it.
    W2  Is its region in `gate`? If not, the flight leaves again, nothing was touched, and the write goes by WriteTracker.begin.
    W3  The data goes to the primary.
    W4  The flight is in `landed`, well or not. Then: is `stirred_s` set? If not, the tracker is told.

The tracker, with its lock held:

    H1  A region is durable in the activity log.    C1  A region that may leave is taken out of `gate`.
    H2  It is in `gate`.                            C2  Where a flight of it is in `flying`, it is put back.
                                                    C3  It leaves the activity log.
    B1  `stirred_s` is unset; what has landed joins the open batch, and is in `flying` no more.
    B2  A batch is closed with what is in `flying`.

No write slips through. W1 and W2 against C1 and C2, W4 against B1: each side writes first and reads then, so that at least one
of them sees the other (Dekker). What has landed and isn't taken yet is in `flying`, so B2 names it. This stands on the
interpreter's lock: each of these steps is one operation of a built-in type, and all threads see them in one order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mirrorlog.producers.batches.batch import InFlightTuple
from mirrorlog.producers.batches.hot_regions import HotRegion


@dataclass(slots=True)
class CoarseClock:
    """The time by the clock that people read, as of the last tick: asking it for each write would cost as much as the rest."""

    now_us: int


@dataclass(slots=True, eq=False)
class LockFreeWrites:
    """One volume's. gate: its hot regions by number; none while its writes must ask. flying: by identity."""

    writable: dict[int, HotRegion] = field(default_factory=dict)
    in_flight: dict[int, InFlightTuple] = field(default_factory=dict)
    ended: list[InFlightTuple] = field(default_factory=list)
    ended_since_s: float | None = None

    def take_ended(self) -> list[InFlightTuple]:
        """B1: what has landed."""
        self.ended_since_s = None
        ended = self.ended[:]
        del self.ended[: len(ended)]
        for flight in ended:
            del self.in_flight[id(flight)]
        return ended

    def copy_in_flight(self) -> list[InFlightTuple]:
        """B2: what was flying at one moment."""
        return list(self.in_flight.copy().values())

    def regions_in_flight(self, region_bytes: int) -> set[int]:
        """C2: the regions that flights are in."""
        return {flight[1] // region_bytes for flight in self.copy_in_flight()}
