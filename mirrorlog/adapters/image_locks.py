"""Locks that keep other writers on this machine off a volume's image: other mirrorlog hosts, and QEMU."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

from mirrorlog.errors import BadUse

HELD_BYTE: Final = 300
QEMU_USED: Final = 100  # RAW_LOCK_PERM_BASE
QEMU_UNSHARED: Final = 200  # RAW_LOCK_SHARED_BASE
QEMU_WRITE: Final = 1  # the bits of BLK_PERM_WRITE and BLK_PERM_RESIZE
QEMU_RESIZE: Final = 3
_FLOCK: Final = struct.Struct("@hhqqi4x")  # struct flock64 of Linux


def hold_image(fd: int, address: str) -> None:
    """Keeps other writers on this machine off a file or block device until the descriptor is closed wherever it is inherited.

    Advisory locks of the open file description (fcntl(2), F_OFD_SETLK): one byte that a mirrorlog host alone takes, which
    decides between two of them; then the bytes by which QEMU keeps images apart (block/file-posix.c, raw_apply_lock_bytes):
    at 100 + p a shared lock tells that permission p is used, at 200 + p that nobody else may use it. So QEMU doesn't write
    to the primary beside a host, nor a host beside QEMU. Does nothing where the file system has no locks.
    BadUse where somebody writes to it.
    """
    try:
        _lock(fd, fcntl.F_WRLCK, HELD_BYTE)
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
            next="Stop it (`fuser -v` shows who has it open). Two hosts at once need a volume that is `shared`.",
        )


def _lock(fd: int, kind: int, byte: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))


def _is_unlocked(fd: int, byte: int) -> bool:
    """Whether nobody else has any lock on the byte."""
    found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    return int(_FLOCK.unpack(found)[0]) == fcntl.F_UNLCK
