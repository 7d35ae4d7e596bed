"""Folders with durable state: durable names and files, and a lock that one process holds."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from threading import get_ident
from typing import Final

from mirrorlog.errors import BadUse

_HOLDER_BYTES: Final = 512
_TEMPORARY_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
SYNC_THREADS: Final = 16
"""How many files and devices are flushed at once."""
_FSYNC_THREADS: Final = 4
_FEW_FILES: Final = 8
"""So few files are made durable one after the other: threads would cost more than they gain."""


def sync_folder(folder: Path) -> None:
    """Make the names in the folder durable: files created, renamed or removed (fsync(2))."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_files(descriptors: Sequence[int]) -> None:
    """Make open files durable (fsync(2)). Raise OSError.

    With a journal, the first call commits it with all of them. Without one, each call waits for the
    disk's cache, and the kernel joins the waits of threads that call at the same time. That gains
    little on an idle disk (64 files: 8.7 ms, with 4 threads 7.1 ms), and a factor of ten and more
    on one that others use, too.
    """
    if len(descriptors) < _FEW_FILES:
        for descriptor in descriptors:
            os.fsync(descriptor)
        return
    calls = [_threads().submit(os.fsync, descriptor) for descriptor in descriptors]
    wait(calls)  # the caller may close the files when this returns or raises
    for call in calls:
        call.result()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_FSYNC_THREADS, "mirrorlog-fsync")


def create_folder(path: Path) -> None:
    """Create the folder and its missing parents durably. Raise OSError if that fails."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def lock_folder(path: Path, *, shared_by: str | None = None) -> int:
    """Create the folder if needed and lock it. Return the descriptor that holds the lock.

    shared_by: names processes that may hold the lock together, in one line; None: this process
        alone holds it. Two processes with one name must not call this at the same time.

    The lock is flock(2) on the file `lock` in the folder. It ends when the descriptor is closed or
    the process ends, even by kill -9. The file names its holder: the process, and since when. Raise
    BadUse, with what the file says, if another process holds the lock; OSError if the folder can't
    be created.
    """
    create_folder(path)
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take_lock(fd, shared_by)
    except OSError as error:
        holder = os.pread(fd, _HOLDER_BYTES, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise BadUse(
            "another process keeps its state in this folder" + (f": {holder}" if holder else ""),
            where=str(path),
            next="Stop that process, or give each process its own folder.",
        ) from error
    if shared_by is None:
        with suppress(OSError):  # a full disk doesn't forbid the lock
            _write_over(fd, holder_line())
    return fd


def _take_lock(fd: int, shared_by: str | None) -> None:
    """Lock a file for this process, or for those that `shared_by` names. Raise OSError."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if shared_by is None:
            raise
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.pread(fd, _HOLDER_BYTES, 0) != _shared_line(shared_by):
            raise
    else:
        if shared_by is not None:
            _write_over(fd, _shared_line(shared_by))
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _shared_line(shared_by: str) -> bytes:
    return f"{shared_by} on {socket.gethostname()}\n".encode("ascii", "replace")


def _write_over(fd: int, line: bytes) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, line, 0)


def holder_line() -> bytes:
    """Return a line about this process, for people."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    line = f"process {os.getpid()} on {socket.gethostname()}, since {now}\n"
    return line.encode("ascii", "replace")


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Replace small files by whole new contents, durably.

    1. Write each file whole to .STEM.tmp beside it, over what a crash may have left there.
    2. Make these files durable: a name must never lead to bytes that aren't durable.
    3. Rename each file. From here on readers find the new contents.
    4. Make the renames durable in the folders.

    After a crash or an error, each file has its old or its new contents, whole. All files are open
    at once. Raise OSError. spare_files.py has the same for files that are replaced often.
    """
    put_in_place(
        {path: path.with_name(f".{path.stem}.tmp") for path in contents}, contents, _rename
    )


def replace_shared_file(path: Path, content: bytes) -> None:
    """Replace a small file as replace_files() does, while others may do so, too.

    The last one wins. Raise OSError.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{get_ident()}.tmp")
    put_in_place({path: temporary}, {path: content}, _rename)


def _rename(temporary: Path, path: Path) -> None:
    temporary.replace(path)


def put_in_place(
    temporaries: Mapping[Path, Path],
    contents: Mapping[Path, bytes],
    rename: Callable[[Path, Path], None],
) -> None:
    """Do the four steps of replace_files(). Raise OSError; then no temporary file is left.

    temporaries: by file, where its new contents are written before they have its name.
    rename: gives a temporary file, the first argument, the name that the second one is.
    """
    files: list[int] = []
    try:
        try:
            for path, content in contents.items():
                files.append(os.open(temporaries[path], _TEMPORARY_FLAGS, 0o666))
                _write_whole(files[-1], content)
            sync_files(files)
        finally:
            for fd in files:
                os.close(fd)
        for path, temporary in temporaries.items():
            rename(temporary, path)
        for folder in dict.fromkeys(path.parent for path in contents):
            sync_folder(folder)
    except OSError:
        for temporary in temporaries.values():
            with suppress(OSError):
                temporary.unlink()
        raise


def _write_whole(fd: int, content: bytes) -> None:
    """Let the file hold these bytes, and no more."""
    if os.pwrite(fd, content, 0) != len(content):
        raise OSError(errno.ENOSPC, "only a part was written")
    if os.fstat(fd).st_size > len(content):
        os.ftruncate(fd, len(content))
    if hasattr(os, "posix_fadvise"):
        # The kernel begins to write the pages out: the first fsync then commits the whole batch.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
