"""Reads and writes many ranges of a file with a few system calls (kernel_aio.py).

What the kernel doesn't carry out in full is returned to the caller, with its error, range by range.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock
from typing import Final, NamedTuple

import numpy as np

from mirrorlog.adapters.kernel_aio import AioCommand, lent_queue
from mirrorlog.domain.range_columns import Integers, RangeColumns

ALIGNMENT_BYTES: Final = max(4096, mmap.PAGESIZE)
"""Past the page cache, each range has this alignment on the device and in memory. So no page holds
a part of a range and something that is written through the page cache."""
_BTRFS: Final = 0x9123683E  # linux/magic.h
_UNABLE: Final = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EAGAIN)


class Unfinished(NamedTuple):
    """Ranges that weren't transferred in full.

    codes: the error number of each; 0 if it has to be repeated in another way.
    """

    ranges: RangeColumns
    codes: Integers


class RangeTransfers:
    """Reads and writes ranges of one open file or block device. Any number of threads may call.

    The methods take the device's descriptor, which stays the caller's.
    """

    def __init__(self, size_bytes: int) -> None:
        self._lock: Final = Lock()
        self._direct_fd: int | None = None
        self._may_be_direct = size_bytes % ALIGNMENT_BYTES == 0

    def read(self, fd: int, ranges: RangeColumns, memory: memoryview) -> Unfinished:
        """Read the ranges to their places."""
        return _transfer(AioCommand.PREAD, fd, ranges, memory)

    def write(
        self, fd: int, ranges: RangeColumns, memory: memoryview, *, is_only_writer: bool
    ) -> Unfinished:
        """Write the ranges from their places.

        is_only_writer: as WritesRanges.pwrite_ranges says. Only then the ranges go past the page
        cache, if they have the alignment and the device can do that.
        """
        direct_fd = self._direct(fd, ranges) if is_only_writer else None
        used_fd = fd if direct_fd is None else direct_fd
        unfinished = _transfer(AioCommand.PWRITE, used_fd, ranges, memory)
        if direct_fd is not None and len(unfinished.ranges) and not unfinished.codes.all():
            self._may_be_direct = False
        return unfinished

    def write_contents(
        self, fd: int, writes: Sequence[tuple[int, bytes]]
    ) -> Sequence[tuple[int, bytes]] | None:
        """Write the data of each (offset, data) from where it is: nothing is copied.

        Return those that are still to be done; None, with nothing done, if any two overlap. The
        kernel promises no order.
        """
        columns = _columns_of(writes)
        if columns.overlap():
            return None
        with lent_queue() as queue:
            if queue is None:
                return writes
            results = queue.run(AioCommand.PWRITE, fd, columns, address=0)
        unfinished = np.flatnonzero(results != columns.lengths)
        return [writes[index] for index in unfinished.tolist()]

    def close(self) -> None:
        """Close what write() has opened. Call it when no other method runs."""
        self._may_be_direct = False
        fd, self._direct_fd = self._direct_fd, None
        if fd is not None:
            with suppress(OSError):
                os.close(fd)

    def _direct(self, fd: int, ranges: RangeColumns) -> int | None:
        """Return the descriptor that passes by the page cache; None if these ranges can't."""
        if not self._may_be_direct or not ranges.are_multiples_of(ALIGNMENT_BYTES):
            return None
        with self._lock:
            if self._direct_fd is None and self._may_be_direct:
                if _file_system(fd) == _BTRFS:
                    self._may_be_direct = False  # it takes longer there (past-the-page-cache.md)
                    return None
                try:
                    # The file that is open, and not what is at its path by now.
                    self._direct_fd = os.open(
                        f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT
                    )
                except OSError:
                    self._may_be_direct = False
            return self._direct_fd


def _file_system(fd: int) -> int | None:
    """Return the magic number of the file system of an open file; None if the system can't say."""
    call = getattr(ctypes.CDLL(None), "fstatfs", None)
    answer = (ctypes.c_long * 64)()  # a struct statfs begins with f_type
    if call is None or call(fd, ctypes.byref(answer)) != 0:
        return None
    return answer[0] & 0xFFFFFFFF


def _columns_of(writes: Sequence[tuple[int, bytes]]) -> RangeColumns:
    """Return the ranges of writes. A place is the address of the data, which the caller keeps."""
    contents = [data for _, data in writes]
    pointers = (ctypes.c_char_p * len(contents))(*contents)
    return RangeColumns(
        np.array([offset for offset, _ in writes], np.int64),
        np.fromiter(map(len, contents), np.int64, len(contents)),
        np.frombuffer(bytes(pointers), np.intp).astype(np.int64),
    )


def _transfer(command: AioCommand, fd: int, ranges: RangeColumns, memory: memoryview) -> Unfinished:
    address = np.frombuffer(memory, np.uint8).ctypes.data
    with lent_queue() as queue:
        if queue is None:
            return Unfinished(ranges, np.zeros(len(ranges), np.int64))
        results = queue.run(command, fd, ranges, address)
    is_short = results != ranges.lengths
    if not is_short.any():
        return _NOTHING
    codes = np.maximum(-results[is_short], 0)
    codes[np.isin(codes, _UNABLE)] = 0
    return Unfinished(ranges.where(is_short), codes)


_NOTHING: Final = Unfinished(RangeColumns.of([]), np.zeros(0, np.int64))
