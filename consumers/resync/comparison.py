"""Comparison of a secondary with what was read from its primary: only what differs is written.

The site has the bytes of both sides, so it compares these, and no digests of them
(docs/decisions/seeds.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from mirrorlog.ports.devices import BlockDevice, Data

_AT_ONCE_BYTES: Final = 1 << 20
"""As much of a range that must be zeros is read at a time."""


class ComparingWriter:
    """A RangeWriter of a secondary (restoration.py) that writes only blocks that differ."""

    is_comparing = True

    def __init__(self, secondary: BlockDevice, block_size: int) -> None:
        self._secondary: Final = secondary
        self._block_size: Final = block_size

    def write(self, offset: int, data: Data) -> int:
        """Do as write_differing says."""
        return write_differing(self._secondary, offset, data, self._block_size)

    def zero(self, offset: int, length: int) -> int:
        """Do as zero_differing says."""
        return zero_differing(
            self._secondary, offset=offset, length=length, block_size=self._block_size
        )


def write_differing(secondary: BlockDevice, offset: int, data: Data, block_size: int) -> int:
    """Make the range at `offset` hold `data`; write only its blocks that differ.

    Return how many bytes were written. The next flush() makes them durable.
    """
    held = secondary.pread(offset=offset, length=len(data))
    if held == data:
        return 0
    written_bytes = 0
    for start, end in _differing_runs(data, held, offset, block_size):
        part = memoryview(data)[start:end]
        if part == bytes(len(part)):
            secondary.zero(offset=offset + start, length=end - start)
        else:
            secondary.pwrite(offset + start, part)
        written_bytes += end - start
    return written_bytes


def zero_differing(secondary: BlockDevice, *, offset: int, length: int, block_size: int) -> int:
    """Make the range read as zeros; write only its blocks that don't.

    What the secondary hasn't allocated isn't read. Return how many bytes were zeroed. The next
    flush() makes that durable.
    """
    zeroed_bytes = 0
    for start, size in _allocated_pieces(secondary, offset, offset + length):
        held = secondary.pread(offset=start, length=size)
        zeros = bytes(size)
        if held == zeros:
            continue
        for run_start, run_end in _differing_runs(zeros, held, start, block_size):
            secondary.zero(offset=start + run_start, length=run_end - run_start)
            zeroed_bytes += run_end - run_start
    return zeroed_bytes


def _allocated_pieces(device: BlockDevice, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of what the device has allocated in [start, end), in small pieces."""
    for offset, length in device.allocated(start):
        if offset >= end:
            return
        last = min(offset + length, end)
        for piece in range(max(offset, start), last, _AT_ONCE_BYTES):
            yield piece, min(_AT_ONCE_BYTES, last - piece)


def _differing_runs(
    data: Data, held: Data, offset: int, block_size: int
) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the runs of blocks in which two ranges at `offset` differ.

    Both have the same length. start, end: bytes from the beginning of the ranges.
    """
    differs = np.frombuffer(data, np.uint8) != np.frombuffer(held, np.uint8)
    first = block_size - offset % block_size
    starts = np.concatenate(([0], np.arange(first, len(differs), block_size)))
    changed = np.logical_or.reduceat(differs, starts)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], changed.view(np.int8), [0]))))
    ends = np.append(starts, len(differs))
    for begin, after in edges.reshape(-1, 2).tolist():
        yield int(ends[begin]), int(ends[after])
