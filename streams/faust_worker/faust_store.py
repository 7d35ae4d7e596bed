"""The table of the log in RocksDB, as a Faust table. Implements engine.WorkerStore.

Faust's own `table[key] = value` writes the store at once and sends the changelog record without
waiting for it. Nothing here uses it: rows whose messages are acknowledged are written through the
store's public batch call, the one that Faust's recovery uses.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import faust
from faust.stores.rocksdb import RocksDBOptions
from faust.types import TP
from rocksdict import WriteBatch, WriteOptions

from mirrorlog.errors import NodeUnavailable
from mirrorlog.streams.table.acknowledged_end import (
    AcknowledgedEnd,
    newly_acknowledged,
    rows_to_keep,
)
from mirrorlog.streams.table.local_store import Row, heads_and_watermark
from mirrorlog.streams.table.rocks_view import RocksTableView
from mirrorlog.tracking_log.keys import above_prefix, watermark_key

_IDENTITY_KEY: Final = b"__faust\0changelog__"
"""The row that holds the changelog's identity. Faust keeps its position under a similar key."""
_DISCARDED_PREFIX: Final = b"__faust\0discarded__"
"""The rows that `reset` keeps of the table that it replaces have this before their keys."""
_ACKNOWLEDGED_PREFIX: Final = b"__faust\0acknowledged__"
"""The key of the AcknowledgedEnd. The copies that are kept with it have it before their keys."""

_SIZES: Final = ("rocksdb.total-sst-files-size", "rocksdb.cur-size-all-mem-tables")
"""RocksDB's properties that make up the size of a table: its files, and what isn't in one yet."""


_LOG_FILE_BYTES: Final = 1 << 20
_LOG_FILES: Final = 4


class _TableOptions(RocksDBOptions):
    """Faust's options, with two changes.

    RocksDB's own log files (LOG) have a bound: otherwise they grow while the table is open.
    Writes without options of their own aren't written to the write-ahead log: the changelog has
    them (docs/decisions/table-log.md).
    """

    def as_options(self) -> Any:
        options = super().as_options()
        options.set_max_log_file_size(_LOG_FILE_BYTES)
        options.set_keep_log_file_num(_LOG_FILES)
        return options

    def open(self, path: Path, *, read_only: bool = False) -> Any:
        table: Any = super().open(path, read_only=read_only)
        unlogged: Any = WriteOptions()
        unlogged.disable_wal = True  # Its stub says that it's a method, and it is a property.
        table.set_write_options(unlogged)
        return table


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
        self._logged: Final = WriteOptions()
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

    def acknowledged_end(self, partition: int) -> AcknowledgedEnd | None:
        """Return where the rows that the table took ended (FollowedStore.acknowledged_end)."""
        stored = self.get(partition, _ACKNOWLEDGED_PREFIX)
        return None if stored is None else AcknowledgedEnd.from_bytes(stored)

    def acknowledged_watermark(self, partition: int) -> bytes | None:
        """Return the newest watermark that the table took, None if it is unknown."""
        return self.get(partition, _ACKNOWLEDGED_PREFIX + watermark_key(partition))

    def reset(self, partition: int, changelog_identity: str) -> None:
        """Replace the partition's table by an empty one for rows of that changelog.

        Its watermark and its heads are kept (FollowedStore.reset). A crash before they are written
        again loses them.
        """
        data = self.table.data
        kept = rows_to_keep(
            partition,
            self.discarded(partition),
            heads_and_watermark(self, partition),
            self._copies(partition, _ACKNOWLEDGED_PREFIX),
        )
        if (old := data._dbs.pop(partition, None)) is not None:
            old.close()
        shutil.rmtree(data.partition_path(partition), ignore_errors=True)
        new = data._db_for_partition(partition)
        for key, value in kept.items():
            new.put(_DISCARDED_PREFIX + key, value, self._logged)
        new.put(_IDENTITY_KEY, changelog_identity.encode(), self._logged)

    def empty_write_buffer(self, partition: int, *, wait: bool) -> None:
        """Let the rows that the table gathers in memory go to a file (RowStore)."""
        self.table.data._db_for_partition(partition).flush(wait=wait)

    def discarded(self, partition: int) -> dict[bytes, bytes]:
        """Return what `reset` kept of the tables that it replaced, by key."""
        return self._copies(partition, _DISCARDED_PREFIX)

    def _copies(self, partition: int, prefix: bytes) -> dict[bytes, bytes]:
        """Return the rows that have a prefix before their keys, by their keys without it."""
        keys = self.keys(partition, prefix, above_prefix(prefix))
        return {
            key.removeprefix(prefix): value
            for key in keys
            if key != prefix and (value := self.get(partition, key)) is not None
        }

    def forget_discarded(self, partition: int) -> None:
        """Forget what `discarded` returns."""
        table = self.table.data._db_for_partition(partition)
        for key in self.keys(partition, _DISCARDED_PREFIX, above_prefix(_DISCARDED_PREFIX)):
            table.delete(key, self._logged)

    def write(self, partition: int, rows: Sequence[Row], positions: Sequence[int]) -> None:
        """Write `rows` in one batch, then store the highest of `positions` (RowStore.write)."""
        self._keep_acknowledged(partition, rows, positions)
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

    def _keep_acknowledged(
        self, partition: int, rows: Sequence[Row], positions: Sequence[int]
    ) -> None:
        """Write what newly_acknowledged() says to the write-ahead log."""
        known = self.acknowledged_end(partition)
        if (kept := newly_acknowledged(known, partition, rows, positions)) is None:
            return
        end, copied = kept
        batch = WriteBatch(raw_mode=True)
        for key, value in copied:
            if value is None:
                batch.delete(_ACKNOWLEDGED_PREFIX + key)
            else:
                batch.put(_ACKNOWLEDGED_PREFIX + key, value)
        batch.put(_ACKNOWLEDGED_PREFIX, end.to_bytes())
        self.table.data._db_for_partition(partition).write(batch, self._logged)
