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

from mirrorlog.producers.batches.batch import PlainFlight
from mirrorlog.producers.batches.hot_regions import HotRegion


@dataclass(slots=True)
class Moment:
    """The time by the clock that people read, as of the last tick: asking it for each write would cost as much as the rest."""

    us: int


@dataclass(slots=True, eq=False)
class Runway:
    """One volume's. gate: its hot regions by number; none while its writes must ask. flying: by identity."""

    gate: dict[int, HotRegion] = field(default_factory=dict)
    flying: dict[int, PlainFlight] = field(default_factory=dict)
    landed: list[PlainFlight] = field(default_factory=list)
    stirred_s: float | None = None

    def take(self) -> list[PlainFlight]:
        """B1: what has landed."""
        self.stirred_s = None
        ended = self.landed[:]
        del self.landed[: len(ended)]
        for flight in ended:
            del self.flying[id(flight)]
        return ended

    def in_flight(self) -> list[PlainFlight]:
        """B2: what was flying at one moment."""
        return list(self.flying.copy().values())

    def numbers(self, region_bytes: int) -> set[int]:
        """C2: the regions that flights are in."""
        return {flight[1] // region_bytes for flight in self.in_flight()}
