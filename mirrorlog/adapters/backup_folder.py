"""A backup repository in a folder: the port mirrorlog.ports.backup_stores.BackupStore."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from mirrorlog.adapters.folders import create_folder, lock_folder, sync_folder
from mirrorlog.adapters.object_folder import ObjectFolder, lent_work_folder, link_durably
from mirrorlog.errors import BadUse, RepositoryFailed
from mirrorlog.ports.backup_stores import WAIT_FOR_WRITER, RepositoryInUse

_WORK: Final = ".work"
_LOCK: Final = ".lock"


class FolderBackups(ObjectFolder):
    """Objects are files below a folder.

    A file in the work folder becomes an object by a name of its own, without a copy. The lock is
    flock(2) on `.lock/lock`, which ends with its process, also by kill -9.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root, failure=RepositoryFailed, noun="repository")

    def upload(self, name: str, source: Path) -> bool:
        """Create a file of another one. Return False if it exists."""
        with (
            self._reported(f"file {name} can't be written", "Check the disk's free space."),
            self._durable(source) as path,
        ):
            return link_durably(path, self._path(name))

    def replace(self, name: str, source: Path) -> None:
        """Create a file of another one, or replace it."""
        with self._reported(f"file {name} can't be replaced", "Check the disk's free space."):
            target = self._path(name)
            create_folder(target.parent)
            with self._durable(source) as path:
                path.replace(target)
            sync_folder(target.parent)

    def read_range(self, name: str, *, offset: int, length: int) -> bytes | None:
        """Return up to `length` bytes of a file; None if there is none."""
        with self._reported(f"file {name} can't be read", "Check the disk."):
            try:
                with self._path(name).open("rb", buffering=0) as file:
                    return os.pread(file.fileno(), length, offset)
            except FileNotFoundError:
                return None

    def download(self, name: str, target: Path) -> bool:
        """Copy a file. Return False if there is none."""
        with self._reported(f"file {name} can't be copied", "Check the disk's free space."):
            try:
                shutil.copyfile(self._path(name), target)
            except FileNotFoundError:
                return False
        return True

    def delete(self, name: str) -> None:
        """Delete a file durably, if there is one."""
        with self._reported(f"file {name} can't be deleted", "Check the rights of the folder."):
            path = self._path(name)
            with suppress(FileNotFoundError):
                path.unlink()
                sync_folder(path.parent)

    def local_path(self, name: str) -> Path | None:
        """Return the path of a file."""
        return self._path(name)

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        """Lend a folder in the file system of the repository."""
        with ExitStack() as stack:
            with self._reported(
                "the work folder can't be created", "Check the rights of the folder."
            ):
                folder = stack.enter_context(lent_work_folder(self._root / _WORK))
            yield folder

    def lock(self, purpose: str) -> FolderLock:
        """Lock the folder against other writers."""
        del purpose  # the file names the process
        with self._reported("the folder can't be locked", "Check its rights."):
            try:
                return FolderLock(lock_folder(self._root / _LOCK))
            except BadUse as error:
                holder = error.what.partition(": ")[2]
                raise RepositoryInUse(
                    f"another process writes to the repository: {holder or 'it has no name'}",
                    where=str(self._root),
                    next=WAIT_FOR_WRITER,
                ) from error

    @contextmanager
    def _durable(self, source: Path) -> Iterator[Path]:
        """Make a local file durable, and lend its path in the file system of the repository.

        A copy that was made for that, and still has this path, is removed at the end.
        """
        copy = None
        try:
            if source.stat().st_dev != self._root.stat().st_dev:
                copy = self._new_temporary()
                shutil.copyfile(source, copy)
            path = copy or source
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(fd)  # nobody needs its times
            finally:
                os.close(fd)
            yield path
        finally:
            if copy is not None:
                with suppress(OSError):
                    copy.unlink()


class FolderLock:
    """The lock of a folder, until it is released."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def check(self) -> None:
        """Do nothing: the lock is lost with the process only."""

    def release(self) -> None:
        """Unlock the folder. A second call does nothing."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None
