"""The folder where a host keeps what must outlive it, and how a file in it is replaced whole."""

from __future__ import annotations

from typing import Protocol


class StateFile(Protocol):
    """A file open for writing. DeviceFailed where it can't be written."""

    def pread(self, *, offset: int, length: int) -> bytes:
        """Up to `length` bytes: fewer at the end of the file."""
        ...

    def pwrite(self, offset: int, data: bytes) -> None:
        """Writes all of `data`; durable after the next sync()."""
        ...

    def sync(self) -> None:
        """What was written, and the file's size, are durable when it returns."""
        ...

    def close(self) -> None:
        """Lets go of the file, without a sync(). Closing twice is harmless."""
        ...


class StateFolder(Protocol):
    """Files by name in one folder. DeviceFailed where they can't be read or written."""

    def lock(self) -> None:
        """Keeps every other process off the folder until close(). BadUse where one is there already."""
        ...

    def read(self, name: str) -> bytes | None:
        """The whole file; None where there is none."""
        ...

    def names(self) -> list[str]:
        """The names of the files there are."""
        ...

    def create(self, name: str) -> StateFile:
        """A new empty file; one of that name is emptied."""
        ...

    def remove(self, name: str) -> None:
        """There is no such file any more; durable after the next sync(). Harmless where there was none."""
        ...

    def rename(self, old: str, new: str) -> None:
        """`new` is the file that was `old`, at once for all who look; durable after the next sync()."""
        ...

    def sync(self) -> None:
        """The names are durable."""
        ...

    def close(self) -> None:
        """Gives up the lock."""
        ...


def replace_file(folder: StateFolder, name: str, content: bytes) -> StateFile:
    """Makes `content` the file `name`, wholly or not at all whatever happens meanwhile; it stays open.

    1. Write it under another name.
    2. Make it durable.
    3. Give it its name.
    4. Make the name durable.
    """
    file = folder.create(f"{name}.new")
    try:
        file.pwrite(0, content)
        file.sync()
        folder.rename(f"{name}.new", name)
        folder.sync()
    except BaseException:
        file.close()
        raise
    return file
