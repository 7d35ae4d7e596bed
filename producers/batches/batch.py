"""A volume's open batch: the extents that the next tracking command will name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

import numpy as np

from mirrorlog.domain.commands import ForkOutcome, ForkOutcomes
from mirrorlog.domain.extents import U8, U64, Extent, ExtentColumns, ExtentKind
from mirrorlog.producers.batches.hot_regions import HotRegion


class InFlightWrite(NamedTuple):
    """A write that has begun: its data may be on the primary, or not, or in part. at_us: a time shortly before that."""

    kind: ExtentKind
    offset: int
    length: int
    at_us: int
    regions: tuple[HotRegion, ...]


InFlightTuple: TypeAlias = tuple[ExtentKind, int, int, int, tuple[HotRegion, ...]]
"""The same without the names: it is made in a third of the time. On the runway there is one for each write, without regions."""

Outcomes: TypeAlias = Mapping[str, ForkOutcome]
"""Of one forked write, by site. A site that isn't there has missed it."""


@dataclass(slots=True, eq=False)
class Batch:
    """Writes that have ended: merging them would lose the count that audits report. regions: theirs, each once. outcomes:
    one for each of the flights, where the volume is forked."""

    writes: list[InFlightTuple] = field(default_factory=list)
    regions: list[HotRegion] = field(default_factory=list)
    outcomes: list[Outcomes] = field(default_factory=list)

    def add(self, write: InFlightWrite, outcomes: Outcomes | None = None) -> None:
        """Takes a write that has ended; its regions wait for this batch's acknowledgement."""
        self.writes.append(write)
        if outcomes is not None:
            self.outcomes.append(outcomes)
        for region in write.regions:
            if region.counted_by is not self:
                self.keep_hot(region)

    def keep_hot(self, region: HotRegion) -> None:
        """The region waits for this batch's acknowledgement, whatever it held before; once is enough."""
        if region.counted_by is not self:
            region.counted_by = self
            region.unacknowledged += 1
            self.regions.append(region)

    def closed_with(
        self, in_flight: Iterable[InFlightTuple], outcomes: Iterable[Outcomes] = ()
    ) -> ClosedBatch:
        """What the command says: these extents and those of the writes in flight at this moment (invariant 8). outcomes: of
        these, where the volume is forked."""
        return replace(
            closed_batch([*self.writes, *in_flight]),
            forks=fork_columns([*self.outcomes, *outcomes]),
        )

    def __len__(self) -> int:
        return len(self.writes)


@dataclass(frozen=True, slots=True, eq=False)
class ClosedBatch:
    """Extents, and a time at which none of their writes had begun; now, where that is None, as for the last of them. forks:
    what became of each at secondaries; none where they have all missed all."""

    extents: ExtentColumns
    first_at_us: int | None = None
    forks: tuple[ForkOutcomes, ...] = ()


def fork_columns(outcomes: Sequence[Outcomes]) -> tuple[ForkOutcomes, ...]:
    """The same by site, as a command says it: in the order of the sites' names."""
    missed, has = ForkOutcome.MISSED, ForkOutcome.HAS
    found = []
    for site in sorted({site for each in outcomes for site in each}):
        column = [each.get(site, missed) for each in outcomes]
        found.append(
            ForkOutcomes(site, b"" if all(each is has for each in column) else bytes(column))
        )
    return tuple(found)


def closed_batch(writes: Collection[InFlightTuple]) -> ClosedBatch:
    """These writes."""
    if not writes:
        return ClosedBatch(_columns((), (), ()))
    kinds, offsets, lengths, times_us, _ = zip(*writes, strict=True)
    return ClosedBatch(_columns(offsets, lengths, kinds), min(times_us))


def _columns(
    offsets: Collection[int], lengths: Collection[int], kinds: Collection[ExtentKind]
) -> ExtentColumns:
    return ExtentColumns(
        np.array(offsets, U64), np.array(lengths, U64), np.array(kinds, U8) if any(kinds) else None
    )


def region_batches(
    numbers: Iterable[int], region_bytes: int, size_bytes: int, most: int
) -> Iterator[ClosedBatch]:
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
        yield ClosedBatch(_columns(offsets[start:end], lengths[start:end], ()))


def dirty_regions(
    numbers: Iterable[int], region_bytes: int, size_bytes: int, in_flight: Iterable[InFlightTuple]
) -> ClosedBatch:
    """One batch of these regions, and of what is in flight."""
    regions = [
        extent
        for each in region_batches(numbers, region_bytes, size_bytes, size_bytes)
        for extent in each.extents
    ]
    return ClosedBatch(
        ExtentColumns.of(
            [*regions, *(Extent(offset, length) for _, offset, length, _, _ in in_flight)]
        )
    )


def whole_volume(size_bytes: int) -> ClosedBatch:
    """All of it."""
    return ClosedBatch(_columns((0,), (size_bytes,), ()))
