"""Merged files of rows, and what their entries say of their rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from typing import Any, Final, TypeAlias

from mirrorlog.consumers.archive.sorted_rows import key_columns
from mirrorlog.extras import require_module
from mirrorlog.history.arrow_tables import parquet_options

_STATISTICS: Final = ["offset", "position", "appended_at_us"]
"""Of these columns. Those of others choose no row group, and make the footer a third longer."""


def merged_content(groups: Iterator[Any]) -> tuple[bytes, dict[str, Any]]:
    """Return a file of these row groups, and what its entry says of its rows."""
    pq = require_module("pyarrow.parquet", extra="archive", purpose="an archive")
    first = next(groups)
    options = parquet_options()
    options["column_encoding"] |= {"history_epoch": "DELTA_BINARY_PACKED"}
    out, facts = BytesIO(), RowFacts()
    options["write_statistics"] = _STATISTICS
    with closing(pq.ParquetWriter(out, first.schema, version="2.6", **options)) as writer:
        for group in chain([first], groups):
            facts.add(group)
            writer.write_table(group)
    return out.getvalue(), facts.fields() | facts.offset_fields()


@dataclass(slots=True)
class RowFacts:
    """What the entry of a file of rows says of its rows."""

    rows: int = 0
    longest_bytes: int | None = None
    is_timed: bool = True
    positions: Ends | None = None
    appended_at_us: Ends | None = None
    offsets: Ends | None = None

    def add(self, table: Any) -> None:
        """Take rows in, at least one."""
        has_extent, offsets, positions = key_columns(table)
        self.rows += table.num_rows
        self.positions = ends_with(self.positions, positions)
        self.offsets = ends_with(self.offsets, offsets[has_extent])
        appended = table.column("appended_at_us")
        self.is_timed &= appended.null_count == 0
        self.appended_at_us = ends_with(self.appended_at_us, appended.drop_null().to_numpy())
        lengths = table.column("length").drop_null().to_numpy()
        if len(lengths):
            self.longest_bytes = max(self.longest_bytes or 0, int(lengths.max()))

    def fields(self) -> dict[str, Any]:
        """Return the fields of every entry (ArchivedFile)."""
        assert self.positions is not None
        appended = self.appended_at_us if self.is_timed else None
        return {
            "rows": self.rows,
            "first_position": self.positions[0],
            "last_position": self.positions[1],
            "first_appended_at_us": None if appended is None else appended[0],
            "last_appended_at_us": None if appended is None else appended[1],
            "longest_bytes": self.longest_bytes,
        }

    def offset_fields(self) -> dict[str, Any]:
        """Return what the entry of a merged file says beside them (MergedFile)."""
        return {
            "first_offset": None if self.offsets is None else self.offsets[0],
            "last_offset": None if self.offsets is None else self.offsets[1],
        }


Ends: TypeAlias = tuple[int, int]
"""The lowest and the highest of some numbers."""


def ends_with(ends: Ends | None, more: Any) -> Ends | None:
    """Return the ends of the numbers of `ends` and those of an array. None: of no number."""
    if not len(more):
        return ends
    low, high = int(more.min()), int(more.max())
    return (low, high) if ends is None else (min(low, ends[0]), max(high, ends[1]))
