"""Restoration: read blocks from the primary and write them to the secondary (invariant 9).

Ranges are copied in batches, several at once. The order keeps data safe (invariant 6):

1. The caller's thread takes the ranges in ascending order, joins them to batches of up to
   `batch_bytes` bytes, and hands these to the task runner. No two batches overlap, so it doesn't
   matter which of them is copied first. At most a fixed number is under way, which bounds memory.
   `pace` holds a batch back before it is read.
2. A task reads the ranges of its batch, and writes exactly these: the bytes that it read, or zeros
   if all bytes of a range are zero. Nothing outside of the ranges is written. It does that range by
   range, or for all at once where the secondary can (batched_writes.py). A writer that compares
   reads the secondary then, and writes only the blocks that differ (comparison.py).
3. Batches that are done are counted in ascending order. The secondary begins to write them to its
   storage, and `on_copied` is called. It raises BadUse if another process runs the site.
4. If a read, a write or `on_copied` raises, no further batch begins. Those under way come to their
   end, and then the error is raised. So nothing is read or written after run_batches has ended.
5. The secondary is flushed when all batches are done. It reports each write that failed behind an
   early start of its writing, too. Only then does run_batches return. Cycles in place flush several
   secondaries together instead, when it has returned (in_place_cycles.py).
6. The caller saves the applied position after that. Whatever ends the copy before repeats it whole.

copy_batches.py makes the batches. whole_copy.py has the copy of everything, chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, TypeAlias

from mirrorlog.consumers.range_reads import (
    CopySource,
    DeviceReader,
    PageMemory,
    has_whole_pages,
)
from mirrorlog.consumers.resync.batched_writes import BatchedWrites
from mirrorlog.consumers.resync.copy_batches import CopiedBatch, CopyBatch, batches_of_blocks
from mirrorlog.consumers.resync.copy_counts import CopyCounts
from mirrorlog.consumers.resync.samples import SampleTaker, sample_digest
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.devices import (
    BlockDevice,
    CopyTarget,
    Data,
    ReadsRange,
    StartsWriteback,
    WritesRanges,
    is_remote,
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
    remote_tasks: runs it if a side is on another machine, with more at once; None for `tasks`.
    remote_batches: how many batches `remote_tasks` copies at once.
    pace: called with the bytes of each batch before it is read. It waits, or raises.
    reads: returns what reads the primary. Several tasks call that at once.
    is_only_writer: nobody else writes to the secondary while it is copied.
    memory: of the batches.
    is_flushed_later: the caller flushes the secondary, before it claims anything of it.
    """

    batch_bytes: int
    samples: SampleTaker
    on_copied: OnCopied
    tasks: TaskRunner = field(default_factory=OneAtATime)
    remote_tasks: TaskRunner | None = None
    remote_batches: int = 1
    pace: Callable[[int], None] = lambda _: None
    reads: Callable[[BlockDevice], CopySource] = DeviceReader
    is_only_writer: bool = False
    memory: PageMemory = field(default_factory=PageMemory)
    is_flushed_later: bool = False


_DIRECT_BYTES: Final = 1 << 20
"""A smaller copy is written through the page cache: it costs one flush either way."""


class RangeWriter(Protocol):
    """Makes ranges of the secondary hold what was read from the primary.

    is_comparing: it reads the secondary, too, and writes only what differs.
    """

    is_comparing: bool

    def write(self, offset: int, data: Data) -> int:
        """Make the range hold `data`. Return how many bytes were written. Raise DeviceFailed."""
        ...

    def zero(self, offset: int, length: int) -> int:
        """Make the range zeros. Return how many bytes are to be counted as written."""
        ...


class PlainWriter:
    """Writes every range that it is given to `target`. Zeros are released where that is possible.

    What the primary hasn't allocated isn't counted as written.
    """

    is_comparing = False

    def __init__(self, target: CopyTarget) -> None:
        self._target: Final = target
        self._pwrite: Final = target.pwrite

    def write(self, offset: int, data: Data) -> int:
        """Do as RangeWriter.write says. A cycle calls it for each run of blocks."""
        length = len(data)
        if data[0] or bytes(length) != data:
            self._pwrite(offset, data)
        else:
            self._target.zero(offset=offset, length=length)
        return length

    def zero(self, offset: int, length: int) -> int:
        """Do as RangeWriter.zero says."""
        self._target.zero(offset=offset, length=length)
        return 0


def restore_changed(
    primary: BlockDevice,
    secondary: CopyTarget,
    volume: Volume,
    blocks: BlockSet,
    plan: CopyPlan,
) -> Copied:
    """Copy `blocks`. They are durable on the secondary when it returns, if that is a device.

    With `plan.is_flushed_later` they are durable after the next flush. Raise DeviceFailed, or what
    `plan.on_copied` raises.
    """
    batches = batches_of_blocks(
        volume,
        blocks,
        plan.samples,
        plan.batch_bytes,
        tapered_for=plan.remote_batches if copies_far(primary, secondary, plan) else None,
    )
    writer = PlainWriter(secondary)
    is_large = len(blocks) * volume.block_size >= _DIRECT_BYTES
    is_only_writer = is_large and plan.is_only_writer and has_whole_pages(volume)
    copy = batched_copy(primary, secondary, plan, is_only_writer=is_only_writer)
    copied_bytes = run_batches(primary, secondary, volume, plan, batches, writer, copy)
    return Copied(Rung.CHANGED, len(blocks), copied_bytes)


def batched_copy(
    primary: BlockDevice, secondary: CopyTarget, plan: CopyPlan, *, is_only_writer: bool
) -> Callable[[CopyBatch], CopiedBatch] | None:
    """Return what copies all ranges of a batch at once; None if the secondary can't do that.

    is_only_writer: as WritesRanges.pwrite_ranges says.
    """
    if not isinstance(secondary, WritesRanges):
        return None
    writes = BatchedWrites(secondary, secondary, plan.memory, is_only_writer=is_only_writer)
    return partial(writes.copy, plan.reads(primary).pread_ranges)


def copies_far(primary: BlockDevice, secondary: CopyTarget, plan: CopyPlan) -> bool:
    """Return whether `plan.remote_tasks` copy."""
    return plan.remote_tasks is not None and (is_remote(primary) or is_remote(secondary))


def bytes_to_copy(
    primary: BlockDevice,
    volume: Volume,
    blocks: BlockSet | None,
    may_go_on: Callable[[], bool],
    begin: int = 0,
) -> int | None:
    """Return how many bytes restore_changed copies of `blocks`, or copy_whole if it is None.

    begin: the first byte that copy_whole copies.
    It is an estimate: more may be allocated meanwhile, and the volume's last block may be short.
    Return None if `may_go_on` returns False before all that is allocated is known.
    """
    if blocks is not None:
        return len(blocks) * volume.block_size
    total_bytes = 0
    for _, length in allocated_block_ranges(primary, volume, begin):
        if not may_go_on():
            return None
        total_bytes += length
    return total_bytes


def allocated_block_ranges(
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


def run_batches(
    primary: BlockDevice,
    secondary: CopyTarget,
    volume: Volume,
    plan: CopyPlan,
    batches: Iterable[CopyBatch],
    writer: RangeWriter,
    copy: Callable[[CopyBatch], CopiedBatch] | None = None,
) -> int:
    """Run the batches in the order that the top of this file describes; return the bytes read.

    writer: of the secondary. copy: copies a batch; None: `writer` does it range by range.
    """
    copy = copy or partial(_copy, plan.reads(primary).pread, writer)
    copied_bytes = 0

    def on_done(done: CopiedBatch) -> None:
        nonlocal copied_bytes
        batch = done.batch
        for index, digest in done.digests.items():
            plan.samples.take(batch.chosen[index], digest)
        if isinstance(secondary, StartsWriteback) and not batch.is_zeroing:
            secondary.start_writeback(offset=batch.start, length=batch.end - batch.start)
        counts = _counts(done, volume.block_size, is_compared=writer.is_comparing)
        copied_bytes += counts.read_bytes
        plan.on_copied(counts)

    def copies() -> Iterator[Callable[[], CopiedBatch]]:
        for batch in batches:
            if not batch.is_zeroing:
                plan.pace(batch.size_bytes)
            yield partial(_zero, batch, writer) if batch.is_zeroing else partial(copy, batch)

    tasks = plan.tasks
    if copies_far(primary, secondary, plan):
        assert plan.remote_tasks is not None
        tasks = plan.remote_tasks
    tasks.run(copies(), on_done)
    if not plan.is_flushed_later:
        secondary.flush()
    return copied_bytes


def _counts(done: CopiedBatch, block_size: int, *, is_compared: bool) -> CopyCounts:
    """Return what became of a batch. Only the volume's last block may be shorter than others."""
    read_bytes = 0 if done.batch.is_zeroing else done.batch.size_bytes
    compared_bytes = read_bytes if is_compared else 0
    return CopyCounts(
        blocks=-(-done.written_bytes // block_size),
        read_bytes=read_bytes,
        written_bytes=done.written_bytes,
        compared_bytes=compared_bytes,
        equal_bytes=max(0, compared_bytes - done.written_bytes),
    )


def _copy(pread: ReadsRange, writer: RangeWriter, batch: CopyBatch) -> CopiedBatch:
    """Copy the ranges of a batch."""
    digests = {}
    written_bytes = 0
    write = writer.write
    for index, (offset, length, _) in enumerate(batch.ranges):
        data = pread(offset=offset, length=length)
        written_bytes += write(offset, data)
        if index in batch.chosen:
            _, start, size = batch.chosen[index]
            digests[index] = sample_digest(memoryview(data)[start - offset : start - offset + size])
    return CopiedBatch(batch, digests, written_bytes)


def _zero(batch: CopyBatch, writer: RangeWriter) -> CopiedBatch:
    """Make the ranges of a batch zeros."""
    written_bytes = sum(writer.zero(offset, length) for offset, length, _ in batch.ranges)
    digests = {index: sample_digest(bytes(part.length)) for index, part in batch.chosen.items()}
    return CopiedBatch(batch, digests, written_bytes)
