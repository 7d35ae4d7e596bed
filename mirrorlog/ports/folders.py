"""The port to a state folder: the files where a host keeps what must outlive it.

The adapters are producers/durable/disk_folder.py and simulation/memory_folder.py.
"""

from __future__ import annotations

from typing import Protocol


class StateFile(Protocol):
    """A file open for reading and writing. DeviceFailed if it can't be read or written."""

    def pread(self, *, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from byte `offset` on; fewer at the end of the file."""
        ...

    def pwrite(self, offset: int, data: bytes) -> None:
        """Write all of `data` at byte `offset`. It is durable after the next sync()."""
        ...

    def sync(self) -> None:
        """Make what was written durable, and the file's size."""
        ...

    def close(self) -> None:
        """Close the file without a sync(). Closing twice is harmless."""
        ...


class StateFolder(Protocol):
    """One folder of files, by name. DeviceFailed if it can't be read or written."""

    def lock(self) -> None:
        """Lock the folder against other processes until close().

        Raise BadUse if one has locked it.
        """
        ...

    def owner(self) -> str:
        """Return what tells the folder, on this run of this machine, from a copy of it elsewhere.

        It stays the same as long as the machine runs. The folder must be locked.
        """
        ...

    def read(self, name: str) -> bytes | None:
        """Return the whole content of the file; None if there is no such file."""
        ...

    def names(self) -> list[str]:
        """Return the names of all files."""
        ...

    def create(self, name: str) -> StateFile:
        """Create an empty file, or empty the one of that name."""
        ...

    def remove(self, name: str) -> None:
        """Remove the file, durably after the next sync(). Harmless if there is no such file."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Rename `old` to `new`, atomically; durable after the next sync()."""
        ...

    def sync(self) -> None:
        """Make the names of the files durable."""
        ...

    def close(self) -> None:
        """Unlock the folder."""
        ...


def replace_file(folder: StateFolder, name: str, content: bytes) -> StateFile:
    """Replace the file `name` by one with `content`; return it open.

    Whatever happens meanwhile, the file is either the old one or the new one:

    1. The content is written under another name.
    2. It is made durable.
    3. The file gets its name.
    4. The name is made durable.
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
