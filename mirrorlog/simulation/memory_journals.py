"""JournalStore in memory, which can lose power between any two operations."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, TypeAlias

from mirrorlog.consumers.journal.journal_store import JournalFullError
from mirrorlog.domain.volumes import check_group_name, check_volume_name
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.folders import StateFile

SECTOR_BYTES: Final = 64
"""So much is written as a whole. Real disks write more; a crash so tears more."""

JournalHook: TypeAlias = Callable[[str, str], None]
"""Called with (operation, volume) before each operation. It may raise."""


class _Content:
    """The bytes of one file: those that reads see, those that a crash leaves, and the changes.

    A change is (offset, data); data is None where the file was cut off at `offset`.
    """

    def __init__(self) -> None:
        self.now = bytearray()
        self.durable = bytearray()
        self.unsynced: list[tuple[int, bytes | None]] = []


class MemoryJournals:
    """A double of JournalFolder.

    hook: called before each operation. max_bytes: the room on the disk; None for any.
    """

    def __init__(self) -> None:
        self.hook: JournalHook | None = None
        self.max_bytes: int | None = None
        self._files: Final[dict[str, _Content]] = {}
        self._commits: Final[dict[str, bytes]] = {}
        self._crashes = 0

    def volumes(self) -> list[str]:
        """Return the volumes of which there is a file that isn't empty."""
        self.before("volumes", "")
        return sorted(name for name, content in self._files.items() if content.now)

    def create(self, volume: str) -> StateFile:
        """Create an empty file, or empty the one that is there."""
        self.before("create", check_volume_name(volume))
        content = self._files.setdefault(volume, _Content())
        _change(content, 0, None)
        return _MemoryJournal(self, volume, content, self._crashes)

    def open(self, volume: str) -> StateFile | None:
        """Open the file of a volume; None if there is none."""
        self.before("open", check_volume_name(volume))
        content = self._files.get(volume)
        if content is None:
            return None
        return _MemoryJournal(self, volume, content, self._crashes)

    def clear(self, volume: str) -> None:
        """Empty the file of a volume, if there is one."""
        self.before("clear", check_volume_name(volume))
        content = self._files.get(volume)
        if content is not None:
            _change(content, 0, None)

    def write_commit(self, group: str, content: bytes) -> None:
        """Replace a commit record in one step. A crash before it is over may leave either one."""
        self.before("commit", check_group_name(group))
        if self.max_bytes is not None and len(content) > self.max_bytes:
            raise JournalFullError("the disk of the journals is full (memory)")
        self._commits[group] = content
        self.before("commit sync", group)

    def read_commit(self, group: str) -> bytes | None:
        """Return the commit record of a group; None if there is none."""
        self.before("read commit", check_group_name(group))
        return self._commits.get(group)

    def content(self, volume: str) -> bytes:
        """Return the bytes of a file; none if there is no file."""
        content = self._files.get(volume)
        return b"" if content is None else bytes(content.now)

    def put(self, volume: str, content: bytes) -> None:
        """Make these the bytes of a file, durably."""
        file = self._files.setdefault(volume, _Content())
        file.now, file.durable = bytearray(content), bytearray(content)
        file.unsynced.clear()

    def crash(self, keep: Random | None = None) -> None:
        """Switch the power off and on: what wasn't synced is lost.

        keep: draws which of the sectors, and of the cuts, survive all the same.
        """
        self._crashes += 1
        for content in self._files.values():
            for offset, data in content.unsynced if keep is not None else ():
                assert keep is not None
                if data is None:
                    if keep.getrandbits(1):
                        _write(content.durable, offset, None)
                    continue
                for start in range(0, len(data), SECTOR_BYTES):
                    if keep.getrandbits(1):
                        _write(content.durable, offset + start, data[start : start + SECTOR_BYTES])
            content.unsynced.clear()
            content.now = bytearray(content.durable)

    def before(self, operation: str, volume: str) -> None:
        """Call the hook."""
        if self.hook is not None:
            self.hook(operation, volume)

    def alive(self, crashes: int) -> bool:
        """Return whether no crash has happened since the number of crashes was `crashes`."""
        return crashes == self._crashes


class _MemoryJournal:
    """A StateFile of MemoryJournals. After a crash no operation succeeds."""

    def __init__(
        self, journals: MemoryJournals, volume: str, content: _Content, crashes: int
    ) -> None:
        self._journals, self._volume = journals, volume
        self._content, self._crashes = content, crashes
        self._is_closed = False

    def pread(self, *, offset: int, length: int) -> bytes:
        self._begin("journal pread")
        return bytes(self._content.now[offset : offset + length])

    def pwrite(self, offset: int, data: bytes) -> None:
        self._begin("journal pwrite")
        room = self._journals.max_bytes
        if room is not None and offset + len(data) > room:
            raise JournalFullError("the disk of the journals is full (memory)")
        _change(self._content, offset, bytes(data))

    def sync(self) -> None:
        self._begin("journal sync")
        self._content.durable = bytearray(self._content.now)
        self._content.unsynced.clear()

    def close(self) -> None:
        self._is_closed = True

    def _begin(self, operation: str) -> None:
        if self._is_closed or not self._journals.alive(self._crashes):
            raise DeviceFailed(
                "the journal is closed, or its machine crashed", where="memory, offset 0"
            )
        self._journals.before(operation, self._volume)


def _change(content: _Content, offset: int, data: bytes | None) -> None:
    _write(content.now, offset, data)
    content.unsynced.append((offset, data))


def _write(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    if len(content) < offset + len(data):
        content.extend(bytes(offset + len(data) - len(content)))
    content[offset : offset + len(data)] = data
