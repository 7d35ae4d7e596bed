"""Rows as Parquet and Arrow files. Needs pyarrow (extra `archive`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from mirrorlog.history.arrow_tables import (
    arrow_schema,
    arrow_table,
    parquet_options,
    require_pyarrow,
)
from mirrorlog.history.batches import HistoryBatch, join_batches

_GROUP_ROWS: Final = 1 << 18
"""The rows of a row group, and of a batch in an Arrow file, at least: memory holds one."""


def write_parquet(path: Path, batches: Iterable[HistoryBatch]) -> None:
    """Write the rows to a Parquet file. Raise BadUse without pyarrow, OSError."""
    require_pyarrow("a Parquet file")
    from pyarrow import parquet

    with parquet.ParquetWriter(path, arrow_schema(), **parquet_options()) as writer:
        for table in _tables(batches):
            writer.write_table(table)


def write_arrow(path: Path, batches: Iterable[HistoryBatch]) -> None:
    """Write the rows to an Arrow IPC file. Raise as write_parquet.

    The format lets a dictionary grow from one batch to the next, and never be replaced.
    """
    pa = require_pyarrow("an Arrow file")
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with pa.ipc.new_file(path, arrow_schema(), options=options) as writer:
        for table in _tables(batches, dictionaries_grow=True):
            writer.write_table(table)


def write_arrow_stream(stream: BinaryIO, batches: Iterable[HistoryBatch]) -> None:
    """Write the rows as an Arrow IPC stream, which ends with a mark. Raise as write_parquet.

    A reader that gets no mark was cut off.
    """
    pa = require_pyarrow("an Arrow stream")
    with pa.ipc.new_stream(stream, arrow_schema()) as writer:
        for table in _tables(batches):
            writer.write_table(table)


def _tables(batches: Iterable[HistoryBatch], *, dictionaries_grow: bool = False) -> Iterator[Any]:
    """Yield the rows as tables of bounded size.

    dictionaries_grow: each dictionary begins with the entries of the table before.
    """
    none = np.zeros(0, np.int64)
    before: list[HistoryBatch] = []
    for group in _groups(batches):
        joined = join_batches([*before, *group])
        if dictionaries_grow:
            before = [joined.take(none)]
        yield arrow_table(joined)


def _groups(batches: Iterable[HistoryBatch]) -> Iterator[list[HistoryBatch]]:
    """Yield consecutive batches that have rows, in groups of _GROUP_ROWS rows."""
    group: list[HistoryBatch] = []
    for batch in batches:
        if batch.rows:
            group.append(batch)
        if sum(part.rows for part in group) >= _GROUP_ROWS:
            yield group
            group = []
    if group:
        yield group
