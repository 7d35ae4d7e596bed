"""Begins to write pages of a file to its storage before they are flushed (sync_file_range(2))."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache
from typing import Final

SYNC_FILE_RANGE_WRITE: Final = 0x02  # linux/fs.h
_MISSING: Final = (errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP, errno.EPERM)


def start_writeback(fd: int, *, offset: int, length: int) -> None:
    """Begin to write the range's dirty pages. Nothing is durable before fsync(2).

    Do nothing where the system can't do it. Raise OSError if a page can't be written.
    """
    call = _sync_file_range()
    if call is None or not length or call(fd, offset, length, SYNC_FILE_RANGE_WRITE) == 0:
        return
    code = ctypes.get_errno()
    if code not in _MISSING:
        raise OSError(code, os.strerror(code))


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Return sync_file_range(2), which the module os lacks; None if the C library lacks it too."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        call.restype = ctypes.c_int
    return call
