"""Parquet files in memory, written and read with pyarrow. The one module that names it here.

Settings (measured, docs/archive.md): zstd; DELTA_BINARY_PACKED for integers; dictionaries for
texts that repeat; statistics of each row group, by which readers skip. One release of pyarrow
writes the same bytes for the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from io import BytesIO
from operator import and_
from typing import Any, Final

from mirrorlog.errors import StateDamaged
from mirrorlog.extras import require_module

ROW_GROUP_ROWS: Final = 16_384
"""Of a file of commands: a reader of one volume reads a row group at least."""


def _require(module: str) -> Any:
    return require_module(module, extra="archive", purpose="an archive")


def parquet_bytes(table: Any, *, dictionaries: Sequence[str], row_group_rows: int) -> bytes:
    """Return a table (pyarrow.Table) as the bytes of a Parquet file.

    dictionaries: the columns that are encoded with a dictionary. Integers among the others are
    delta-encoded.
    """
    pa, pq = _require("pyarrow"), _require("pyarrow.parquet")
    encodings = {
        field.name: "DELTA_BINARY_PACKED"
        for field in table.schema
        if pa.types.is_integer(field.type) and field.name not in dictionaries
    }
    out = BytesIO()
    pq.write_table(
        table,
        out,
        compression="zstd",
        use_dictionary=list(dictionaries),
        column_encoding=encodings,
        row_group_size=row_group_rows,
        version="2.6",
        write_statistics=True,
    )
    return out.getvalue()


def read_parquet(
    content: bytes,
    *,
    after: int,
    through: int,
    volumes: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    where: str = "",
) -> Any:
    """Return the rows (pyarrow.Table) of a file whose position is in `(after, through]`.

    volumes: only rows of these volumes, or of none. columns: only these. Row groups whose
    statistics rule all rows out aren't read. where: the name of the file, for errors. Raise
    StateDamaged if the bytes can't be read.
    """
    pa, pq, dataset = _require("pyarrow"), _require("pyarrow.parquet"), _require("pyarrow.dataset")
    conditions = [dataset.field("position") > after, dataset.field("position") <= through]
    if volumes is not None:
        named = dataset.field("volume")
        conditions.append(named.isin(list(volumes)) | named.is_null())
    try:
        return pq.read_table(
            pa.BufferReader(content),
            columns=None if columns is None else list(columns),
            filters=reduce(and_, conditions),
            use_threads=False,
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StateDamaged(
            f"a file of the archive can't be read: {str(error).splitlines()[0]}",
            where=where,
            next="Run `mirrorlog archive verify`, and restore the file from a copy.",
        ) from error
