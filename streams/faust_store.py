"""The table's local store: a Faust table in RocksDB, recovered by Faust from the changelog.

Faust's own `table[key] = value` writes the store at once and sends the changelog record without waiting for it. Nothing
here uses it: what was acknowledged is written through the store's public batch call, the one that recovery uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import faust
from faust.types import TP

from mirrorlog.streams.log_table import Row


class FaustStore:
    """Rows of the log by partition."""

    def __init__(self, app: faust.App, changelog: str, options: Mapping[str, int]) -> None:
        self._changelog = changelog
        self.table: Any = app.Table(
            "log",
            key_type=bytes,
            value_type=bytes,
            changelog_topic=app.topic(changelog, key_serializer="raw", value_serializer="raw", compacting=True),
            options=dict(options),
        )

    def get(self, partition: int, key: bytes) -> bytes | None:
        """The row's value."""
        # Faust's store finds the partition by the current event, and there is none in a batch: ask by its number.
        value: bytes | None = self.table.data._db_for_partition(partition).get(key)
        return value

    def write(self, partition: int, rows: Sequence[Row], positions: Sequence[int]) -> None:
        """All rows in one batch, then the changelog's position: recovery goes on behind it, so it must never be ahead."""
        tp = TP(self._changelog, partition)
        events = [
            SimpleNamespace(message=SimpleNamespace(tp=tp, partition=partition, offset=position, key=key, value=value))
            for (key, value), position in zip(rows, positions, strict=True)
        ]
        self.table.data.apply_changelog_batch(events, to_key=None, to_value=None)
