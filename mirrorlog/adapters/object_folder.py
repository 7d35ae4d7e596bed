"""Objects with names in a folder, each created whole: what archives and backups are kept in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from mirrorlog.adapters.folders import create_folder, sync_folder
from mirrorlog.errors import MirrorlogError, in_words

_UNFINISHED: Final = ".unfinished"


class ObjectFolder:
    """Objects are files below a folder, which is created when the first one is written.

    An object is written whole under a name of its own in `.unfinished` and made durable, and only
    then linked to its name: link(2) fails if the name exists, so one of two writers wins. A crash
    leaves a file in `.unfinished`, which no reader looks at and the next create() removes unless
    its writer may still run.

    failure: the error for what the folder refuses. noun: what the folder is, for people.
    """

    def __init__(self, root: Path, *, failure: type[MirrorlogError], noun: str) -> None:
        self._root = root.absolute()
        self._failure: Final = failure
        self._noun: Final = noun

    @property
    def where(self) -> str:
        """The path of the folder."""
        return str(self._root)

    def create(self, name: str, content: bytes) -> bool:
        """Create a file whole and durably. Return False if it exists."""
        target = self._path(name)
        if target.exists():
            return False
        with self._reported(f"file {name} can't be written", "Check the disk's free space."):
            temporary = self._new_temporary()
            try:
                with temporary.open("xb", buffering=0) as file:
                    _write_all(file.fileno(), content)
                    os.fsync(file.fileno())
                return link_durably(temporary, target)
            finally:
                with suppress(OSError):
                    temporary.unlink()

    def _new_temporary(self) -> Path:
        """Return a new path in `.unfinished`, for this process. Raise OSError."""
        create_folder(self._root / _UNFINISHED)
        remove_left_over(self._root / _UNFINISHED)
        return self._root / _UNFINISHED / f"{os.getpid()}-{uuid4().hex}"

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        with self._reported(f"file {name} can't be read", "Check the disk."):
            try:
                return self._path(name).read_bytes()
            except FileNotFoundError:
                return None

    def size_bytes(self, name: str) -> int | None:
        """Return the size of a file; None if there is none."""
        with self._reported(f"file {name} can't be read", "Check the disk."):
            try:
                return self._path(name).stat().st_size
            except FileNotFoundError:
                return None

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names of the files below a folder, sorted."""
        with self._reported("the folder can't be listed", "Check its rights."):
            below = len(str(self._root)) + 1
            names = [
                f"{folder}/{name}"[below:]
                for folder, _, names in os.walk(self._path(prefix), onerror=_raise_unless_missing)
                for name in names
            ]
        yield from sorted(names, key=str.encode)

    def path_of(self, name: str) -> str:
        """Return the path at which other programs read an object, or the objects of a prefix."""
        if ".." in name.split("/"):
            raise self._leads_out(name)
        return f"{self._root}/{name}"

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _path(self, name: str) -> Path:
        path = self._root / name
        if ".." in path.parts:
            raise self._leads_out(name)
        return path

    def _leads_out(self, name: str) -> Exception:
        return self._failure(f"a name leads out of the {self._noun}", where=f"{self._root}, {name}")

    @contextmanager
    def _reported(self, what: str, next_step: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failure(
                f"{what}: {in_words(error)}", where=str(self._root), next=next_step
            ) from error


def remove_left_over(folder: Path) -> None:
    """Remove what processes of this machine left in a folder that have ended.

    The names of the files and folders in it begin with a process's number and a hyphen.
    """
    for path in folder.iterdir() if folder.exists() else ():
        process = path.name.partition("-")[0]
        if process.isdigit() and not Path("/proc", process).exists():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
                continue
            with suppress(OSError):
                path.unlink()


@contextmanager
def lent_work_folder(parent: Path) -> Iterator[Path]:
    """Lend an empty folder in `parent`, which is created, until the block ends.

    What killed processes left there is removed first: nothing else may be in `parent`. Raise
    OSError if the folder can't be created.
    """
    remove_left_over(parent)
    folder = parent / f"{os.getpid()}-{uuid4().hex[:12]}"  # short, for sockets in it
    create_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def link_durably(source: Path, target: Path) -> bool:
    """Give a durable file a further name, durably. Return False if the name exists.

    Raise OSError.
    """
    create_folder(target.parent)
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    sync_folder(target.parent)
    return True


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
