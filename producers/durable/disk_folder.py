"""The state folder of a host on this machine's file system."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Final

from mirrorlog.adapters.folders import lock_folder, sync_folder
from mirrorlog.adapters.machine import folder_owner
from mirrorlog.adapters.os_failures import os_errors_named
from mirrorlog.ports.folders import StateFile


class DiskFolder:
    """A StateFolder at `path`. lock() creates the folder if it doesn't exist."""

    def __init__(self, path: Path) -> None:
        self._path: Final = path
        self._lock_fd = -1

    @property
    def lock_fd(self) -> int:
        """The descriptor that holds the lock. A child process that inherits it holds it, too."""
        return self._lock_fd

    def lock(self) -> None:
        with _named("making the folder", self._path):
            self._lock_fd = lock_folder(self._path)

    def owner(self) -> str:
        with _named("reading", self._path):
            return folder_owner(self._path).text

    def read(self, name: str) -> bytes | None:
        with _named("reading", self._path / name), suppress(FileNotFoundError):
            return (self._path / name).read_bytes()
        return None

    def names(self) -> list[str]:
        with _named("listing", self._path):
            return [path.name for path in self._path.iterdir() if path.is_file()]

    def create(self, name: str) -> StateFile:
        return _DiskFile(self._path / name)

    def remove(self, name: str) -> None:
        with _named("removing", self._path / name):
            (self._path / name).unlink(missing_ok=True)

    def rename(self, old: str, new: str) -> None:
        with _named("renaming", self._path / old):
            (self._path / old).replace(self._path / new)

    def sync(self) -> None:
        with _named("flushing", self._path):
            sync_folder(self._path)

    def close(self) -> None:
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)


class _DiskFile:
    """A StateFile at `path`, created empty."""

    def __init__(self, path: Path) -> None:
        self._path: Final = path
        with _named("creating", path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def pread(self, *, offset: int, length: int) -> bytes:
        with _named("reading", self._path):
            return os.pread(self._fd, length, offset)

    def pwrite(self, offset: int, data: bytes) -> None:
        with _named("writing", self._path):
            written = os.pwrite(self._fd, data, offset)
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], offset + written)

    def sync(self) -> None:
        with _named("flushing", self._path):
            os.fdatasync(self._fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # sync() has made durable what must be
                os.close(fd)


def _named(doing: str, path: Path) -> AbstractContextManager[None]:
    """Raise an OSError of the block as DeviceFailed; `doing` and `path` say what failed."""
    return os_errors_named(
        f"{doing} failed for the host's state",
        path,
        "Look at the file system there (space, permissions, kernel log), then start the host "
        "again.",
    )
