"""Folders that hold durable state: durable names, and one process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from mirrorlog.errors import BadUse


def sync_folder(folder: Path) -> None:
    """Files made, renamed or removed in the folder stay so at a loss of power (fsync(2) of the folder)."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(path: Path) -> None:
    """Makes the folder and those above it, durably. OSError where it can't."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def hold_folder(path: Path) -> int:
    """Keeps every other process off the folder until the descriptor is closed or its process ends, also by kill -9.

    BadUse where another holds it (flock(2) on a file `lock` in it); OSError where it can't be made.
    """
    make_folder(path)
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise BadUse(
            "another process keeps its state in this folder",
            where=str(path),
            next="Stop that process, or give each its own folder.",
        ) from error
    return fd
