"""Writes records into a folder, and never outside of it, whatever names they have.

Each folder is opened from the descriptor of the one above it, by a name of one part, and no
symbolic link is followed. Whatever exists stays as it is: a file is created, or it is a problem.
A file gets its name when its content is whole (named_when_whole.py).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mirrorlog.consumers.backup.files.named_when_whole import NamedWhenWhole
from mirrorlog.consumers.backup.files.records import (
    BeginFile,
    EndFile,
    EnterFolder,
    FileData,
    FileFacts,
    Finished,
    FoundLink,
    LeaveFolder,
    Note,
    Problem,
    Record,
)
from mirrorlog.consumers.file_names.name_table import shown_name
from mirrorlog.errors import BadUse, DeviceFailed

_HOLE_BYTES: Final = 4096
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PERMISSIONS: Final = 0o777
_ALL_MODES: Final = 0o7777
_STOPPING: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""After these, the next file fails as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """What is restored beside content, names, permissions and times.

    links: symbolic links, which may lead anywhere. owners: users and groups by their numbers, and
    the bits set-user-id, set-group-id and sticky.
    """

    links: bool = False
    owners: bool = False


@dataclass(slots=True)
class RestoredFiles:
    """What came of it. problems: what isn't restored, by its path. bytes: of the content.

    problem_count: of all of them; on_problem was told of each.
    """

    files: int = 0
    folders: int = 0
    links: int = 0
    content_bytes: int = 0
    problem_count: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Folder:
    """A folder that is being filled. fd: None if it couldn't be made, and all in it is left out."""

    name: bytes
    facts: FileFacts
    fd: int | None
    is_ours: bool


@dataclass(slots=True)
class _File:
    """The file that is being written. new: None if it couldn't be made."""

    begun: BeginFile
    new: NamedWhenWhole | None


class TreeWriter:
    """Takes records, in their order, and writes them below a folder.

    on_problem: takes the path and the reason of what isn't restored. Use it as a context manager.
    """

    def __init__(
        self, target: Path, options: WriteOptions, on_problem: Callable[[bytes, str], None]
    ) -> None:
        """Open `target`, which is made if it doesn't exist. Raise BadUse, DeviceFailed."""
        self.result = RestoredFiles()
        self._target, self._options, self._on_problem = target, options, on_problem
        try:
            target.mkdir(parents=True, exist_ok=True)
            root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (NotADirectoryError, FileExistsError) as error:
            raise BadUse("it is no folder", where=str(target), next="Name a folder.") from error
        except OSError as error:
            raise self._failed("the folder can't be made", error) from error
        self._folders = [_Folder(b"", FileFacts(), root, is_ours=False)]
        self._file: _File | None = None

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove a file that was begun and not ended, and close everything."""
        self._give_up_file()
        while self._folders:
            fd = self._folders.pop().fd
            if fd is not None:
                os.close(fd)

    def take(self, record: Record) -> None:
        """Write one record.

        Raise DeviceFailed if nothing more can be written there, ValueError for records that don't
        fit each other.
        """
        match record:
            case EnterFolder():
                self._enter(record)
            case LeaveFolder():
                self._leave()
            case FoundLink():
                self._link(record)
            case Problem():
                self._problem(record.path, record.what)
            case Note():
                self.result.notes.append(record.what)
            case Finished():
                if len(self._folders) != 1 or self._file is not None:
                    raise ValueError("the records end inside of a folder or a file")
            case _:
                self._take_file(record)

    def _take_file(self, record: BeginFile | FileData | EndFile) -> None:
        match record:
            case BeginFile():
                self._begin(record)
            case FileData():
                self._write(record)
            case EndFile():
                self._end(record)

    def _enter(self, record: EnterFolder) -> None:
        above = self._folders[-1].fd
        fd, is_ours = None, False
        if above is not None and self._is_good(record.name):
            try:
                try:
                    os.mkdir(record.name, 0o700, dir_fd=above)
                    is_ours = True
                except FileExistsError:
                    pass
                fd = os.open(record.name, _FOLDER_FLAGS, dir_fd=above)
                self.result.folders += is_ours and record.is_wanted
            except OSError as error:
                self._refused(record.name, error)
        self._folders.append(_Folder(record.name, record.facts, fd, is_ours))

    def _leave(self) -> None:
        if len(self._folders) == 1 or self._file is not None:
            raise ValueError("the end of a folder that wasn't begun")
        folder = self._folders.pop()
        if folder.fd is None:
            return
        try:
            if folder.is_ours:
                self._keep_facts(folder.fd, folder.facts, otherwise=0o755)
        except OSError as error:
            self._refused(folder.name, error)
        finally:
            os.close(folder.fd)

    def _begin(self, record: BeginFile) -> None:
        if self._file is not None:
            raise ValueError("a file inside of another one")
        new = None
        above = self._folders[-1].fd
        if above is not None and self._is_good(record.name):
            try:
                new = NamedWhenWhole(above, record.name)
            except OSError as error:
                self._refused(record.name, error)
        self._file = _File(record, new)

    def _write(self, record: FileData) -> None:
        file = self._file
        if file is None or record.offset + len(record.data) > file.begun.size_bytes:
            raise ValueError("data outside of a file")
        if file.new is None:
            return
        try:
            _write_without_zeros(file.new.fd, record.offset, record.data)
        except OSError as error:
            self._give_up_file()
            self._refused(file.begun.name, error)
            self._file = _File(file.begun, None)

    def _end(self, record: EndFile) -> None:
        file = self._file
        if file is None:
            raise ValueError("the end of a file that wasn't begun")
        if record.problem is not None:
            self._give_up_file()
            if file.new is not None or self._folders[-1].fd is not None:
                self._problem(self._path_of(file.begun.name), record.problem)
        elif file.new is not None:
            try:
                os.ftruncate(file.new.fd, file.begun.size_bytes)
                self._keep_facts(file.new.fd, file.begun.facts, otherwise=0o644)
                file.new.finish()
                self.result.files += 1
                self.result.content_bytes += file.begun.size_bytes
            except OSError as error:
                self._give_up_file()
                self._refused(file.begun.name, error)
        self._file = None

    def _link(self, record: FoundLink) -> None:
        above = self._folders[-1].fd
        if above is None or not self._is_good(record.name):
            return
        if not self._options.links:
            target = shown_name(record.target[:200])
            what = f"a symbolic link to {target}, which only --symlinks restores"
            self._problem(self._path_of(record.name), what)
            return
        try:
            os.symlink(record.target, record.name, dir_fd=above)
            self.result.links += 1
            facts = record.facts
            if self._options.owners and facts.uid is not None and facts.gid is not None:
                os.chown(record.name, facts.uid, facts.gid, dir_fd=above, follow_symlinks=False)
            if facts.times_ns is not None:
                os.utime(record.name, ns=facts.times_ns, dir_fd=above, follow_symlinks=False)
        except (OSError, ValueError) as error:
            self._refused(record.name, error)

    def _keep_facts(self, fd: int, facts: FileFacts, *, otherwise: int) -> None:
        """Give a new file or folder what its file system kept of it.

        otherwise: the permissions where it kept none, less the process's mask.
        """
        owners = self._options.owners
        if owners and facts.uid is not None and facts.gid is not None:
            os.fchown(fd, facts.uid, facts.gid)
        if facts.mode is None:
            os.fchmod(fd, otherwise & ~_mask())
        else:
            os.fchmod(fd, facts.mode & (_ALL_MODES if owners else _PERMISSIONS))
        if facts.times_ns is not None:
            os.utime(fd, ns=facts.times_ns)

    def _is_good(self, name: bytes) -> bool:
        """Return whether a name is one part of a path. Otherwise it is a problem."""
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            self._problem(self._path_of(name), "no file here may have this name")
            return False
        return True

    def _give_up_file(self) -> None:
        """Remove the file that was begun."""
        file, self._file = self._file, None
        if file is not None and file.new is not None:
            file.new.give_up()

    def _refused(self, name: bytes, error: OSError | ValueError) -> None:
        """Note that the system refused a file. Raise DeviceFailed if it will refuse all others."""
        if isinstance(error, OSError) and error.errno in _STOPPING:
            raise self._failed(
                f"{shown_name(self._path_of(name))} can't be written", error
            ) from error
        exists = isinstance(error, FileExistsError)
        what = "something of this name exists" if exists else _reason(error)
        self._problem(self._path_of(name), what)

    def _failed(self, what: str, error: OSError) -> DeviceFailed:
        return DeviceFailed(
            f"{what}: {_reason(error)}",
            where=str(self._target),
            next="Give it space and access, and name an empty folder: nothing is overwritten.",
        )

    def _path_of(self, name: bytes) -> bytes:
        return b"/".join([*(folder.name for folder in self._folders), name])

    def _problem(self, path: bytes, what: str) -> None:
        self.result.problem_count += 1
        self._on_problem(path, what)


def _write_without_zeros(fd: int, offset: int, data: bytes) -> None:
    """Write data to a new file, and leave blocks of zeros as holes."""
    start, end = 0, len(data)
    while start < end:
        stop = start
        while stop < end and not _is_zero(data, stop):
            stop += _HOLE_BYTES
        if stop > start:
            _write_all(fd, offset + start, data[start:stop])
        start = max(stop, start)
        while start < end and _is_zero(data, start):
            start += _HOLE_BYTES


def _is_zero(data: bytes, start: int) -> bool:
    piece = data[start : start + _HOLE_BYTES]
    return piece.count(0) == len(piece)


def _write_all(fd: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
