"""Locks that keep other writers on this machine off a volume's image: mirrorlog hosts and QEMU."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

from mirrorlog.errors import BadUse

HOST_BYTE: Final = 300
"""The byte that only a mirrorlog host locks."""
QEMU_USED: Final = 100  # RAW_LOCK_PERM_BASE
QEMU_UNSHARED: Final = 200  # RAW_LOCK_SHARED_BASE
QEMU_WRITE: Final = 1  # the bits of BLK_PERM_WRITE and BLK_PERM_RESIZE
QEMU_RESIZE: Final = 3
_FLOCK: Final = struct.Struct("@hhqqi4x")  # struct flock64 of Linux


def lock_image(fd: int, address: str) -> None:
    """Lock a file or block device against other writers on this machine.

    The locks end when every process that inherited the descriptor has closed it. They are advisory
    locks of the open file description (fcntl(2), F_OFD_SETLK):

    1. The byte HOST_BYTE, exclusively. It decides between two mirrorlog hosts.
    2. The bytes of QEMU's image locking (block/file-posix.c, raw_apply_lock_bytes), shared. A lock
       at 100 + p says that permission p is used, one at 200 + p that no other process may use it.
       So QEMU doesn't write to the primary beside a host, nor a host beside QEMU.

    Does nothing if the file system has no locks. Raise BadUse if another process writes to the
    image; the locks already taken then stay until the caller closes the descriptor.
    """
    try:
        _lock(fd, fcntl.F_WRLCK, HOST_BYTE)
        for permission in (QEMU_WRITE, QEMU_RESIZE):
            _lock(fd, fcntl.F_RDLCK, QEMU_USED + permission)
            _lock(fd, fcntl.F_RDLCK, QEMU_UNSHARED + permission)
        is_free = all(
            _is_unlocked(fd, base + permission)
            for base in (QEMU_USED, QEMU_UNSHARED)
            for permission in (QEMU_WRITE, QEMU_RESIZE)
        )
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            return
        is_free = False
    if not is_free:
        raise BadUse(
            "another process on this machine writes to the primary: a mirrorlog host, or QEMU",
            where=address,
            next="Stop it (`fuser -v` shows which process has it open). Two hosts at once need a "
            "volume that is `shared`.",
        )


def _lock(fd: int, kind: int, byte: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))


def _is_unlocked(fd: int, byte: int) -> bool:
    """Return whether no other open file description has a lock on the byte."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked)
    return int(_FLOCK.unpack(answer)[0]) == fcntl.F_UNLCK
