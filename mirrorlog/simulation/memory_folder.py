"""A state folder in memory that loses what wasn't synced, as a machine does at a power cut."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from random import Random
from typing import Final

from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.ports.folders import StateFile

SECTOR_BYTES: Final = 512

Names = dict[str, "_FileContent"]


@dataclass(slots=True, eq=False)
class _FileContent:
    """A file's content, its durable content, and the writes (offset, data) since a sync."""

    now: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes]] = field(default_factory=list)


class MemoryFolder:
    """A StateFolder in memory, with crashes and faults. Methods without a docstring follow it.

    hook: called before each operation, with its name. The operation raises what it raises.
    place: what owner() returns: another text stands for another machine, or another run of it.
    full: called with the name of a file that is created or grows. If it returns True, the disk is
        full (ENOSPC).
    """

    def __init__(self) -> None:
        self.hook: Callable[[str], None] = lambda _: None
        self.full: Callable[[str], bool] = lambda _: False
        self.place = "memory"
        self._now: Names = {}
        self._durable: Names = {}
        self._unsynced: list[Names] = []
        self._locked = False
        self._crashes = 0

    def kill(self) -> None:
        """Let the process end as by kill -9: the kernel keeps everything but the lock."""
        self._locked = False
        self._crashes += 1

    def crash(self, keep: Random | None = None) -> None:
        """Let the power fail and return. What wasn't synced is lost.

        keep: decides, for each sector that wasn't synced, whether it survives, and how many of the
            unsynced changes of names do, from the first on.
        """
        self.kill()
        if keep is not None and self._unsynced:
            self._durable = ([self._durable, *self._unsynced])[keep.randint(0, len(self._unsynced))]
        for file in self._durable.values():
            for offset, data in file.unsynced if keep is not None else ():
                for start in range(0, len(data), SECTOR_BYTES):
                    if keep is not None and keep.getrandbits(1):
                        _write(file.durable, offset + start, data[start : start + SECTOR_BYTES])
            file.unsynced.clear()
            file.now = bytearray(file.durable)
        self._now = dict(self._durable)
        self._unsynced.clear()

    def damage(self, name: str, change: Callable[[bytes], bytes | None]) -> None:
        """Change what the disk holds of the file. Harmless if there is no such file.

        change: returns the new content from the old one; None removes the file.
        """
        file = self._now.pop(name, None)
        self._durable.pop(name, None)
        content = None if file is None else change(bytes(file.now))
        if content is not None:
            self._now[name] = self._durable[name] = _FileContent(
                bytearray(content), bytearray(content)
            )

    def copied(self) -> MemoryFolder:
        """Return a folder of its own that holds the same. The hooks are the same, too."""
        other = copy(self)
        files: dict[int, _FileContent] = {}

        def of_its_own(names: Names) -> Names:
            for file in names.values():
                if id(file) not in files:
                    files[id(file)] = _FileContent(
                        bytearray(file.now), bytearray(file.durable), list(file.unsynced)
                    )
            return {name: files[id(file)] for name, file in names.items()}

        other._now, other._durable = of_its_own(self._now), of_its_own(self._durable)
        other._unsynced = [of_its_own(names) for names in self._unsynced]
        return other

    def snapshot(self) -> dict[str, bytes]:
        """Return what the disk holds now: by file, its durable content."""
        return {name: bytes(file.durable) for name, file in self._durable.items()}

    def restore(self, snapshot: Mapping[str, bytes]) -> None:
        """Let the power fail and return with a disk that went back to a snapshot."""
        self.crash()
        self._now = {
            name: _FileContent(bytearray(content), bytearray(content))
            for name, content in snapshot.items()
        }
        self._durable = dict(self._now)

    def lock(self) -> None:
        self.hook("lock")
        if self._locked:
            raise BadUse(
                "another process keeps its state in this folder", where="memory", next="Stop it."
            )
        self._locked = True

    def owner(self) -> str:
        return self.place

    def read(self, name: str) -> bytes | None:
        self.hook("read")
        file = self._now.get(name)
        return None if file is None else bytes(file.now)

    def names(self) -> list[str]:
        self.hook("names")
        return list(self._now)

    def create(self, name: str) -> StateFile:
        self.hook("create")
        self.check_room(name)
        file = _FileContent()
        self._renamed({**self._now, name: file})
        return _MemoryFile(self, name, file, self._crashes)

    def remove(self, name: str) -> None:
        self.hook("remove")
        self._renamed({other: file for other, file in self._now.items() if other != name})

    def rename(self, old: str, new: str) -> None:
        self.hook("rename")
        names = dict(self._now)
        names[new] = names.pop(old)
        self._renamed(names)

    def sync(self) -> None:
        self.hook("sync folder")
        self._durable = dict(self._now)
        self._unsynced.clear()

    def close(self) -> None:
        self._locked = False

    def check_room(self, name: str) -> None:
        """Raise DeviceFailed if `full` says that the disk is full for the file."""
        if self.full(name):
            cause = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise DeviceFailed(
                f"writing failed: {cause.strerror}", where=name, next="Free space."
            ) from cause

    def alive(self, crashes: int) -> bool:
        """Return whether no crash has happened since the number of crashes was `crashes`."""
        return crashes == self._crashes

    def _renamed(self, names: Names) -> None:
        self._now = names
        self._unsynced.append(names)


class _MemoryFile:
    """A StateFile of a MemoryFolder. After a crash of the folder no operation succeeds."""

    def __init__(self, folder: MemoryFolder, name: str, file: _FileContent, crashes: int) -> None:
        self._folder: Final = folder
        self._name: Final = name
        self._file: Final = file
        self._crashes: Final = crashes
        self._closed = False

    def pread(self, *, offset: int, length: int) -> bytes:
        self._begin("pread")
        return bytes(self._file.now[offset : offset + length])

    def pwrite(self, offset: int, data: bytes) -> None:
        self._begin("pwrite")
        if offset + len(data) > len(self._file.now):
            self._folder.check_room(self._name)
        _write(self._file.now, offset, data)
        self._file.unsynced.append((offset, bytes(data)))

    def sync(self) -> None:
        self._begin("sync")
        self._file.durable = bytearray(self._file.now)
        self._file.unsynced.clear()

    def close(self) -> None:
        self._closed = True

    def _begin(self, operation: str) -> None:
        if self._closed or not self._folder.alive(self._crashes):
            raise DeviceFailed(
                "the file is closed, or its machine crashed", where="memory", next="Open it again."
            )
        self._folder.hook(operation)


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset + len(data):
        content.extend(bytes(offset + len(data) - len(content)))
    content[offset : offset + len(data)] = data
