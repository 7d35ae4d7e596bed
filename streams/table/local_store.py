"""The port to the rows of the log table on this worker's disk, in the parts that its users need.

The table holds the tracking log by partition. `FaustStore` implements the ports with RocksDB; tests
implement them in memory. Every user takes the smallest part that serves it:

| port            | user                                    | what it adds                         |
|-----------------|-----------------------------------------|--------------------------------------|
| `RowStore`      | none by itself                          | rows by keys, a batch of rows        |
| `LocalStore`    | `LogTable`, for the fold and compaction | what is kept of discarded tables     |
| `FollowedStore` | `ChangelogFollower`                     | which changelog, and through where   |
| `TableView`     | queries over HTTP                       | a partition as it was at one time    |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

from mirrorlog.streams.table.acknowledged_end import AcknowledgedEnd
from mirrorlog.tracking_log.keys import HEAD_PREFIX, above_prefix, watermark_key

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

        The batch may be lost when the process is killed, with all later ones: the table is then as
        it was before. What newly_acknowledged() returns of it isn't lost.
        """

    def changelog_position(self, partition: int) -> int | None:
        """Return the highest changelog offset that the table holds, None if it holds none."""

    def keys(
        self, partition: int, start: bytes, end: bytes, limit: int | None = None
    ) -> list[bytes]:
        """Return the keys in [start, end) in their order, at most the first `limit` of them."""

    def empty_write_buffer(self, partition: int, *, wait: bool) -> None:
        """Let the rows that the table gathers in memory go to a file.

        It frees memory, and a worker that is killed reads less again.
        wait: return when they are there. Otherwise they go there soon.
        """


class LocalStore(RowStore, Protocol):
    """The part of the store that `LogTable` needs."""

    def discarded(self, partition: int) -> dict[bytes, bytes]:
        """Return what `FollowedStore.reset` kept of the tables that it replaced, by key."""

    def forget_discarded(self, partition: int) -> None:
        """Forget what `discarded` returns."""


class FollowedStore(RowStore, Protocol):
    """The part of the store that follows the changelog."""

    def changelog_identity(self, partition: int) -> str | None:
        """Return the identity of the changelog that the rows came from, None if unknown."""

    def acknowledged_end(self, partition: int) -> AcknowledgedEnd | None:
        """Return where the rows that the table took ended in the changelog, None if unknown.

        They may end above `changelog_position`: a worker that was killed has lost the newest ones.
        """

    def acknowledged_watermark(self, partition: int) -> bytes | None:
        """Return the newest watermark that the table took, None if it is unknown."""

    def reset(self, partition: int, changelog_identity: str) -> None:
        """Replace the partition's table by an empty one for rows of that changelog.

        The watermark and the heads of the table stay beside the empty one (`LocalStore.discarded`):
        they may be all that shows that the broker went back in time. Those that it took and lost
        when it was killed count as the table's (`acknowledged_end`). What an earlier reset kept
        stays too, unless this table has the key; of several watermarks the latest one stays.
        """


def heads_and_watermark(store: RowStore, partition: int) -> dict[bytes, bytes]:
    """Return the rows of a partition's table that a reset keeps, by key."""
    keys = [
        *store.keys(partition, HEAD_PREFIX, above_prefix(HEAD_PREFIX)),
        watermark_key(partition),
    ]
    return {key: value for key in keys if (value := store.get(partition, key)) is not None}


class TableView(Protocol):
    """The rows of one partition as they were when the view was opened, whatever is written later.

    A flush is one batch of rows, so a view shows all of it or nothing. A roll-up takes several
    batches: a view may show the rolled-up record beside its sources.
    """

    def get(self, key: bytes) -> bytes | None:
        """Return the value of the row with this key, None if the view has no such row."""

    def has(self, key: bytes) -> bool:
        """Return whether the view has a row with this key. Its value isn't copied."""

    def first_from(self, key: bytes) -> tuple[bytes, bytes] | None:
        """Return the row with the lowest key that isn't below `key`, None if there is none."""

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield every row whose key begins with `prefix`, in the order of keys.

        The iterator ends early when another method of the view is called.
        """

    def close(self) -> None:
        """Release the table. RocksDB keeps its folder locked while a view is open."""
