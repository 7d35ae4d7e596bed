"""A volume's open batch: the extents that the next tracking command will name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from struct import pack
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from mirrorlog.domain.bitmaps import BlockSet, runs
from mirrorlog.domain.commands import ForkOutcome, ForkOutcomes
from mirrorlog.domain.extents import U8, U64, Extent, ExtentColumns, ExtentKind
from mirrorlog.domain.volumes import Volume
from mirrorlog.producers.batches.hot_regions import HotRegion


class InFlightWrite(NamedTuple):
    """A write that has begun: its data may be on the primary, wholly or in part.

    offset, length: in bytes. at_us: a time shortly before the write began, in microseconds.
    regions: those that it lies in.
    """

    kind: ExtentKind
    offset: int
    length: int
    at_us: int
    regions: tuple[HotRegion, ...]


InFlightTuple: TypeAlias = tuple[int, int, int, int, tuple[HotRegion, ...]]
"""The fields of an InFlightWrite as a plain tuple, which is made in a third of the time.

There is one for each lock-free write, without regions. Its kind is a plain int: the garbage
collector goes once through a tuple of these, and not again and again.
"""

Outcomes: TypeAlias = Mapping[str, ForkOutcome]
"""The outcomes of one forked write, by site. A site that isn't in it has missed the write."""


@dataclass(slots=True, eq=False)
class Batch:
    """Writes that have ended. They aren't merged, because audits report their number.

    regions: those of the writes, each once. outcomes: one for each write if the volume is forked,
    else none.
    """

    writes: list[InFlightTuple] = field(default_factory=list)
    regions: list[HotRegion] = field(default_factory=list)
    outcomes: list[Outcomes] = field(default_factory=list)

    def add(self, write: InFlightWrite) -> None:
        """Add a write that has ended. Its regions stay hot until this batch is acknowledged."""
        self.writes.append(write)
        for region in write.regions:
            if region.counted_by is not self:
                self.keep_hot(region)

    def keep_hot(self, region: HotRegion) -> None:
        """Keep the region hot until this batch is acknowledged. A second call does nothing."""
        if region.counted_by is not self:
            region.counted_by = self
            region.unacknowledged += 1
            self.regions.append(region)

    def closed_with(
        self, in_flight: Iterable[InFlightTuple], outcomes: Iterable[Outcomes] = ()
    ) -> ClosedBatch:
        """Return what the command names: these writes, and those in flight now (invariant 8).

        outcomes: of the writes in flight, if the volume is forked.
        """
        return replace(
            closed_batch([*self.writes, *in_flight]),
            forks=fork_columns([*self.outcomes, *outcomes]),
        )

    def __len__(self) -> int:
        return len(self.writes)


@dataclass(frozen=True, slots=True, eq=False)
class ClosedBatch:
    """The content of the command that a batch becomes.

    first_at_us: a time at which none of the writes had begun; None for the time of the command.
    forks: the outcomes by site. A secondary that isn't in it has missed every extent.
    """

    extents: ExtentColumns
    first_at_us: int | None = None
    forks: tuple[ForkOutcomes, ...] = ()


def fork_columns(outcomes: Sequence[Outcomes]) -> tuple[ForkOutcomes, ...]:
    """Turn outcomes by write into outcomes by site, in the order of the sites' names.

    If a site has all writes, its column is empty, as in a command. It takes least time if writes
    with the same outcomes share one object.
    """
    missed, has = ForkOutcome.MISSED, ForkOutcome.HAS
    keys = [id(by_site) for by_site in outcomes]
    distinct = dict(zip(keys, outcomes, strict=True))
    columns = []
    for site in sorted({site for by_site in distinct.values() for site in by_site}):
        by_key = {key: by_site.get(site, missed) for key, by_site in distinct.items()}
        has_all = all(outcome is has for outcome in by_key.values())
        columns.append(ForkOutcomes(site, b"" if has_all else bytes(map(by_key.__getitem__, keys))))
    return tuple(columns)


def closed_batch(writes: Collection[InFlightTuple]) -> ClosedBatch:
    """Return a batch of these writes."""
    if not writes:
        return ClosedBatch(_columns((), (), ()))
    columns = _columns(
        [write[1] for write in writes],
        [write[2] for write in writes],
        [write[0] for write in writes],
    )
    return ClosedBatch(columns, min([write[3] for write in writes]))


def _columns(
    offsets: Collection[int], lengths: Collection[int], kinds: Collection[int]
) -> ExtentColumns:
    """Return extents as columns. kinds: may be empty if all are writes."""
    return ExtentColumns(
        _column(offsets), _column(lengths), np.array(kinds, U8) if any(kinds) else None
    )


def _column(values: Collection[int]) -> npt.NDArray[np.uint64]:
    """Return integers as a column. For a list of int, struct.pack is faster than np.array."""
    return np.frombuffer(pack(f"<{len(values)}Q", *values), U64)


def region_batches(
    numbers: Iterable[int], *, region_bytes: int, size_bytes: int, max_extents: int
) -> Iterator[ClosedBatch]:
    """Yield batches that cover these regions of a volume of `size_bytes`.

    Neighbouring regions are joined into one extent. Each batch has up to `max_extents` of them.
    What lies behind the volume's end is left out.
    """
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
    for start in range(0, len(offsets), max_extents):
        end = start + max_extents
        yield ClosedBatch(_columns(offsets[start:end], lengths[start:end], ()))


def block_batches(blocks: BlockSet, volume: Volume, *, max_extents: int) -> Iterator[ClosedBatch]:
    """Yield batches of up to `max_extents` extents that cover these blocks of the volume."""
    ranges = (volume.byte_range(first=first, count=count) for first, count in runs(blocks))
    while batch := list(islice(ranges, max_extents)):
        offsets, lengths = zip(*batch, strict=True)
        yield ClosedBatch(_columns(offsets, lengths, ()))


def dirty_regions(
    numbers: Iterable[int],
    in_flight: Iterable[InFlightTuple],
    *,
    region_bytes: int,
    size_bytes: int,
) -> ClosedBatch:
    """Return one batch of these regions of a volume of `size_bytes`, and of what is in flight."""
    regions = [
        extent
        for batch in region_batches(
            numbers, region_bytes=region_bytes, size_bytes=size_bytes, max_extents=size_bytes
        )
        for extent in batch.extents
    ]
    writes = [Extent(offset, length) for _, offset, length, _, _ in in_flight]
    return ClosedBatch(ExtentColumns.of([*regions, *writes]))


def whole_volume(size_bytes: int) -> ClosedBatch:
    """Return a batch of one extent, the whole volume."""
    return ClosedBatch(_columns((0,), (size_bytes,), ()))
