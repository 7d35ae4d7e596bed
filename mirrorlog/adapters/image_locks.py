"""Locks that keep other writers on this machine off a volume's image, and QEMU's beside them.

Each is an advisory lock of the open file description (fcntl(2), F_OFD_SETLK) on bytes of the image.
Who has the image open to write locks these bytes:

| byte      | host of the primary | site of the secondary | fork to the secondary |
|-----------|---------------------|-----------------------|-----------------------|
| HOST_BYTE | exclusive           | shared                | shared                |
| SITE_BYTE |                     | exclusive             |                       |
| FORK_BYTE |                     |                       | exclusive             |
| QEMU's    | shared              | shared                | shared                |

A drill (lock_still) writes nothing: it locks the first three bytes shared, and so keeps all others
off for as long as it serves the image. The host locks HOST_BYTE exclusively, a site its own byte, a
fork its own.

So the host of a primary is alone, and a site and one fork may write at the same time: the log
settles which data wins where they meet (docs/forked-writes.md).

QEMU's image locking (block/file-posix.c, raw_apply_lock_bytes): a lock at 100 + p (QEMU_USED) says
that permission p is used, one at 200 + p (QEMU_UNSHARED) that no other process may use it. Who uses
a permission must find it unlocked there, and who doesn't share it must find it unused. So QEMU
doesn't write to an image of ours, nor we to one of QEMU's.

A site and a fork can't tell each other's locks on QEMU's bytes from those of QEMU. So each of them
looks for QEMU first and then locks its second byte (the own one plus READY) to say that it has
found none. The other needn't look then: QEMU can't have come since.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from enum import Enum
from typing import Final

from mirrorlog.adapters.ofd_locks import is_taken, is_unlocked, lock_byte
from mirrorlog.errors import BadUse

HOST_BYTE: Final = 300
SITE_BYTE: Final = 301
FORK_BYTE: Final = 302
READY: Final = 2
QEMU_USED: Final = 100  # RAW_LOCK_PERM_BASE
QEMU_UNSHARED: Final = 200  # RAW_LOCK_SHARED_BASE
QEMU_WRITE: Final = 1  # the bits of BLK_PERM_WRITE and BLK_PERM_RESIZE
QEMU_RESIZE: Final = 3


class ImageUser(Enum):
    """Who writes to a secondary. The value is the byte that it locks for itself."""

    SITE = SITE_BYTE
    FORK = FORK_BYTE


def lock_image(fd: int, address: str) -> None:
    """Lock a primary against other writers on this machine, for its host.

    The locks end when every process that inherited the descriptor has closed it. Does nothing if
    the file system has no locks. Raise BadUse if another process writes to the image; the locks
    already taken then stay until the caller closes the descriptor.
    """
    if not _is_free(lambda: _lock_as_host(fd)):
        raise BadUse(
            "another process on this machine writes to the primary: a mirrorlog host or site, or "
            "QEMU",
            where=address,
            next="Stop it (`fuser -v` shows which process has it open). Two hosts at once need a "
            "volume that is `shared`.",
        )


def lock_secondary(fd: int, address: str, user: ImageUser) -> None:
    """Lock a secondary against other writers on this machine, but for its site and one fork.

    As lock_image().
    """
    if not _is_free(lambda: _lock_as(fd, user)):
        raise BadUse(
            "another process on this machine writes to the secondary: another site, another fork, "
            "the host of a volume whose primary it is, or QEMU",
            where=address,
            next="Stop it (`fuser -v` shows which process has it open), or give the secondary a "
            "file or device of its own.",
        )


def lock_still(fd: int) -> bool:
    """Keep every writer on this machine off an image: hosts, sites, forks and QEMU.

    Return False if one of them has it open to write. The locks already taken then stay until the
    caller closes the descriptor, which may be one for reading. Several processes may hold the image
    still at once. True, with no effect, if the file system has no locks.
    """
    return _is_free(lambda: _lock_still(fd))


def _lock_still(fd: int) -> bool:
    for byte in (HOST_BYTE, SITE_BYTE, FORK_BYTE):
        lock_byte(fd, fcntl.F_RDLCK, byte)
    lock_byte(fd, fcntl.F_RDLCK, QEMU_UNSHARED + QEMU_WRITE)
    lock_byte(fd, fcntl.F_RDLCK, QEMU_UNSHARED + QEMU_RESIZE)
    return _are_unlocked(fd, QEMU_USED)


def _is_free(take: Callable[[], bool]) -> bool:
    """Take locks; return whether the image is free. True if the file system has no locks."""
    try:
        return take()
    except OSError as error:
        return not is_taken(error)


def _lock_as_host(fd: int) -> bool:
    lock_byte(fd, fcntl.F_WRLCK, HOST_BYTE)
    _lock_permissions(fd, QEMU_USED)
    _lock_permissions(fd, QEMU_UNSHARED)
    return _are_unlocked(fd, QEMU_USED) and _are_unlocked(fd, QEMU_UNSHARED)


def _lock_as(fd: int, user: ImageUser) -> bool:
    other = ImageUser.FORK if user is ImageUser.SITE else ImageUser.SITE
    lock_byte(fd, fcntl.F_RDLCK, HOST_BYTE)
    lock_byte(fd, fcntl.F_WRLCK, user.value)
    _lock_permissions(fd, QEMU_USED)
    _lock_permissions(fd, QEMU_UNSHARED)
    if is_unlocked(fd, other.value + READY) and not (
        _are_unlocked(fd, QEMU_USED) and _are_unlocked(fd, QEMU_UNSHARED)
    ):
        return False
    lock_byte(fd, fcntl.F_RDLCK, user.value + READY)
    return True


def _lock_permissions(fd: int, base: int) -> None:
    for permission in (QEMU_WRITE, QEMU_RESIZE):
        lock_byte(fd, fcntl.F_RDLCK, base + permission)


def _are_unlocked(fd: int, base: int) -> bool:
    return all(is_unlocked(fd, base + permission) for permission in (QEMU_WRITE, QEMU_RESIZE))
