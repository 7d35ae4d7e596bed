"""Locks of single bytes of a file by its open file description (fcntl(2), F_OFD_SETLK).

Such a lock is advisory. It ends when every descriptor of the description is closed, also by kill
-9. Another description can ask whether a byte is locked, without locking it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

_FLOCK: Final = struct.Struct("@hhqqi4x")  # struct flock64 of Linux
_TAKEN: Final = (errno.EAGAIN, errno.EACCES)


def lock_byte(fd: int, kind: int, byte: int) -> None:
    """Lock a byte. kind: fcntl.F_RDLCK, which several may have, F_WRLCK, or F_UNLCK to unlock.

    Raise OSError with EAGAIN or EACCES if another description has a lock in the way, and with
    another number if the file system has no locks.
    """
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))


def is_taken(error: OSError) -> bool:
    """Return whether lock_byte() failed because of another's lock."""
    return error.errno in _TAKEN


def is_unlocked(fd: int, byte: int) -> bool:
    """Return whether no other open file description has a lock on the byte. Raise OSError."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked)
    return int(_FLOCK.unpack(answer)[0]) == fcntl.F_UNLCK
