"""TableCensus: the heads of the table by partition, as one number each (HeadCensus)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from mirrorlog.streams.table.local_store import Row, RowStore
from mirrorlog.tracking_log.head_census import HeadCensus
from mirrorlog.tracking_log.keys import HEAD_PREFIX, above_prefix

_KEYS_AT_ONCE: Final = 500


class TableCensus:
    """Counts the heads of a partition when it is first asked, and follows what is written since."""

    def __init__(self, store: RowStore) -> None:
        self._store: Final = store
        self._by_partition: Final[dict[int, HeadCensus]] = {}

    def of(self, partition: int) -> HeadCensus:
        """Return the census of a partition as its table is now."""
        if (known := self._by_partition.get(partition)) is not None:
            return known
        census = self._by_partition[partition] = HeadCensus()
        for rows in self.heads(partition):
            for key, value in rows:
                census.note(key, value)
        return census

    def heads(self, partition: int) -> Iterator[Sequence[Row]]:
        """Yield the rows of all heads of a partition, some at a time."""
        start, end = HEAD_PREFIX, above_prefix(HEAD_PREFIX)
        while keys := self._store.keys(partition, start, end, _KEYS_AT_ONCE):
            start = keys[-1] + b"\0"
            yield [(key, self._store.get(partition, key)) for key in keys]

    def note_rows(self, partition: int, rows: Sequence[Row]) -> None:
        """Note rows that were written to the table."""
        if (census := self._by_partition.get(partition)) is not None:
            for key, value in rows:
                census.note(key, value)

    def forget(self, partitions: Collection[int]) -> None:
        """Forget partitions whose tables somebody else may write."""
        for partition in partitions:
            self._by_partition.pop(partition, None)
