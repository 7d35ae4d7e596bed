"""The table of the log in RocksDB, as a Faust table. Implements engine.WorkerStore.

Faust's own `table[key] = value` writes the store at once and sends the changelog record without
waiting for it. Nothing here uses it: rows whose messages are acknowledged are written through the
store's public batch call, the one that Faust's recovery uses.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final

import faust
from faust.stores.rocksdb import RocksDBOptions
from faust.types import TP

from mirrorlog.errors import NodeUnavailable
from mirrorlog.streams.table.local_store import Row, rows_to_keep
from mirrorlog.streams.table.rocks_view import RocksTableView
from mirrorlog.tracking_log.keys import above_prefix

_IDENTITY_KEY: Final = b"__faust\0changelog__"
"""The row that holds the changelog's identity. Faust keeps its position under a similar key."""
_DISCARDED_PREFIX: Final = b"__faust\0discarded__"
"""The rows that `reset` keeps of the table that it replaces have this before their keys."""

_SIZES: Final = ("rocksdb.total-sst-files-size", "rocksdb.cur-size-all-mem-tables")
"""RocksDB's properties that make up the size of a table: its files, and what isn't in one yet."""


_LOG_FILE_BYTES: Final = 1 << 20
_LOG_FILES: Final = 4


class _TableOptions(RocksDBOptions):
    """Faust's options, and a bound for RocksDB's own log files (LOG), which otherwise grow for ever
    while the table is open."""

    def as_options(self) -> Any:
        options = super().as_options()
        options.set_max_log_file_size(_LOG_FILE_BYTES)
        options.set_keep_log_file_num(_LOG_FILES)
        return options


class FaustStore:
    """The rows of the log by partition.

    options: Faust's options of RocksDB (`block_cache_size` and `write_buffer_size`, in bytes).
    """

    def __init__(self, app: faust.App, changelog: str, options: Mapping[str, int]) -> None:
        self._changelog = changelog
        self.table: Any = app.Table(
            "log",
            key_type=bytes,
            value_type=bytes,
            changelog_topic=app.topic(
                changelog, key_serializer="raw", value_serializer="raw", compacting=True
            ),
            options=dict(options),
        )
        data: Any = self.table.data
        data.rocksdb_options = _TableOptions(**options, use_rocksdict=True)

    def open(self, partition: int) -> None:
        """Open the partition's table if it isn't open, and create it if there is none."""
        self.table.data._db_for_partition(partition)

    def open_view(self, partition: int) -> RocksTableView:
        """Open a view of a partition's table, from any thread (WorkerStore.open_view).

        It never opens the table itself: the partition may belong to another worker by now.
        """
        table: Any = self.table.data._dbs.get(partition)
        if table is None:
            raise NodeUnavailable(
                "the partition's table isn't open",
                where=f"partition {partition}",
                next="Ask again.",
            )
        return RocksTableView(table)

    def size_bytes(self, partition: int) -> int | None:
        """Return about how much the partition's table takes (WorkerStore.size_bytes)."""
        table: Any = self.table.data._dbs.get(partition)
        if table is None:
            return None
        return sum(table.property_int_value(name) or 0 for name in _SIZES)

    def get(self, partition: int, key: bytes) -> bytes | None:
        """Return the value of the row with this key, None if the table has no such row."""
        # Faust's store takes the partition from the current event, and a batch has none.
        value: bytes | None = self.table.data._db_for_partition(partition).get(key)
        return value

    def keys(
        self, partition: int, start: bytes, end: bytes, limit: int | None = None
    ) -> list[bytes]:
        """Return the keys in [start, end) in their order, at most the first `limit` of them.

        A list, not an iterator: Faust can't open the table again while an iterator of it lives.
        """
        rows = self.table.data._db_for_partition(partition).iter()
        rows.seek(start)
        keys: list[bytes] = []
        while (
            rows.valid()
            and (key := bytes(rows.key())) < end
            and (limit is None or len(keys) < limit)
        ):
            keys.append(key)
            rows.next()
        rows.status()  # raises the error that made valid() false, if it wasn't the end
        return keys

    def changelog_position(self, partition: int) -> int | None:
        """Return the highest changelog offset that the table holds, None if it holds none."""
        position: int | None = self.table.data.persisted_offset(TP(self._changelog, partition))
        return position

    def changelog_identity(self, partition: int) -> str | None:
        """Return the identity of the changelog that the rows came from, None if unknown."""
        value: bytes | None = self.table.data._db_for_partition(partition).get(_IDENTITY_KEY)
        return None if value is None else value.decode()

    def reset(self, partition: int, changelog_identity: str) -> None:
        """Replace the partition's table by an empty one for rows of that changelog.

        Its watermark and its heads are kept (FollowedStore.reset). A crash before they are written
        again loses them.
        """
        data = self.table.data
        kept = rows_to_keep(self, partition, self.discarded(partition))
        if (old := data._dbs.pop(partition, None)) is not None:
            old.close()
        shutil.rmtree(data.partition_path(partition), ignore_errors=True)
        new = data._db_for_partition(partition)
        for key, value in kept.items():
            new.put(_DISCARDED_PREFIX + key, value)
        new.put(_IDENTITY_KEY, changelog_identity.encode())

    def empty_write_buffer(self, partition: int) -> None:
        """Return when the rows that the table gathers in memory are in a file (FollowedStore)."""
        self.table.data._db_for_partition(partition).flush(wait=True)

    def discarded(self, partition: int) -> dict[bytes, bytes]:
        """Return what `reset` kept of the tables that it replaced, by key."""
        keys = self.keys(partition, _DISCARDED_PREFIX, above_prefix(_DISCARDED_PREFIX))
        rows = {key: self.get(partition, key) for key in keys}
        return {
            key.removeprefix(_DISCARDED_PREFIX): value
            for key, value in rows.items()
            if value is not None
        }

    def forget_discarded(self, partition: int) -> None:
        """Forget what `discarded` returns."""
        table = self.table.data._db_for_partition(partition)
        for key in self.keys(partition, _DISCARDED_PREFIX, above_prefix(_DISCARDED_PREFIX)):
            table.delete(key)

    def write(self, partition: int, rows: Sequence[Row], positions: Sequence[int]) -> None:
        """Write `rows` in one batch, then store the highest of `positions` (RowStore.write)."""
        tp = TP(self._changelog, partition)
        events = [
            SimpleNamespace(
                message=SimpleNamespace(
                    tp=tp, partition=partition, offset=position, key=key, value=value
                )
            )
            for (key, value), position in zip(rows, positions, strict=True)
        ]
        self.table.data.apply_changelog_batch(events, to_key=None, to_value=None)
