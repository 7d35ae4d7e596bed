"""The journals of a site in a folder, which may be on a disk of its own.

The journal of a volume is in VOLUME.journal. The file stays, empty, when the journal is applied.
The commit record of a group is in GROUP.commit, and in .GROUP.tmp while it is written. No volume's
or group's name begins with a dot or holds a slash, so a name never leads out of the folder.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from mirrorlog.adapters.folders import lock_folder, replace_files, sync_folder
from mirrorlog.adapters.writeback import start_writeback
from mirrorlog.consumers.journal.journal_store import JournalFullError
from mirrorlog.domain.volumes import check_group_name, check_volume_name
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.folders import StateFile

_SUFFIX: Final = ".journal"
_COMMIT_BYTES: Final = 1 << 24
"""No commit record is larger."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class JournalFolder:
    """JournalStore in a folder, which it locks until close()."""

    def __init__(self, folder: Path, *, shared_by: str | None = None) -> None:
        """Create the folder if needed. shared_by: as in lock_folder.

        Raise BadUse if another process has it, DeviceFailed if it can't be created.
        """
        self.folder: Final = folder.absolute()
        with _named("making the folder of journals", self.folder):
            self._lock_fd = lock_folder(self.folder, shared_by=shared_by)

    def close(self) -> None:
        """Unlock the folder."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)

    def volumes(self) -> list[str]:
        """Return the volumes of which there is a file that isn't empty, sorted."""
        with _named("looking for journals", self.folder):
            return sorted(
                path.name.removesuffix(_SUFFIX)
                for path in self.folder.glob(f"[!.]*{_SUFFIX}")
                if path.stat().st_size
            )

    def create(self, volume: str) -> StateFile:
        """Create an empty file, or empty the one that is there; return it open."""
        path = self._path(volume)
        is_new = not path.exists()
        file = _JournalFile(path, os.O_CREAT | os.O_TRUNC)
        if is_new:
            with _named("making a journal", path):
                sync_folder(self.folder)
        return file

    def open(self, volume: str) -> StateFile | None:
        """Open the file of a volume; None if there is none."""
        path = self._path(volume)
        return _JournalFile(path, 0) if path.exists() else None

    def clear(self, volume: str) -> None:
        """Empty the file of a volume, if there is one."""
        path = self._path(volume)
        with _named("emptying a journal", path), suppress(FileNotFoundError):
            os.truncate(path, 0)

    def write_commit(self, group: str, content: bytes) -> None:
        """Replace the commit record of a group, durably and in one step."""
        path = self._commit_path(group)
        with _named("committing the journals of a group", path):
            replace_files({path: content})

    def read_commit(self, group: str) -> bytes | None:
        """Return the commit record of a group; None if there is none."""
        path = self._commit_path(group)
        with _named("reading the commit record of a group", path):
            try:
                with path.open("rb") as file:
                    return file.read(_COMMIT_BYTES)
            except FileNotFoundError:
                return None

    def _commit_path(self, group: str) -> Path:
        return self.folder / f"{check_group_name(group)}.commit"

    def _path(self, volume: str) -> Path:
        return self.folder / f"{check_volume_name(volume)}{_SUFFIX}"


class _JournalFile:
    """A StateFile at `path`."""

    def __init__(self, path: Path, flags: int) -> None:
        self._path: Final = path
        with _named("opening a journal", path):
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)

    def pread(self, *, offset: int, length: int) -> bytes:
        data = b""
        with _named("reading a journal", self._path):
            while len(data) < length:
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        return data

    def pwrite(self, offset: int, data: bytes) -> None:
        with _named("writing a journal", self._path):
            done = 0
            while done < len(data):
                done += os.pwrite(self._fd, memoryview(data)[done:], offset + done)
            start_writeback(self._fd, offset=offset, length=len(data))

    def sync(self) -> None:
        with _named("flushing a journal", self._path):
            os.fdatasync(self._fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@contextmanager
def _named(doing: str, path: Path) -> Iterator[None]:
    """Turn an OSError into JournalFullError if the disk is full, and into DeviceFailed if not."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise JournalFullError(f"the disk of the journals is full ({path.parent})") from error
        raise DeviceFailed(
            f"{doing} failed: {error.strerror or error}",
            where=f"{path}, offset 0",
            next="Give this user access to the folder of journals (--journal), and a disk that "
            "works; or run the site with --consistency eventual.",
        ) from error
