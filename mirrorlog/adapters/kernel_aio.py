"""Linux's asynchronous reads and writes (io_submit(2)): one system call starts many of them.

A read or write through the page cache is done when io_submit() returns. One past the page cache
(O_DIRECT) is under way until io_getevents() returns its result, so the storage has many at a time.
The C library has no functions for these calls; their numbers are those of the kernel
(arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np

from mirrorlog.domain.range_columns import Integers, RangeColumns

SLOTS: Final = 256
"""How many reads or writes a queue has under way at most. The system has 65,536 by default."""


class AioCommand(IntEnum):
    """What a queue is asked to do (linux/aio_abi.h)."""

    PREAD = 0
    PWRITE = 1


class _Calls(NamedTuple):
    """The numbers of the system calls."""

    setup: int
    destroy: int
    getevents: int
    submit: int


_GENERIC: Final = _Calls(setup=0, destroy=1, getevents=4, submit=2)
_CALLS: Final = {
    "x86_64": _Calls(setup=206, destroy=207, getevents=208, submit=209),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
}
_IOCB: Final = np.dtype(
    [
        ("data", "<u8"),
        ("key", "<u4"),
        ("flags_of_rw", "<i4"),
        ("command", "<u2"),
        ("priority", "<i2"),
        ("fd", "<u4"),
        ("address", "<u8"),
        ("length", "<u8"),
        ("offset", "<i8"),
        ("reserved", "<u8"),
        ("flags", "<u4"),
        ("event_fd", "<u4"),
    ]
)
"""struct iocb of little-endian machines."""
_EVENT: Final = np.dtype([("data", "<u8"), ("iocb", "<u8"), ("result", "<i8"), ("result2", "<i8")])


class AioQueue:
    """A queue of reads and writes. One thread uses it at a time.

    under_way: how many of them the kernel hasn't answered. The queue lasts until the process ends:
    giving it back takes milliseconds.
    """

    def __init__(self, calls: _Calls) -> None:
        """Raise OSError if the kernel gives no queue, for example because it has no more slots."""
        self.under_way = 0
        self._calls: Final = calls
        self._library: Final = ctypes.CDLL(None, use_errno=True)
        self._context: Final = ctypes.c_ulong(0)
        self._requests: Final = np.zeros(SLOTS, _IOCB)
        self._events: Final = np.zeros(SLOTS, _EVENT)
        addresses = self._requests.ctypes.data + np.arange(SLOTS, dtype=np.uint64) * _IOCB.itemsize
        self._pointers: Final = addresses.astype(np.uint64)
        if self._call(calls.setup, SLOTS, ctypes.byref(self._context)) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def run(self, command: AioCommand, fd: int, ranges: RangeColumns, address: int) -> Integers:
        """Carry out one command for each range; return the results when all are done.

        address: of the memory in which the ranges have their places. A result is the number of
        bytes that were transferred, which may be too few, or a negative error number.
        """
        steps = range(0, len(ranges), SLOTS)
        parts = [
            self._run(command, fd, ranges.between(start, start + SLOTS), address) for start in steps
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _run(self, command: AioCommand, fd: int, ranges: RangeColumns, address: int) -> Integers:
        """Do as run() says with at most SLOTS ranges."""
        count = len(ranges)
        requests = self._requests[:count]
        requests["data"] = np.arange(count)
        requests["command"] = command
        requests["fd"] = fd & 0xFFFFFFFF
        requests["address"] = ranges.places + address
        requests["length"] = ranges.lengths
        requests["offset"] = ranges.offsets
        results = np.zeros(count, np.int64)
        submitted = 0
        try:
            while submitted < count:
                pointer = ctypes.c_void_p(self._pointers.ctypes.data + submitted * 8)
                taken = self._call(self._calls.submit, self._context, count - submitted, pointer)
                if taken > 0:
                    submitted += taken
                    self.under_way += taken
                elif (code := ctypes.get_errno()) == errno.EAGAIN and self.under_way:
                    self._wait(results, 1)
                elif code != errno.EINTR:
                    results[submitted] = -(code or errno.EIO)
                    submitted += 1
        finally:  # nothing is read or written after this method has ended
            while self.under_way:
                self._wait(results, self.under_way)
        return results

    def _wait(self, results: Integers, least: int) -> None:
        """Take the results of at least `least` requests."""
        pointer = ctypes.c_void_p(self._events.ctypes.data)
        while True:
            count = self._call(
                self._calls.getevents, self._context, least, self.under_way, pointer, None
            )
            if count > 0:
                self.under_way -= count
                events = self._events[:count]
                results[events["data"].astype(np.int64)] = events["result"]
                return
            if count < 0 and (code := ctypes.get_errno()) != errno.EINTR:
                raise OSError(code, os.strerror(code))

    def _call(self, number: int, *arguments: object) -> int:
        call = self._library.syscall
        call.restype = ctypes.c_long
        return int(call(ctypes.c_long(number), *arguments))


_idle: Final[deque[AioQueue]] = deque()
os.register_at_fork(after_in_child=_idle.clear)  # a child process has no part in them


@contextmanager
def lent_queue() -> Iterator[AioQueue | None]:
    """Lend a queue to the calling thread; None where the system has none."""
    queue = _take()
    try:
        yield queue
    finally:
        if queue is not None and not queue.under_way:
            _idle.append(queue)


def _take() -> AioQueue | None:
    try:
        return _idle.pop()
    except IndexError:
        calls = _CALLS.get(platform.machine())
        if calls is None:
            return None
    try:
        return AioQueue(calls)
    except OSError:
        return None
