"""The copy of everything that a primary has allocated, in chunks that a later start goes on behind.

Each chunk goes through the steps 1 to 5 of restoration.py, and then `on_chunk` is called: the
caller saves how far the secondary is durable, and a later copy begins there
(docs/decisions/resumable-copies.md).

A copy may compare (docs/decisions/seeds.md): it writes only the blocks that differ. If `differing`
is given, a process beside the primary hashes each chunk first, and only the ranges whose digests
differ are read from the primary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from mirrorlog.consumers.resync.comparison import ComparingWriter
from mirrorlog.consumers.resync.copy_batches import CopyBatch, batches_of, cut, zeroing_batches
from mirrorlog.consumers.resync.copy_counts import CopyCounts
from mirrorlog.consumers.resync.restoration import (
    Copied,
    CopyPlan,
    PlainWriter,
    RangeWriter,
    allocated_block_ranges,
    batched_copy,
    copies_far,
    run_batches,
)
from mirrorlog.consumers.resync.samples import sample_digest
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.devices import BlockDevice, ForgetsCache

DifferingRanges: TypeAlias = Callable[[BlockDevice, Sequence[tuple[int, int]]], Sequence[bool]]
"""Returns, for each range (offset, length) of the secondary, whether the primary's may differ.

False proves that both held the same bytes at some time after the call. Raise DeviceFailed."""

_ZERO_COST_BYTES: Final = 1 << 20
_DIGEST_BYTES: Final = 256 << 10
"""The bytes of a range that is hashed. A block that differs costs as much on the line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeCopy:
    """Where a copy of everything begins, how it writes, and where it notes that it is durable.

    begin: the first byte to copy. chunk_bytes: of the data in a chunk, at least.
    is_chunk_over: asked after each batch whether the chunk ends there already.
    on_chunk: called with the byte up to which the secondary is durable, unless that is the end.
    is_comparing: the secondary is read, too, and only what differs is written.
    differing: asks for digests first; None to read all of the primary.
    """

    begin: int
    chunk_bytes: int
    on_chunk: Callable[[int], None]
    is_chunk_over: Callable[[], bool] = lambda: False
    is_comparing: bool = False
    differing: DifferingRanges | None = None


def copy_whole(
    primary: BlockDevice,
    secondary: BlockDevice,
    volume: Volume,
    plan: CopyPlan,
    copy: WholeCopy,
) -> Copied | None:
    """Copy a chunk of what the primary has allocated from `copy.begin` on, and zero the rest there.

    The rest isn't read. All of the chunk is durable on the secondary when it returns. The rung of
    the result is FULL if the primary can't tell what it has allocated. Return None if more is to be
    copied behind the chunk. Raise DeviceFailed, or what `plan.on_copied` and `copy.on_chunk` raise.
    """
    is_whole = False
    blocks = 0
    range_bytes = plan.batch_bytes
    if copy.differing is not None:
        range_bytes = min(range_bytes, _DIGEST_BYTES)

    def batches() -> Iterator[CopyBatch]:
        nonlocal is_whole, blocks
        reached = copy.begin
        for offset, length in allocated_block_ranges(primary, volume, copy.begin):
            is_whole = (offset, length) == (copy.begin, volume.size_bytes - copy.begin)
            yield from zeroing_batches(plan.samples, start=reached, end=offset)
            ranges = cut(offset, offset + length, range_bytes)
            for batch in batches_of(ranges, plan.samples, plan.batch_bytes):
                blocks += -(-batch.size_bytes // volume.block_size)
                yield batch
            reached = offset + length
        yield from zeroing_batches(plan.samples, start=reached, end=volume.size_bytes)

    if copy.is_comparing and isinstance(secondary, ForgetsCache):
        secondary.forget_cached()
    writer: RangeWriter = PlainWriter(secondary)
    if copy.is_comparing:
        writer = ComparingWriter(secondary, volume.block_size)
    all_batches = batches()
    chunk = _Chunk(all_batches, copy.chunk_bytes, copy.is_chunk_over)
    to_copy = chunk if copy.differing is None else _differing(secondary, plan, copy, chunk)
    copy_batch = None
    if not copy.is_comparing and copies_far(primary, secondary, plan):
        copy_batch = batched_copy(primary, secondary, plan, is_only_writer=False)
    copied_bytes = run_batches(primary, secondary, volume, plan, to_copy, writer, copy_batch)
    if next(all_batches, None) is not None:
        copy.on_chunk(chunk.end)
        return None
    return Copied(Rung.FULL if is_whole else Rung.ALLOCATED, blocks, copied_bytes)


class _Chunk:
    """Batches of one chunk: the next ones of `batches`, until there are `size_bytes` bytes.

    It ends before that if `is_over` returns True.

    A batch that zeroes counts as one of _ZERO_COST_BYTES. end: the byte after the last batch that
    was taken.
    """

    def __init__(
        self, batches: Iterator[CopyBatch], size_bytes: int, is_over: Callable[[], bool]
    ) -> None:
        self._batches, self._left_bytes, self._is_over = batches, size_bytes, is_over
        self.end = 0

    def __iter__(self) -> Iterator[CopyBatch]:
        for batch in self._batches:
            self.end = batch.end
            yield batch
            self._left_bytes -= _ZERO_COST_BYTES if batch.is_zeroing else batch.size_bytes
            if self._left_bytes <= 0 or self._is_over():
                return


def _differing(
    secondary: BlockDevice, plan: CopyPlan, copy: WholeCopy, chunk: _Chunk
) -> list[CopyBatch]:
    """Return the batches of a chunk that are still to be copied, by digests of both sides.

    A sample of what is equal is taken from the secondary.
    """
    assert copy.differing is not None
    batches = list(chunk)
    read = [batch for batch in batches if not batch.is_zeroing]
    ranges = [(offset, length) for batch in read for offset, length, _ in batch.ranges]
    differs = iter(copy.differing(secondary, ranges) if ranges else ())
    equal_bytes = 0
    left: list[tuple[int, int]] = []
    for batch in read:
        for index, (offset, length, _) in enumerate(batch.ranges):
            if next(differs):
                left.append((offset, length))
                continue
            equal_bytes += length
            if (chosen := batch.chosen.get(index)) is not None:
                held = secondary.pread(offset=chosen.offset, length=chosen.length)
                plan.samples.take(chosen, sample_digest(held))
    plan.on_copied(CopyCounts(compared_bytes=equal_bytes, equal_bytes=equal_bytes))
    to_copy = batches_of(left, plan.samples, plan.batch_bytes)
    return [*to_copy, *(batch for batch in batches if batch.is_zeroing)]
