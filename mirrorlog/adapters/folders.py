"""Folders with durable state: durable names, and a lock that one process holds."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from mirrorlog.errors import BadUse


def sync_folder(folder: Path) -> None:
    """Make the names in the folder durable: files created, renamed or removed (fsync(2))."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def create_folder(path: Path) -> None:
    """Create the folder and its missing parents durably. Raise OSError if that fails."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def lock_folder(path: Path) -> int:
    """Create the folder if needed and lock it. Return the descriptor that holds the lock.

    The lock is flock(2) on the file `lock` in the folder. It ends when the descriptor is closed or
    the process ends, even by kill -9. Raise BadUse if another process holds it; OSError if the
    folder can't be created.
    """
    create_folder(path)
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise BadUse(
            "another process keeps its state in this folder",
            where=str(path),
            next="Stop that process, or give each process its own folder.",
        ) from error
    return fd
