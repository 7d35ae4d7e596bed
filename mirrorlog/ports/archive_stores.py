"""The port to the store of an archive: objects with names, each written once and never changed.

The adapters are adapters/archive_folder.py, adapters/archive_bucket.py (S3) and, in memory,
simulation/memory_archive.py. tests/contract/test_archive_stores.py holds for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class ArchiveStore(Protocol):
    """Objects by name: path-like, of `/`-separated parts. ArchiveFailed if the store refuses."""

    @property
    def where(self) -> str:
        """The address of the store, for people. It holds no secret."""

    def create(self, name: str, content: bytes) -> bool:
        """Create an object whole and durably. Return False, and change nothing, if it exists.

        The check and the creation are one step: of two callers with one name, one gets True. No
        reader ever sees a part of the content. After ArchiveFailed the object may exist or not.
        """

    def read(self, name: str) -> bytes | None:
        """Return the content of an object; None if there is none of that name."""

    def size_bytes(self, name: str) -> int | None:
        """Return the size of an object; None if there is none of that name."""

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names of the objects below `prefix`, a whole part such as `manifests/`.

        They are in the order of their UTF-8 bytes. An object that exists before the call is
        yielded.
        """

    def close(self) -> None:
        """Release what the store holds open."""
