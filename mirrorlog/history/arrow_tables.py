"""Rows as Arrow tables, for Parquet and Arrow files. Needs pyarrow (extra `archive`)."""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np

from mirrorlog.errors import BadUse
from mirrorlog.extras import require_module
from mirrorlog.history.batches import (
    Column,
    DictionaryColumn,
    HistoryBatch,
    NumberColumn,
    encode_values,
)
from mirrorlog.history.definition import COLUMNS, NUMBER_TYPES, ColumnDefinition, ColumnType

_NULLABLE_IN_PANDAS: Final = {
    ColumnType.I32: "Int32",
    ColumnType.U32: "UInt32",
    ColumnType.I64: "Int64",
    ColumnType.U64: "UInt64",
}


def require_pyarrow(purpose: str) -> Any:
    """Return the package pyarrow. Raise BadUse, which says how to install it, without it."""
    return require_module("pyarrow", extra="archive", purpose=purpose)


def arrow_schema() -> Any:
    """Return the schema (pyarrow.Schema) of tables of rows: texts are dictionaries.

    Its metadata let pandas read integers that may be null as its own nullable integers. Without
    them they become floats, which hold integers up to 2^53 only.
    """
    fields = [_field(column) for column in COLUMNS]
    metadata = {"pandas": json.dumps(_pandas_metadata())}
    return require_pyarrow("an Arrow schema").schema(fields, metadata)


def _pandas_metadata() -> dict[str, Any]:
    """Return what pandas' own files say of their columns (pandas, "Storing pandas DataFrame objects
    in Apache Parquet format"). Columns that aren't named keep the type that Arrow gives them."""
    named = [
        {
            "name": column.name,
            "field_name": column.name,
            "pandas_type": np.dtype(NUMBER_TYPES[column.type]).name,
            "numpy_type": _NULLABLE_IN_PANDAS[column.type],
            "metadata": None,
        }
        for column in COLUMNS
        if column.nullable and column.type in NUMBER_TYPES
    ]
    return {"index_columns": [], "column_indexes": [], "columns": named, "pandas_version": "2.0"}


def arrow_table(batch: HistoryBatch) -> Any:
    """Return the rows as a table (pyarrow.Table) of `arrow_schema`. Numbers aren't copied."""
    pa = require_pyarrow("an Arrow table")
    arrays = [_array(definition, batch.columns[definition.name]) for definition in COLUMNS]
    return pa.Table.from_arrays(arrays, schema=arrow_schema())


def parquet_options() -> dict[str, Any]:
    """Return how Parquet files of rows are written: arguments of pyarrow.parquet.ParquetWriter."""
    texts = [column.name for column in COLUMNS if column.type is ColumnType.TEXT]
    numbers = [column.name for column in COLUMNS if column.type in NUMBER_TYPES]
    forks = [f"forks.list.element.{name}" for name in ("site", "outcome")]
    return {
        "compression": "zstd",
        "use_dictionary": [*texts, *forks],
        "column_encoding": dict.fromkeys(numbers, "DELTA_BINARY_PACKED"),
    }


def _field(column: ColumnDefinition) -> Any:
    pa = require_pyarrow("an Arrow schema")
    if column.type in NUMBER_TYPES:
        kind = pa.from_numpy_dtype(NUMBER_TYPES[column.type])
    elif column.type is ColumnType.FORKS:
        kind = _forks_type(pa)
    else:
        kind = pa.dictionary(pa.int32(), pa.string())
    return pa.field(column.name, kind, nullable=column.nullable, metadata=_meaning(column))


def _meaning(column: ColumnDefinition) -> dict[str, str]:
    return {"meaning": column.meaning}


def _forks_type(pa: Any) -> Any:
    fields = [pa.field(name, pa.string(), nullable=False) for name in ("site", "outcome")]
    return pa.list_(pa.field("element", pa.struct(fields), nullable=False))


def _array(definition: ColumnDefinition, column: Column) -> Any:
    pa = require_pyarrow("an Arrow table")
    if isinstance(column, NumberColumn):
        is_null = None if column.known is None else ~column.known
        return pa.array(column.values, mask=is_null, from_pandas=False)
    codes = pa.array(column.codes, mask=column.codes < 0)
    if definition.type is not ColumnType.FORKS:
        values = pa.array(column.dictionary, pa.string())
        return pa.DictionaryArray.from_arrays(codes, values)
    return _fork_values(pa, column).take(codes)


def _fork_values(pa: Any, column: DictionaryColumn[Any]) -> Any:
    """Return the dictionary of the column as an array of lists."""
    values = [
        [{"site": site, "outcome": outcome} for site, outcome in forks]
        for forks in column.dictionary
    ]
    return pa.array(values, _forks_type(pa))


def rows_of_table(table: Any, through: int) -> HistoryBatch:
    """Return the rows of a table (pyarrow.Table) that has the columns of `arrow_schema`.

    A file of an older release may lack columns that were added later: they are null. through: of
    the batch. Raise BadUse if a column that no row may lack is missing.
    """
    columns: dict[str, Column] = {}
    for definition in COLUMNS:
        if definition.name in table.column_names:
            columns[definition.name] = _column(definition, table.column(definition.name))
        elif definition.nullable:
            columns[definition.name] = _nulls(definition, table.num_rows)
        else:
            raise BadUse(f"the table has no column {definition.name}")
    return HistoryBatch(columns, through)


def _nulls(definition: ColumnDefinition, rows: int) -> Column:
    if definition.type in NUMBER_TYPES:
        nothing = np.zeros(rows, NUMBER_TYPES[definition.type])
        return NumberColumn(nothing, np.zeros(rows, np.bool_))
    return DictionaryColumn(np.full(rows, -1, np.int32), ())


def _column(definition: ColumnDefinition, chunks: Any) -> Column:
    """Return an Arrow column (pyarrow.ChunkedArray) as one of ours."""
    pa = require_pyarrow("reading an Arrow table")
    if definition.type in NUMBER_TYPES:
        known = None if chunks.null_count == 0 else chunks.is_valid().to_numpy()
        values = chunks.fill_null(0).to_numpy().astype(NUMBER_TYPES[definition.type], copy=False)
        return NumberColumn(values, known)
    if definition.type is ColumnType.FORKS:
        rows = [
            None if forks is None else tuple((fork["site"], fork["outcome"]) for fork in forks)
            for forks in chunks.to_pylist()
        ]
        return encode_values(rows)
    if not pa.types.is_dictionary(chunks.type):
        chunks = chunks.dictionary_encode()
    array = chunks.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # of no chunk
        return DictionaryColumn(np.zeros(0, np.int32), ())
    codes = array.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    return DictionaryColumn(codes, tuple(array.dictionary.to_pylist()))
