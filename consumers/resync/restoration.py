"""Restoration: the blocks that a step names are read from the primary and written to the secondary (invariant 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mirrorlog.domain.bitmaps import BitMap64, runs
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.devices import BlockDevice


@dataclass(frozen=True, slots=True)
class Copied:
    """What a restoration copied, and the rung it really was."""

    rung: Rung
    blocks: int
    bytes: int


Progress = Callable[[int, int], None]
"""Called with (blocks, bytes) after each run."""


def restore_changed(
    primary: BlockDevice,
    secondary: BlockDevice,
    volume: Volume,
    blocks: BitMap64,
    run_bytes: int,
    progress: Progress,
) -> Copied:
    """Copies `blocks`, in runs of up to `run_bytes`. Nothing is durable before the secondary is flushed."""
    most = max(1, run_bytes // volume.block_size)
    total = 0
    for first, count in runs(blocks, max_blocks=most):
        offset, length = volume.byte_range(first=first, count=count)
        _copy(primary, secondary, offset, length)
        total += length
        progress(count, length)
    return Copied(Rung.CHANGED, len(blocks), total)


def restore_all(
    primary: BlockDevice, secondary: BlockDevice, volume: Volume, run_bytes: int, progress: Progress
) -> Copied:
    """Copies what the primary says it holds and zeroes the rest; `full` where the primary can't tell them apart."""
    blocks = total = 0
    reach = 0
    whole = False
    for offset, length in _block_ranges(primary, volume):
        whole = length == volume.size_bytes
        if offset > reach:
            secondary.zero(offset=reach, length=offset - reach)
        for start in range(offset, offset + length, run_bytes):
            size = min(run_bytes, offset + length - start)
            _copy(primary, secondary, start, size)
            count = -(-size // volume.block_size)
            blocks, total = blocks + count, total + size
            progress(count, size)
        reach = offset + length
    if reach < volume.size_bytes:
        secondary.zero(offset=reach, length=volume.size_bytes - reach)
    return Copied(Rung.FULL if whole else Rung.ALLOCATED, blocks, total)


def _block_ranges(primary: BlockDevice, volume: Volume) -> Iterator[tuple[int, int]]:
    """Allocated ranges rounded outwards to blocks and joined where they then touch (invariant 4)."""
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


def _copy(primary: BlockDevice, secondary: BlockDevice, offset: int, length: int) -> None:
    data = primary.pread(offset=offset, length=length)
    if bytes(length) == data:
        secondary.zero(offset=offset, length=length)
    else:
        secondary.pwrite(offset, data)
