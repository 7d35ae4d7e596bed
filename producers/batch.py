"""A volume's open batch: the extents that the next tracking command will name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from mirrorlog.extents import U8, U64, ExtentColumns, ExtentKind
from mirrorlog.producers.hot_regions import HotRegion


@dataclass(slots=True, eq=False)
class Flight:
    """A write that has begun: its data may be on the primary, or not, or in part."""

    kind: ExtentKind
    offset: int
    length: int
    at_us: int
    regions: list[HotRegion]


@dataclass(slots=True)
class Batch:
    """Extents of writes that have ended, one for each write: merging them would lose the count that audits report.

    opened_s: when the first came, by the monotonic clock; None while there is none.
    """

    opened_s: float | None = None
    offsets: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    kinds: list[ExtentKind] = field(default_factory=list)
    times_us: list[int] = field(default_factory=list)
    regions: set[HotRegion] = field(default_factory=set)

    def add(self, flight: Flight) -> None:
        """Takes a write that has ended; its regions wait for this batch's acknowledgement."""
        self.offsets.append(flight.offset)
        self.lengths.append(flight.length)
        self.kinds.append(flight.kind)
        self.times_us.append(flight.at_us)
        for region in flight.regions:
            if region not in self.regions:
                self.regions.add(region)
                region.unacknowledged += 1

    def closed_with(self, in_flight: Collection[Flight]) -> ClosedBatch:
        """What the command says: these extents and those of the writes in flight at this moment (invariant 8)."""
        times = [*self.times_us, *(flight.at_us for flight in in_flight)]
        return ClosedBatch(
            _columns(
                [*self.offsets, *(flight.offset for flight in in_flight)],
                [*self.lengths, *(flight.length for flight in in_flight)],
                [*self.kinds, *(flight.kind for flight in in_flight)],
            ),
            min(times, default=None),
            max(times, default=None),
        )

    def __len__(self) -> int:
        return len(self.offsets)


@dataclass(frozen=True, slots=True, eq=False)
class ClosedBatch:
    """Extents, and when the first and the last of their writes began; None where there are none."""

    extents: ExtentColumns
    first_at_us: int | None = None
    last_at_us: int | None = None


def _columns(offsets: list[int], lengths: list[int], kinds: list[ExtentKind]) -> ExtentColumns:
    return ExtentColumns(np.array(offsets, U64), np.array(lengths, U64), np.array(kinds, U8) if any(kinds) else None)


def region_batches(numbers: Iterable[int], region_bytes: int, size_bytes: int, most: int) -> Iterator[ClosedBatch]:
    """The bytes of these regions that lie inside the volume, neighbours joined, in batches of up to `most` extents."""
    offsets: list[int] = []
    lengths: list[int] = []
    for number in sorted(numbers):
        offset = number * region_bytes
        length = min(region_bytes, size_bytes - offset)
        if length <= 0:
            break
        if offsets and offsets[-1] + lengths[-1] == offset:
            lengths[-1] += length
        else:
            offsets.append(offset)
            lengths.append(length)
    for start in range(0, len(offsets), most):
        end = start + most
        yield ClosedBatch(_columns(offsets[start:end], lengths[start:end], []))
