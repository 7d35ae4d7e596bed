"""Restoration: read blocks from the primary and write them to the secondary (invariant 9).

Ranges are copied in batches, several at once. The order keeps data safe (invariant 6):

1. The caller's thread takes the ranges in ascending order, joins them to batches of up to
   `batch_bytes` bytes, and hands these to the task runner. No two batches overlap, so it doesn't
   matter which of them is copied first. At most a fixed number is under way, which bounds memory.
   `pace` holds a batch back before it is read.
2. A task reads each range of its batch, and writes exactly that range: the bytes that it read, or
   zeros if all of them are zero. Nothing outside of the ranges is written. If the plan compares,
   the task reads the secondary after the primary, and writes only the blocks that differ.
3. Batches that are done are counted in ascending order. The secondary begins to write them to its
   storage, and `on_copied` is called. It raises BadUse if another process runs the site.
4. If a read, a write or `on_copied` raises, no further batch begins. Those under way come to their
   end, and then the error is raised. So nothing is read or written after restore_* has ended.
5. The secondary is flushed when all batches are done. It reports each write that failed behind an
   early start of its writing, too. Only then does restore_* return.
6. The caller saves the applied position after that. Whatever ends the copy before repeats it whole.

A copy of everything goes through the steps 1 to 5 chunk by chunk, and calls `on_chunk` after each:
the caller saves how far the secondary is durable, and a later copy begins there
(docs/decisions/resumable-copies.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Final, TypeAlias, cast

import numpy as np

from mirrorlog.consumers.resync.comparison import write_differing, zero_differing
from mirrorlog.consumers.resync.copy_counts import CopyCounts
from mirrorlog.consumers.resync.samples import ChosenSample, SampleTaker, sample_digest
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.devices import (
    BlockDevice,
    CopyTarget,
    Data,
    ForgetsCache,
    StartsWriteback,
)
from mirrorlog.ports.task_runner import OneAtATime, TaskRunner


@dataclass(frozen=True, slots=True)
class Copied:
    """The amount that a restoration read from the primary, and the rung that it really took."""

    rung: Rung
    blocks: int
    bytes: int


OnCopied: TypeAlias = Callable[[CopyCounts], None]
"""Called with each batch that was copied, in ascending order, in the caller's thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPlan:
    """How a restoration copies.

    batch_bytes: the most that one task reads and writes at a time.
    samples: takes samples of what is written.
    tasks: runs the copying of the batches.
    pace: called with the bytes of each batch before it is read. It waits, or raises.
    is_comparing: the secondary is read, too, and only what differs is written (comparison.py).
    """

    batch_bytes: int
    samples: SampleTaker
    on_copied: OnCopied
    tasks: TaskRunner = field(default_factory=OneAtATime)
    pace: Callable[[int], None] = lambda _: None
    is_comparing: bool = False


@dataclass(frozen=True, slots=True)
class Chunks:
    """Where a copy of everything begins, and where it notes that it is durable.

    begin: the first byte to copy. size_bytes: of the data in a chunk, at least.
    on_chunk: called with the byte up to which the secondary is durable, after each chunk but the
        last.
    """

    begin: int
    size_bytes: int
    on_chunk: Callable[[int], None]


_MAX_RANGES: Final = 1024
"""A batch has at most that many ranges, so that what a range costs beside its bytes is bounded."""

_ZEROS_BYTES: Final = 256 << 20
"""As much is zeroed between two calls of on_copied: a device that can't punch holes writes it."""

_ZERO_COST_BYTES: Final = 1 << 20

_Range: TypeAlias = tuple[int, int]
"""An offset and a length in bytes."""


@dataclass(slots=True)
class _Batch:
    """Ranges that one task copies, ascending, or makes zeros.

    chosen: by index of a range, the part of which a sample is taken.
    """

    is_zeroing: bool = False
    ranges: list[_Range] = field(default_factory=list)
    size_bytes: int = 0
    chosen: dict[int, ChosenSample] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Done:
    """A batch that was copied.

    digests: by index of a range, that of the chosen part. differing_bytes: of a batch that was
    compared, those that were written; None if it wasn't compared.
    """

    batch: _Batch
    digests: Mapping[int, str]
    differing_bytes: int | None = None


def restore_changed(
    primary: BlockDevice,
    secondary: CopyTarget,
    volume: Volume,
    blocks: BlockSet,
    plan: CopyPlan,
) -> Copied:
    """Copy `blocks`. They are durable on the secondary when it returns, if that is a device.

    Raise DeviceFailed, or what `plan.on_copied` raises.
    """
    ranges = _ranges_of(volume, blocks, plan.batch_bytes)
    copied_bytes = _run(primary, secondary, volume, plan, _batches(ranges, plan))
    return Copied(Rung.CHANGED, len(blocks), copied_bytes)


def restore_all(
    primary: BlockDevice,
    secondary: BlockDevice,
    volume: Volume,
    plan: CopyPlan,
    chunks: Chunks,
) -> Copied:
    """Copy what the primary has allocated from `chunks.begin` on, and zero the rest.

    The rest isn't read. All of it is durable on the secondary when it returns. The rung of the
    result is FULL if the primary can't tell what it has allocated. Raise DeviceFailed, or what
    `plan.on_copied` and `chunks.on_chunk` raise.
    """
    is_whole = False
    blocks = 0

    def batches() -> Iterator[_Batch]:
        nonlocal is_whole, blocks
        reached = chunks.begin
        for offset, length in _allocated_block_ranges(primary, volume, chunks.begin):
            is_whole = (offset, length) == (chunks.begin, volume.size_bytes - chunks.begin)
            yield from _zeroing(plan, start=reached, end=offset)
            for batch in _batches(_cut(offset, offset + length, plan.batch_bytes), plan):
                blocks += -(-batch.size_bytes // volume.block_size)
                yield batch
            reached = offset + length
        yield from _zeroing(plan, start=reached, end=volume.size_bytes)

    if plan.is_comparing and isinstance(secondary, ForgetsCache):
        secondary.forget_cached()
    copied_bytes = 0
    rest = batches()
    batch = next(rest, None)
    while batch is not None:
        chunk = _Chunk(batch, rest, chunks.size_bytes)
        copied_bytes += _run(primary, secondary, volume, plan, chunk)
        batch = next(rest, None)
        if batch is not None:
            chunks.on_chunk(chunk.end)
    return Copied(Rung.FULL if is_whole else Rung.ALLOCATED, blocks, copied_bytes)


class _Chunk:
    """Batches of one chunk: `first`, and those of `rest` until there are `size_bytes` bytes.

    A batch that zeroes counts as one of _ZERO_COST_BYTES. end: the byte after the last batch that
    was taken.
    """

    def __init__(self, first: _Batch, rest: Iterator[_Batch], size_bytes: int) -> None:
        self._first, self._rest, self._left_bytes = first, rest, size_bytes
        self.end = 0

    def __iter__(self) -> Iterator[_Batch]:
        for batch in chain([self._first], self._rest):
            offset, length = batch.ranges[-1]
            self.end = offset + length
            yield batch
            self._left_bytes -= _ZERO_COST_BYTES if batch.is_zeroing else batch.size_bytes
            if self._left_bytes <= 0:
                return


def bytes_to_copy(
    primary: BlockDevice,
    volume: Volume,
    blocks: BlockSet | None,
    may_go_on: Callable[[], bool],
    begin: int = 0,
) -> int | None:
    """Return how many bytes restore_changed copies of `blocks`, or restore_all if it is None.

    begin: the first byte that restore_all copies.
    It is an estimate: more may be allocated meanwhile, and the volume's last block may be short.
    Return None if `may_go_on` returns False before all that is allocated is known.
    """
    if blocks is not None:
        return len(blocks) * volume.block_size
    total_bytes = 0
    for _, length in _allocated_block_ranges(primary, volume, begin):
        if not may_go_on():
            return None
        total_bytes += length
    return total_bytes


def _allocated_block_ranges(
    primary: BlockDevice, volume: Volume, begin: int
) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the allocated ranges, rounded outwards to blocks (invariant 4).

    begin: the first byte that counts. Ranges that touch after the rounding are joined.
    """
    start = end = begin
    for offset, length in primary.allocated(begin):
        first = max(begin, offset // volume.block_size * volume.block_size)
        last = min(
            -(-(offset + length) // volume.block_size) * volume.block_size, volume.size_bytes
        )
        if first > end:
            if end > start:
                yield start, end - start
            start = first
        end = max(end, last)
    if end > start:
        yield start, end - start


def _ranges_of(volume: Volume, blocks: BlockSet, most_bytes: int) -> Iterator[_Range]:
    """Yield the bytes of each run of blocks, cut into ranges of at most `most_bytes` bytes.

    A range has a block at least, and it ends at the volume's end at the latest.
    """
    size = volume.block_size
    step_bytes = max(1, most_bytes // size) * size
    for first_blocks, end_blocks in blocks.run_arrays():
        starts = first_blocks.astype(np.int64) * size
        ends = np.minimum(end_blocks.astype(np.int64) * size, volume.size_bytes)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            if end - start <= step_bytes:
                yield start, end - start
            else:
                yield from _cut(start, end, step_bytes)


def _cut(start: int, end: int, most_bytes: int) -> Iterator[_Range]:
    """Yield the pieces of [start, end), of at most `most_bytes` bytes."""
    for offset in range(start, end, most_bytes):
        yield offset, min(most_bytes, end - offset)


def _batches(ranges: Iterable[_Range], plan: CopyPlan) -> Iterator[_Batch]:
    """Join ranges to batches of at most `plan.batch_bytes` bytes, or of one range."""
    batch = _Batch()
    choose = plan.samples.choose
    for offset, length in ranges:
        is_full = batch.size_bytes + length > plan.batch_bytes or len(batch.ranges) == _MAX_RANGES
        if is_full and batch.ranges:
            yield batch
            batch = _Batch()
        chosen = choose(offset=offset, length=length)
        if chosen is not None:
            batch.chosen[len(batch.ranges)] = chosen
        batch.ranges.append((offset, length))
        batch.size_bytes += length
    if batch.ranges:
        yield batch


def _zeroing(plan: CopyPlan, *, start: int, end: int) -> Iterator[_Batch]:
    """Yield batches that make [start, end) zeros."""
    for offset, length in _cut(start, end, _ZEROS_BYTES):
        chosen = plan.samples.choose(offset=offset, length=length)
        yield _Batch(True, [(offset, length)], length, {} if chosen is None else {0: chosen})


def _run(
    primary: BlockDevice,
    secondary: CopyTarget,
    volume: Volume,
    plan: CopyPlan,
    batches: Iterable[_Batch],
) -> int:
    """Run the batches in the order that the top of this file describes; return the bytes copied."""
    copied_bytes = 0

    def on_done(done: _Done) -> None:
        nonlocal copied_bytes
        batch = done.batch
        for index, digest in done.digests.items():
            plan.samples.take(batch.chosen[index], digest)
        if isinstance(secondary, StartsWriteback) and not batch.is_zeroing:
            first, last = batch.ranges[0], batch.ranges[-1]
            secondary.start_writeback(offset=first[0], length=last[0] + last[1] - first[0])
        counts = _counts(done, volume.block_size)
        copied_bytes += counts.read_bytes
        plan.on_copied(counts)

    compared_block_size = volume.block_size if plan.is_comparing else None
    # Only restore_all() compares, and it has a device: nothing else is read of the secondary.
    target = cast("BlockDevice", secondary)

    def copies() -> Iterator[Callable[[], _Done]]:
        for batch in batches:
            if not batch.is_zeroing:
                plan.pace(batch.size_bytes)
            task = _zero if batch.is_zeroing else _copy
            yield partial(task, primary, target, batch, compared_block_size)

    plan.tasks.run(copies(), on_done)
    secondary.flush()
    return copied_bytes


def _counts(done: _Done, block_size: int) -> CopyCounts:
    """Return what became of a batch. Only the volume's last block may be shorter than others."""
    batch, differing = done.batch, done.differing_bytes
    read_bytes = 0 if batch.is_zeroing else batch.size_bytes
    written_bytes = read_bytes if differing is None else differing
    return CopyCounts(
        blocks=-(-written_bytes // block_size),
        read_bytes=read_bytes,
        written_bytes=written_bytes,
        compared_bytes=0 if differing is None else read_bytes,
        equal_bytes=0 if differing is None or batch.is_zeroing else read_bytes - differing,
    )


def _copy(
    primary: BlockDevice, secondary: BlockDevice, batch: _Batch, compared_block_size: int | None
) -> _Done:
    """Copy the ranges of a batch.

    compared_block_size: write only the blocks of this size that differ; None: write all.
    """
    digests = {}
    differing_bytes = 0
    pread, pwrite = primary.pread, secondary.pwrite
    for index, (offset, length) in enumerate(batch.ranges):
        data = pread(offset=offset, length=length)
        if compared_block_size is not None:
            differing_bytes += write_differing(secondary, offset, data, compared_block_size)
        elif _is_zeros(data, length):
            secondary.zero(offset=offset, length=length)
        else:
            pwrite(offset, data)
        if index in batch.chosen:
            _, start, size = batch.chosen[index]
            digests[index] = sample_digest(memoryview(data)[start - offset : start - offset + size])
    return _Done(batch, digests, None if compared_block_size is None else differing_bytes)


def _zero(
    _primary: BlockDevice, secondary: BlockDevice, batch: _Batch, compared_block_size: int | None
) -> _Done:
    """Make the ranges of a batch zeros. compared_block_size: as in _copy."""
    digests = {index: sample_digest(bytes(part.length)) for index, part in batch.chosen.items()}
    if compared_block_size is None:
        for offset, length in batch.ranges:
            secondary.zero(offset=offset, length=length)
        return _Done(batch, digests)
    differing_bytes = sum(
        zero_differing(secondary, offset=offset, length=length, block_size=compared_block_size)
        for offset, length in batch.ranges
    )
    return _Done(batch, digests, differing_bytes)


def _is_zeros(data: Data, length: int) -> bool:
    return not data[0] and bytes(length) == data
