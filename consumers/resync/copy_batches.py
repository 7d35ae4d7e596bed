"""The batches in which a restoration copies (restoration.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np

from mirrorlog.consumers.resync.samples import ChosenSample, SampleTaker
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.range_columns import Integers, RangeColumns
from mirrorlog.domain.volumes import Volume

_MAX_RANGES: Final = 1024
"""A batch has at most that many ranges, so that what a range costs beside its bytes is bounded."""

_ZEROS_BYTES: Final = 256 << 20
"""As much is zeroed between two calls of on_copied: a device that can't punch holes writes it."""

_TAPERED_BYTES: Final = 256 << 10
"""The last batches of a tapered copy have as much: a smaller one is mostly a round trip."""

_Range: TypeAlias = tuple[int, int]
"""An offset and a length in bytes."""


@dataclass(frozen=True, slots=True)
class CopyBatch:
    """Ranges that one task copies, ascending, or makes zeros.

    chosen: by index of a range, the part of which a sample is taken.
    """

    ranges: RangeColumns
    size_bytes: int
    chosen: Mapping[int, ChosenSample] = field(default_factory=dict)
    is_zeroing: bool = False

    @property
    def start(self) -> int:
        """The first byte of the first range."""
        return int(self.ranges.offsets[0])

    @property
    def end(self) -> int:
        """The byte after the last range."""
        return int(self.ranges.offsets[-1] + self.ranges.lengths[-1])


@dataclass(frozen=True, slots=True)
class CopiedBatch:
    """A batch that was copied.

    digests: by index of a range, that of the chosen part. written_bytes: of the secondary.
    """

    batch: CopyBatch
    digests: Mapping[int, str]
    written_bytes: int


def batches_of_blocks(
    volume: Volume,
    blocks: BlockSet,
    samples: SampleTaker,
    batch_bytes: int,
    *,
    tapered_for: int | None = None,
) -> Iterator[CopyBatch]:
    """Yield the bytes of each run of blocks in batches of at most `batch_bytes` bytes.

    A longer run is cut at a block. A batch has a block at least.

    tapered_for: as many tasks copy at once. The batches become smaller towards the end, so that all
    tasks have something to do until shortly before it. None: no batch is smaller than it must be.
    """
    rest_bytes = len(blocks) * volume.block_size
    cut_bytes = batch_bytes if tapered_for is None else min(batch_bytes, _TAPERED_BYTES)
    step_bytes = max(1, cut_bytes // volume.block_size) * volume.block_size
    offsets = lengths = np.zeros(0, np.int64)  # of no batch yet
    for first_blocks, end_blocks in blocks.run_arrays():
        starts = first_blocks.astype(np.int64) * volume.block_size
        ends = np.minimum(end_blocks.astype(np.int64) * volume.block_size, volume.size_bytes)
        more = _cut_all(starts, ends - starts, step_bytes)
        offsets, lengths = np.concatenate((offsets, more[0])), np.concatenate((lengths, more[1]))
        before = np.concatenate(([0], np.cumsum(lengths)))
        first = 0
        while True:
            size_bytes = _tapered(batch_bytes, rest_bytes - int(before[first]), tapered_for)
            end = _batch_end(before, first, size_bytes)
            if end >= len(lengths):
                break
            yield _batch(offsets[first:end], lengths[first:end], samples)
            first = end
        rest_bytes -= int(before[first])
        offsets, lengths = offsets[first:], lengths[first:]
    if len(offsets):
        yield _batch(offsets, lengths, samples)


def batches_of(
    ranges: Iterable[_Range], samples: SampleTaker, batch_bytes: int
) -> Iterator[CopyBatch]:
    """Join ranges to batches of at most `batch_bytes` bytes, or of one range."""
    joined: list[_Range] = []
    size_bytes = 0
    for offset, length in ranges:
        if joined and (size_bytes + length > batch_bytes or len(joined) == _MAX_RANGES):
            yield _batch_of(joined, samples)
            joined, size_bytes = [], 0
        joined.append((offset, length))
        size_bytes += length
    if joined:
        yield _batch_of(joined, samples)


def zeroing_batches(samples: SampleTaker, *, start: int, end: int) -> Iterator[CopyBatch]:
    """Yield batches that make [start, end) zeros."""
    for offset, length in cut(start, end, _ZEROS_BYTES):
        chosen = samples.choose(offset=offset, length=length)
        ranges = RangeColumns.of([(offset, length)])
        yield CopyBatch(ranges, length, {} if chosen is None else {0: chosen}, is_zeroing=True)


def cut(start: int, end: int, most_bytes: int) -> Iterator[_Range]:
    """Yield the pieces of [start, end), of at most `most_bytes` bytes."""
    for offset in range(start, end, most_bytes):
        yield offset, min(most_bytes, end - offset)


def _tapered(batch_bytes: int, rest_bytes: int, tasks: int | None) -> int:
    """Return how many bytes the next batch has at most (guided self-scheduling).

    Each of the tasks takes half of its share of the rest.
    """
    if tasks is None:
        return batch_bytes
    return min(batch_bytes, max(_TAPERED_BYTES, rest_bytes // (2 * tasks)))


def _batch_end(before: Integers, first: int, batch_bytes: int) -> int:
    """Return the index after the last range of the batch that begins with range `first`.

    before: the bytes before each range, and of all.
    """
    end = int(np.searchsorted(before, int(before[first]) + batch_bytes, "right")) - 1
    return min(max(end, first + 1), first + _MAX_RANGES)


def _batch_of(ranges: list[_Range], samples: SampleTaker) -> CopyBatch:
    columns = RangeColumns.of(ranges)
    return _batch(columns.offsets, columns.lengths, samples)


def _batch(offsets: Integers, lengths: Integers, samples: SampleTaker) -> CopyBatch:
    ranges = RangeColumns.packed(offsets, lengths)
    chosen = {
        index: samples.part(place, offset=int(offsets[index]), length=int(lengths[index]))
        for index, place in samples.choose_of(len(ranges))
    }
    return CopyBatch(ranges, ranges.size_bytes, chosen)


def _cut_all(offsets: Integers, lengths: Integers, most_bytes: int) -> tuple[Integers, Integers]:
    """Cut the ranges that are longer into pieces of at most `most_bytes` bytes."""
    pieces = -(-lengths // most_bytes)
    if not len(pieces) or int(pieces.max()) == 1:
        return offsets, lengths
    of_range = np.repeat(np.arange(len(pieces)), pieces)
    before = (np.arange(len(of_range)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * most_bytes
    return offsets[of_range] + before, np.minimum(lengths[of_range] - before, most_bytes)
