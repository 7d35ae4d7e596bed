"""The table's local store: a Faust table in RocksDB, recovered by Faust from the changelog.

Faust's own `table[key] = value` writes the store at once and sends the changelog record without waiting for it. Nothing
here uses it: what was acknowledged is written through the store's public batch call, the one that recovery uses.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final

import faust
from faust.types import TP

from mirrorlog.streams.table.local_store import Row

_ORIGIN_KEY: Final = b"__faust\0changelog__"
"""Beside Faust's own key, that of the position."""


class FaustStore:
    """Rows of the log by partition."""

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

    def get(self, partition: int, key: bytes) -> bytes | None:
        """The row's value."""
        # Faust's store finds the partition by the current event, and there is none in a batch: ask by its number.
        value: bytes | None = self.table.data._db_for_partition(partition).get(key)
        return value

    def keys(
        self, partition: int, start: bytes, end: bytes, limit: int | None = None
    ) -> list[bytes]:
        """The first `limit` keys from `start` on and below `end`, in their order.

        A list and not an iterator: whoever holds one of RocksDB's keeps Faust from opening the table again.
        """
        rows = self.table.data._db_for_partition(partition).iter()
        rows.seek(start)
        found: list[bytes] = []
        while (
            rows.valid()
            and (key := bytes(rows.key())) < end
            and (limit is None or len(found) < limit)
        ):
            found.append(key)
            rows.next()
        rows.status()  # an error looks like the end until it is asked for
        return found

    def changelog_position(self, partition: int) -> int | None:
        """Of the last row of the changelog that the table holds."""
        position: int | None = self.table.data.persisted_offset(TP(self._changelog, partition))
        return position

    def changelog_identity(self, partition: int) -> str | None:
        """The identity of the changelog that its rows came from."""
        value: bytes | None = self.table.data._db_for_partition(partition).get(_ORIGIN_KEY)
        return None if value is None else value.decode()

    def reset(self, partition: int, changelog_identity: str) -> None:
        """An empty table for rows of that changelog, whatever was there."""
        data = self.table.data
        if (old := data._dbs.pop(partition, None)) is not None:
            old.close()
        shutil.rmtree(data.partition_path(partition), ignore_errors=True)
        data._db_for_partition(partition).put(_ORIGIN_KEY, changelog_identity.encode())

    def write(self, partition: int, rows: Sequence[Row], positions: Sequence[int]) -> None:
        """All rows in one batch, then the changelog's position: recovery goes on behind it, so it must never be ahead."""
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
