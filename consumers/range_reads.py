"""Memory for batches of ranges, and reading and zeroing them on any device."""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

import numpy as np

from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.devices import BlockDevice, CopyTarget, Data, ReadsRanges, ZeroesRanges

_PAGE_BYTES: Final = 4096
_HUGE_PAGE_BYTES: Final = 2 << 20
"""The size of a huge page where a page has 4 KiB. Elsewhere it is merely an alignment."""
_KEPT_PIECES: Final = 16
"""As many as there are batches under way to or from another machine."""
_MADVISE_HUGE: Final = getattr(mmap, "MADV_HUGEPAGE", None)


class PageMemory:
    """Lends pieces of memory that begin at a page, to any number of threads.

    A few pieces are kept for the next callers. Large ones are of huge pages where the system has
    them: a range of them is one segment for the storage instead of one for each page.
    """

    def __init__(self) -> None:
        self._idle: Final[deque[memoryview]] = deque(maxlen=_KEPT_PIECES)

    @contextmanager
    def lent(self, size_bytes: int) -> Iterator[memoryview]:
        """Lend a piece of at least `size_bytes` bytes, one or more, to the calling thread."""
        try:
            memory = self._idle.pop()
        except IndexError:
            memory = None
        if memory is None or len(memory) < size_bytes:
            memory = _new_memory(size_bytes)
        try:
            yield memory
        finally:
            self._idle.append(memory)


def _new_memory(size_bytes: int) -> memoryview:
    """Return memory of at least `size_bytes` bytes, all zeros."""
    if size_bytes < _HUGE_PAGE_BYTES // 2 or _MADVISE_HUGE is None:
        return memoryview(mmap.mmap(-1, size_bytes))
    size_bytes = -(-size_bytes // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
    pages = mmap.mmap(
        -1, size_bytes + _HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )
    with suppress(OSError):  # the kernel has no huge pages
        pages.madvise(_MADVISE_HUGE)
    start = -np.frombuffer(pages, np.uint8).ctypes.data % _HUGE_PAGE_BYTES
    return memoryview(pages)[start : start + size_bytes]


class CopySource(Protocol):
    """Reads a primary for a copy. Any number of threads may call it."""

    def pread(self, *, offset: int, length: int) -> Data:
        """Return exactly `length` bytes. Raise DeviceFailed."""
        ...

    def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
        """Read all ranges in full to their places in `memory`. Raise DeviceFailed."""
        ...


class DeviceReader:
    """Reads a device as it is."""

    def __init__(self, device: BlockDevice) -> None:
        self._device: Final = device
        self.pread: Final = device.pread

    def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
        """Do as CopySource says, at once if the device can."""
        if isinstance(self._device, ReadsRanges):
            self._device.pread_ranges(ranges, memory)
            return
        for offset, length, place in ranges:
            memory[place : place + length] = self.pread(offset=offset, length=length)


def zero_ranges(target: CopyTarget, ranges: RangeColumns) -> None:
    """Make all ranges zeros, at once if the target can."""
    if isinstance(target, ZeroesRanges):
        target.zero_ranges(ranges)
        return
    for offset, length, _ in ranges:
        target.zero(offset=offset, length=length)


def has_whole_pages(volume: Volume) -> bool:
    """Return whether each write of whole blocks is a multiple of 4 KiB (WritesRanges)."""
    return not (volume.block_size | volume.size_bytes) % _PAGE_BYTES
