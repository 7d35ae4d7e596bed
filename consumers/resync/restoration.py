"""Restoration: read blocks from the primary and write them to the secondary (invariant 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from mirrorlog.consumers.resync.samples import SampleTaker
from mirrorlog.domain.bitmaps import BlockSet, runs
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.devices import BlockDevice


@dataclass(frozen=True, slots=True)
class Copied:
    """The amount that a restoration copied, and the rung that it really took."""

    rung: Rung
    blocks: int
    bytes: int


OnCopied: TypeAlias = Callable[[int, int], None]
"""Called with (blocks, bytes) after each run of blocks."""


def restore_changed(
    primary: BlockDevice,
    secondary: BlockDevice,
    volume: Volume,
    blocks: BlockSet,
    run_bytes: int,
    samples: SampleTaker,
    on_copied: OnCopied,
) -> Copied:
    """Copy `blocks`, in runs of up to `run_bytes` bytes.

    The caller, Site._copy, flushes the secondary: nothing is durable before that. `samples` takes
    samples of what is written.
    """
    max_blocks = max(1, run_bytes // volume.block_size)
    total_bytes = 0
    for first, count in runs(blocks, max_blocks=max_blocks):
        offset, length = volume.byte_range(first=first, count=count)
        _copy(primary, secondary, samples, offset=offset, length=length)
        total_bytes += length
        on_copied(count, length)
    return Copied(Rung.CHANGED, len(blocks), total_bytes)


def restore_all(
    primary: BlockDevice,
    secondary: BlockDevice,
    volume: Volume,
    run_bytes: int,
    samples: SampleTaker,
    on_copied: OnCopied,
) -> Copied:
    """Copy what the primary has allocated, and zero the rest, in runs of up to `run_bytes` bytes.

    The rung of the result is FULL if the primary can't tell what it has allocated. The caller
    flushes the secondary.
    """
    total_blocks = total_bytes = 0
    reached = 0
    is_whole = False
    for offset, length in _allocated_block_ranges(primary, volume):
        is_whole = length == volume.size_bytes
        if offset > reached:
            _zero(secondary, samples, offset=reached, length=offset - reached)
        for start in range(offset, offset + length, run_bytes):
            size_bytes = min(run_bytes, offset + length - start)
            _copy(primary, secondary, samples, offset=start, length=size_bytes)
            count = -(-size_bytes // volume.block_size)
            total_blocks, total_bytes = total_blocks + count, total_bytes + size_bytes
            on_copied(count, size_bytes)
        reached = offset + length
    if reached < volume.size_bytes:
        _zero(secondary, samples, offset=reached, length=volume.size_bytes - reached)
    return Copied(Rung.FULL if is_whole else Rung.ALLOCATED, total_blocks, total_bytes)


def bytes_to_copy(
    primary: BlockDevice,
    volume: Volume,
    blocks: BlockSet | None,
    may_go_on: Callable[[], bool],
) -> int | None:
    """Return how many bytes restore_changed copies of `blocks`, or restore_all if it is None.

    It is an estimate: more may be allocated meanwhile, and the volume's last block may be short.
    Return None if `may_go_on` returns False before all that is allocated is known.
    """
    if blocks is not None:
        return len(blocks) * volume.block_size
    total_bytes = 0
    for _, length in _allocated_block_ranges(primary, volume):
        if not may_go_on():
            return None
        total_bytes += length
    return total_bytes


def _allocated_block_ranges(primary: BlockDevice, volume: Volume) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the allocated ranges, rounded outwards to blocks (invariant 4).

    Ranges that touch after the rounding are joined.
    """
    start = end = 0
    for offset, length in primary.allocated():
        first = offset // volume.block_size * volume.block_size
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


def _copy(
    primary: BlockDevice,
    secondary: BlockDevice,
    samples: SampleTaker,
    *,
    offset: int,
    length: int,
) -> None:
    data = primary.pread(offset=offset, length=length)
    if bytes(length) == data:
        _zero(secondary, samples, offset=offset, length=length)
    else:
        secondary.pwrite(offset, data)
        samples.note_written(offset, data)


def _zero(secondary: BlockDevice, samples: SampleTaker, *, offset: int, length: int) -> None:
    secondary.zero(offset=offset, length=length)
    samples.note_zeroed(offset=offset, length=length)
