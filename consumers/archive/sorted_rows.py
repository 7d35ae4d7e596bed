"""Tables of rows (pyarrow.Table) that are in the order of row_files, merged into one order.

The order: rows without an extent first, then by offset, position and number of the extent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from mirrorlog.extras import require_module

RowKey: TypeAlias = tuple[bool, int, int]
"""Whether a row has an extent, its offset (0 without), and its position."""


def merged_tables(sources: Sequence[Iterator[Any]]) -> Iterator[Any]:
    """Yield the rows of all sources in order, in tables of any sizes.

    sources: each yields tables whose rows are in order. Rows of two sources never have the same
    position. One table of each source is in memory at a time.
    """
    heads = [head for head in map(_Head, sources) if head.advance()]
    while heads:
        # What lies behind the end of a head may still come in its source. The rest can't.
        limit = min(head.last_key() for head in heads)
        yield in_order([head.take_through(limit) for head in heads])
        heads = [head for head in heads if head.advance()]


def tables_of(tables: Iterator[Any], rows: int) -> Iterator[Any]:
    """Yield the rows of tables again, in tables of `rows` each but the last."""
    pa = require_module("pyarrow", extra="archive", purpose="an archive")
    pending: list[Any] = []
    count = 0
    for table in tables:
        pending.append(table)
        count += table.num_rows
        while count >= rows:
            joined = pa.concat_tables(pending)
            yield joined.slice(0, rows)
            pending, count = [joined.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(pending)


def in_order(tables: Sequence[Any]) -> Any:
    """Return the rows of tables as one table, in order."""
    pa = require_module("pyarrow", extra="archive", purpose="an archive")
    joined = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    has_extent, offsets, positions = key_columns(joined)
    extents = joined.column("extent").to_numpy()
    return joined.take(np.lexsort((extents, positions, offsets, has_extent)))


def is_in_order(table: Any) -> bool:
    """Return whether the rows of a table are in order, and none is there twice."""
    has_extent, offsets, positions = key_columns(table)
    extents = table.column("extent").to_numpy()
    is_behind = np.zeros(max(table.num_rows - 1, 0), np.bool_)
    for keys in (extents, positions, offsets, has_extent):
        is_behind = (keys[1:] > keys[:-1]) | ((keys[1:] == keys[:-1]) & is_behind)
    return bool(is_behind.all())


def key_columns(table: Any) -> tuple[Any, Any, Any]:
    """Return the columns of RowKey as numpy arrays."""
    offset = table.column("offset")
    has_extent = offset.is_valid().to_numpy()
    return has_extent, offset.fill_null(0).to_numpy(), table.column("position").to_numpy()


class _Head:
    """The table of a source whose rows are next.

    advance() must have returned True before anything else is called.
    """

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source
        self._table: Any = None
        self._start = self._without_extent = 0
        self._offsets = self._positions = np.zeros(0, np.uint64)

    def advance(self) -> bool:
        """Get the next table if all rows of this one are taken. Return False if there is none."""
        while self._start == len(self._offsets):
            table = next(self._source, None)
            if table is None:
                return False
            has_extent, self._offsets, self._positions = key_columns(table)
            self._without_extent = len(has_extent) - int(np.count_nonzero(has_extent))
            self._table, self._start = table, 0
        return True

    def last_key(self) -> RowKey:
        """Return the key of the table's last row."""
        has_extent = self._without_extent < len(self._offsets)
        return has_extent, int(self._offsets[-1]), int(self._positions[-1])

    def take_through(self, limit: RowKey) -> Any:
        """Return the rows whose key is `limit` or below, and move behind them."""
        end = max(self._end_of(limit), self._start)
        taken = self._table.slice(self._start, end - self._start)
        self._start = end
        return taken

    def _end_of(self, limit: RowKey) -> int:
        """Return the number of the table's rows whose key is `limit` or below."""
        has_extent, offset, position = limit
        first = self._without_extent
        if not has_extent:
            return int(self._positions[:first].searchsorted(position, "right"))
        offsets = self._offsets[first:]
        wanted = np.uint64(offset)
        low, high = (int(offsets.searchsorted(wanted, side)) for side in ("left", "right"))
        same = self._positions[first + low : first + high]
        return first + low + int(same.searchsorted(position, "right"))
