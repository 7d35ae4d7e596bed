"""The port to the rows of the log table on this worker's disk, in the parts that its users need.

The table holds the tracking log by partition. `FaustStore` implements the ports with RocksDB; tests
implement them in memory. Every user takes the smallest part that serves it:

| port            | user                                    | what it adds                         |
|-----------------|-----------------------------------------|--------------------------------------|
| `RowStore`      | none by itself                          | a row by its key, a batch of rows    |
| `LocalStore`    | `LogTable`, for the fold and compaction | keys in their order                  |
| `FollowedStore` | `ChangelogFollower`                     | which changelog, and through where   |
| `TableView`     | queries over HTTP                       | a partition as it was at one time    |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

Row: TypeAlias = tuple[bytes, bytes | None]
"""The key and the value of a row. The value None removes the key."""


class RowStore(Protocol):
    """The rows of the table by partition."""

    def get(self, partition: int, key: bytes) -> bytes | None:
        """Return the value of the row with this key, None if the table has no such row."""

    def write(self, partition: int, rows: Sequence[Row], positions: Sequence[int]) -> None:
        """Write `rows` in one batch, then store the highest of `positions`.

        positions: for each row the offset of its message in the changelog. The changelog must have
        acknowledged all of them: recovery continues behind the stored position, so the table is
        never ahead of the changelog (invariant 3).
        """


class LocalStore(RowStore, Protocol):
    """The part of the store that `LogTable` needs."""

    def keys(
        self, partition: int, start: bytes, end: bytes, limit: int | None = None
    ) -> list[bytes]:
        """Return the keys in [start, end) in their order, at most the first `limit` of them."""


class FollowedStore(RowStore, Protocol):
    """The part of the store that follows the changelog."""

    def changelog_position(self, partition: int) -> int | None:
        """Return the highest changelog offset that the table holds, None if it holds none."""

    def changelog_identity(self, partition: int) -> str | None:
        """Return the identity of the changelog that the rows came from, None if unknown."""

    def reset(self, partition: int, changelog_identity: str) -> None:
        """Replace the partition's table by an empty one for rows of that changelog."""


class TableView(Protocol):
    """The rows of one partition as they were when the view was opened, whatever is written later.

    A flush is one batch of rows, so a view shows all of it or nothing. A roll-up takes several
    batches: a view may show the rolled-up record beside its sources.
    """

    def get(self, key: bytes) -> bytes | None:
        """Return the value of the row with this key, None if the view has no such row."""

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield every row whose key begins with `prefix`, in the order of keys.

        The iterator ends early when another method of the view is called.
        """

    def close(self) -> None:
        """Release the table. RocksDB keeps its folder locked while a view is open."""
