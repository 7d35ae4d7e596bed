"""Parquet files in memory, written and read with pyarrow. The one module that names it here.

Settings (measured, docs/archive.md): zstd; DELTA_BINARY_PACKED for integers; dictionaries for
texts that repeat; statistics of each row group, by which readers skip. One release of pyarrow
writes the same bytes for the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
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
    pa, pq = _require("pyarrow"), _require("pyarrow.parquet")
    # pyarrow.dataset filters as well, but takes a millisecond of a processor more for each file.
    wanted = _WantedRows(after, through, None if volumes is None else list(volumes))
    read = None if columns is None else list(dict.fromkeys([*columns, *wanted.columns]))
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            # Of one row group at a time, so that no more is in memory beside what is wanted.
            parts = [
                wanted.of(file.read_row_group(number, columns=read, use_threads=False))
                for number in range(file.num_row_groups)
                if wanted.may_be_in(file.metadata.row_group(number))
            ]
            table = pa.concat_tables(parts or [file.read_row_groups([], columns=read)])
        return table if columns is None else table.select(list(columns))
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise StateDamaged(
            f"a file of the archive can't be read: {str(error).splitlines()[0]}",
            where=where,
            next="Run `mirrorlog archive verify`, and restore the file from a copy.",
        ) from error


@dataclass(frozen=True, slots=True)
class _WantedRows:
    """The rows at positions in `(after, through]`, of these volumes or of none. None: of any."""

    after: int
    through: int
    volumes: list[str] | None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that tell which rows these are."""
        return ("position",) if self.volumes is None else ("position", "volume")

    def may_be_in(self, group: Any) -> bool:
        """Return whether the statistics of a row group allow for one of the rows.

        group: pyarrow.parquet.RowGroupMetaData.
        """
        columns = map(group.column, range(group.num_columns))
        by_name = {
            column.path_in_schema: column.statistics
            for column in columns
            if column.path_in_schema in self.columns
        }
        position = by_name.get("position")
        if position is not None and position.has_min_max:
            first, last = position.min, position.max
            if not (first <= self.through and last > self.after):
                return False
        volume = by_name.get("volume")
        if self.volumes is None or volume is None or not volume.has_min_max:
            return True
        has_none = not volume.has_null_count or volume.null_count > 0
        return has_none or any(volume.min <= name <= volume.max for name in self.volumes)

    def of(self, table: Any) -> Any:
        """Return these rows of a table (pyarrow.Table)."""
        pa, compute = _require("pyarrow"), _require("pyarrow.compute")
        position = table.column("position")
        chosen = compute.and_(
            compute.greater(position, self.after), compute.less_equal(position, self.through)
        )
        if self.volumes is not None:
            volume = table.column("volume")
            named = compute.is_in(volume, value_set=pa.array(self.volumes, pa.string()))
            chosen = compute.and_(chosen, compute.or_(named, compute.is_null(volume)))
        return table if compute.all(chosen).as_py() else table.filter(chosen)
