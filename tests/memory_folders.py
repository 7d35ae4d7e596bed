"""Folders in memory for tests.

An fsync takes 4 ms on a disk that six tests share, and a demo with 2,000 volumes makes 30,000 of
them. A disk shows such a test nothing more. A test can kill a process, and what a killed process
has written is there in either case. Only a power cut tells them apart. What is marked `disk` stays
on the disk: O_DIRECT, and the contracts of devices and folders.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import psutil
import pytest

HAS_FAILED: Final = pytest.StashKey[bool]()
"""Whether a test has failed so far; a failed one's files are kept."""
MEMORY: Final = Path("/dev/shm")
NEEDED_BYTES: Final = 8 << 30
"""What must be free, of the file system and of the memory, for a run of all tests."""
KEPT_BYTES: Final = 4 << 20
"""Files above this size aren't kept of a test that failed."""


def has_room() -> bool:
    """Return whether folders in memory can be used here."""
    return (
        MEMORY.is_dir()
        and shutil.disk_usage(MEMORY).free > NEEDED_BYTES
        and psutil.virtual_memory().available > NEEDED_BYTES
    )


@contextmanager
def memory_root(otherwise: Path) -> Iterator[Path]:
    """Yield a folder in memory, which is removed at the end; `otherwise` if there is no room."""
    if not has_room():
        yield otherwise
        return
    with TemporaryDirectory(dir=MEMORY, prefix="mirrorlog-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def keep_small_files(folder: Path, kept: Path) -> None:
    """Copy the logs and states in `folder` to the folder `kept`, and leave images out."""

    def left_out(parent: str, names: list[str]) -> set[str]:
        paths = {name: Path(parent) / name for name in names}
        return {
            name
            for name, path in paths.items()
            if not path.is_dir() and (not path.is_file() or path.stat().st_size > KEPT_BYTES)
        }

    shutil.copytree(folder, kept, ignore=left_out, dirs_exist_ok=True)
