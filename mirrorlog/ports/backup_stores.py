"""The port to the store of a backup repository: objects with names, each created whole.

The adapters are adapters/backup_folder.py, adapters/backup_bucket.py (S3) and, in memory,
simulation/memory_backups.py. tests/contract/test_backup_stores.py holds for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from mirrorlog.errors import BadUse

WAIT_FOR_WRITER: Final = (
    "Wait until it ends. `mirrorlog backup VOLUME`, `prune` and `drop` do that with --lock-wait."
)


class RepositoryInUse(BadUse):
    """Another process writes to the repository. It ends some time."""


class WriterLock(Protocol):
    """The right to be the only writer of a repository."""

    def check(self) -> None:
        """Raise RepositoryFailed if another writer may have the right by now."""
        ...

    def release(self) -> None:
        """Give the right up. A second call does nothing."""
        ...


class BackupStore(Protocol):
    """Objects by name: path-like, of `/`-separated parts. RepositoryFailed if the store refuses.

    No reader ever sees a part of an object. After RepositoryFailed, what was to be created,
    replaced or deleted may be so or not.
    """

    @property
    def where(self) -> str:
        """The address of the store, for people. It holds no secret."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Create an object whole and durably. Return False, and change nothing, if it exists.

        The check and the creation are one step: of two callers with one name, one gets True.
        """
        ...

    def upload(self, name: str, source: Path) -> bool:
        """Create an object of a local file, durably. Return False if the object exists.

        Two callers at once must not have the same name. The file may be gone afterwards.
        """
        ...

    def replace(self, name: str, source: Path) -> None:
        """Create an object of a local file, durably, or replace it in one step.

        A reader finds the old content or the new one. The file may be gone afterwards.
        """
        ...

    def read(self, name: str) -> bytes | None:
        """Return the content of an object; None if there is none of that name."""
        ...

    def read_range(self, name: str, *, offset: int, length: int) -> bytes | None:
        """Return up to `length` bytes from byte `offset` on: fewer at the object's end.

        None if there is no object of that name.
        """
        ...

    def download(self, name: str, target: Path) -> bool:
        """Write the content of an object to a new local file. Return False if there is no object.

        The file holds one content, even if the object is replaced meanwhile.
        """
        ...

    def size_bytes(self, name: str) -> int | None:
        """Return the size of an object; None if there is none of that name."""
        ...

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names of the objects below `prefix`, a whole part such as `volumes/`.

        They are in the order of their UTF-8 bytes. An object that exists before the call is
        yielded.
        """
        ...

    def delete(self, name: str) -> None:
        """Delete an object durably. Harmless if there is none of that name."""
        ...

    def local_path(self, name: str) -> Path | None:
        """Return the path at which programs of this machine read an object.

        None if the store isn't in its file system.
        """
        ...

    def work_folder(self) -> AbstractContextManager[Path]:
        """Return a local folder for files that are to be uploaded. It is removed at the end.

        What a killed process leaves there is removed by a later call.
        """
        ...

    def lock(self, purpose: str) -> WriterLock:
        """Become the only writer. purpose: for people, such as `backup of vol1`.

        The right ends by itself some time after this process. Raise RepositoryInUse, which names
        the other writer, if there is one.
        """
        ...

    def close(self) -> None:
        """Release what the store holds open."""
        ...
