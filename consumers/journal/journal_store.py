"""The port to the place where a site keeps its journals, one a volume.

The adapters are journal_folder.py and mirrorlog/simulation/memory_journals.py.
"""

from __future__ import annotations

from typing import Protocol

from mirrorlog.ports.folders import StateFile


class JournalFullError(Exception):
    """A journal would become larger than its bound, or its disk is full."""


class JournalStore(Protocol):
    """The journals of one site. Each method raises DeviceFailed if the place can't be used.

    A file's pwrite() raises JournalFullError if the disk is full. Threads may call pread() and
    pwrite() of one file at the same time.
    """

    def volumes(self) -> list[str]:
        """Return the volumes of which there is a file that isn't empty, sorted."""
        ...

    def create(self, volume: str) -> StateFile:
        """Create an empty file, or empty the one that is there; return it open.

        What was in it may come back after a crash. Its name is durable after a sync() of the file.
        """
        ...

    def open(self, volume: str) -> StateFile | None:
        """Open the file of a volume; None if there is none."""
        ...

    def clear(self, volume: str) -> None:
        """Empty the file of a volume, if there is one. What was in it may come back at a crash."""
        ...

    def write_commit(self, group: str, content: bytes) -> None:
        """Replace the commit record of a consistency group, durably and in one step.

        After a crash or an error, read_commit() returns the old record or the new one, whole.
        """
        ...

    def read_commit(self, group: str) -> bytes | None:
        """Return the commit record of a group; None if none was ever written."""
        ...


class NoJournals:
    """JournalStore of a site without journals. It holds none, and none can be begun."""

    def volumes(self) -> list[str]:
        """Return no volume."""
        return []

    def create(self, volume: str) -> StateFile:
        """Raise JournalFullError."""
        raise JournalFullError(f"there is no place for the journal of {volume}")

    def open(self, volume: str) -> StateFile | None:
        """Return None."""
        del volume
        return None

    def clear(self, volume: str) -> None:
        """Do nothing."""

    def write_commit(self, group: str, content: bytes) -> None:
        """Raise JournalFullError."""
        del content
        raise JournalFullError(f"there is no place for the commit record of group {group}")

    def read_commit(self, group: str) -> bytes | None:
        """Return None."""
        del group
        return None
