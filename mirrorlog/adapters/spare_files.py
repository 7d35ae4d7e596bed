"""Replaces small files that are replaced often, without a new file each time.

A new file costs ext4 much more than a new name: without a journal, the kernel looks at all inodes
that were freed in the last minutes before it takes one. So a process keeps some spare files in a
folder. New contents are written to a spare, which then exchanges its name with the file
(renameat2(2), RENAME_EXCHANGE): the old contents are the spare now.

A spare is written over, so no name may lead to it, on the disk either. That is so because:

- One process at a time has the spares of a folder: it holds flock(2) on `.mirrorlog-spares`. So no
  other process writes over a spare whose exchange isn't durable yet. A process that doesn't get the
  lock uses replace_files().
- When a process gets the lock, it makes the folder durable. Exchanges of a process that died before
  its last step are durable then.
- Each call makes the folder durable, or fails and removes its spares.
- Then it removes each spare that has another name too, as a power cut may leave an exchange.

The lock ends with the process. The spares stay: they are few (SPARES), small, and hidden.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Final, cast

from mirrorlog.adapters.folders import put_in_place, replace_files, sync_folder

SPARES: Final = 64
"""How many files of a folder are replaced together without new files; more are replaced with."""
_LOCK: Final = ".mirrorlog-spares"
_AT_FDCWD: Final = -100  # linux/fcntl.h
_RENAME_EXCHANGE: Final = 2  # linux/fs.h


def replace_files_often(contents: Mapping[Path, bytes]) -> None:
    """Do as replace_files(), in less time for files that were there before. Raise OSError.

    All files lie in one folder, or it is done folder by folder.
    """
    by_folder: dict[Path, dict[Path, bytes]] = {}
    for path, content in contents.items():
        by_folder.setdefault(path.parent, {})[path] = content
    for folder, of_folder in by_folder.items():
        spares = None if len(of_folder) > SPARES else _spares_of(folder)
        if spares is None or not spares.replace(of_folder):
            replace_files(of_folder)


def exchange_names(one: Path, other: Path) -> bool:
    """Let two files exchange their names at once. Return False if the system can't do that.

    Raise OSError if it can and that fails: above all FileNotFoundError if one isn't there.
    """
    rename = _renameat2()
    if rename is None:
        return False
    code = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if code == 0:
        return True
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code), str(other))


class _SpareFiles:
    """The spare files of a folder, while this process may use them.

    lock_fd: holds the lock.
    """

    def __init__(self, folder: Path, lock_fd: int) -> None:
        self._folder, self._lock_fd = folder, lock_fd
        self._is_used: Final = Lock()

    def is_there(self) -> bool:
        """Return whether the lock is still that of the folder. If not, it is given up."""
        with suppress(OSError):
            if os.path.samestat((self._folder / _LOCK).stat(), os.fstat(self._lock_fd)):
                return True
        os.close(self._lock_fd)
        return False

    def replace(self, contents: Mapping[Path, bytes]) -> bool:
        """Replace files of the folder. Return False, with nothing done, if a thread does that."""
        if not self._is_used.acquire(blocking=False):
            return False
        try:
            spares = {
                path: self._folder / f"{_LOCK}-{number}" for number, path in enumerate(contents)
            }
            put_in_place(spares, contents, _take_name)
        finally:
            self._is_used.release()
        return True


def _take_name(spare: Path, path: Path) -> None:
    """Give the spare the name of the file, and the file, if it is there, that of the spare."""
    try:
        if exchange_names(spare, path):
            return
    except FileNotFoundError:
        pass
    spare.replace(path)


_known: Final[dict[Path, _SpareFiles]] = {}
_known_lock: Final = Lock()


def _spares_of(folder: Path) -> _SpareFiles | None:
    """Return the spares of a folder; None if they are another process's. Raise OSError."""
    with _known_lock:
        known = _known.get(folder)
        if known is not None and known.is_there():
            return known
        _known.pop(folder, None)
        fd = _lock(folder)
        if fd is None:
            return None
        _known[folder] = spares = _SpareFiles(folder, fd)
        return spares


def _lock(folder: Path) -> int | None:
    """Lock the spares of a folder, and see to it that they may be written over.

    Return the descriptor that holds the lock; None if another process has it. Raise OSError.
    """
    fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    try:
        sync_folder(folder)
        _remove_shared(folder)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _remove_shared(folder: Path) -> None:
    """Remove the spares that are no files, or that have another name in the folder too."""
    with os.scandir(folder) as scanned:
        entries = list(scanned)
    uses = Counter(entry.inode() for entry in entries)
    for entry in entries:
        if entry.name.startswith(f"{_LOCK}-") and (
            uses[entry.inode()] > 1 or not entry.is_file(follow_symlinks=False)
        ):
            Path(entry.path).unlink()


@cache
def _renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    """Return renameat2(2) of the C library, which returns an error number; None if it has none."""
    import ctypes  # most processes replace no file often

    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None
    call.argtypes = (
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_uint,
    )

    def rename(*arguments: object) -> int:
        return 0 if call(*arguments) == 0 else ctypes.get_errno()

    return cast("Callable[[int, bytes, int, bytes, int], int]", rename)
