"""Rows survive Arrow and Parquet, value for value."""

from __future__ import annotations

from io import BytesIO

import pytest
from notation import command, message, volume

from mirrorlog.domain.commands import CommandKind, ForkOutcomes
from mirrorlog.history.batches import HistoryBatch, empty_batch, has_type
from mirrorlog.history.command_rows import command_rows
from mirrorlog.history.definition import BY_NAME, COLUMNS

pa = pytest.importorskip("pyarrow", reason="pyarrow isn't installed (extra archive)")

OF = volume(size_bytes=(1 << 63) - 1)


def some_rows() -> HistoryBatch:
    commands = [
        command("0+4096 z2**62+5 d7+1"),
        command("1+1 2+2", forks=(ForkOutcomes("a", bytes([0, 2])), ForkOutcomes("b"))),
        command(kind=CommandKind.BARRIER, note='b,"\n', sequence=-1),
        command(kind=CommandKind.RESIZE, size_bytes=(1 << 63) - 1, host="é"),
        b"nothing",
    ]
    return command_rows(
        [message(number, sent) for number, sent in enumerate(commands)], OF, through=9
    )


@pytest.mark.parametrize("rows", [some_rows(), empty_batch(9)], ids=["rows", "none"])
def test_rows_come_back_from_arrow_and_parquet(rows: HistoryBatch) -> None:
    from pyarrow import parquet

    from mirrorlog.history.arrow_tables import (
        arrow_schema,
        arrow_table,
        parquet_options,
        rows_of_table,
    )

    file = BytesIO()
    with parquet.ParquetWriter(file, arrow_schema(), **parquet_options()) as writer:
        writer.write_table(arrow_table(rows))
    for table in (arrow_table(rows), parquet.read_table(BytesIO(file.getvalue()))):
        table.validate(full=True)
        back = rows_of_table(table, 9)
        assert back.to_dicts() == rows.to_dicts()
        for name, column in back.columns.items():
            assert has_type(column, BY_NAME[name].type), name
    plain = parquet.ParquetFile(BytesIO(file.getvalue())).schema
    assert [plain.to_arrow_schema().field(c.name).nullable for c in COLUMNS] == [
        c.nullable for c in COLUMNS
    ]


def test_a_column_that_was_added_later_is_null_in_an_older_file() -> None:
    from mirrorlog.history.arrow_tables import arrow_table, rows_of_table

    table = arrow_table(some_rows())
    older = rows_of_table(table.drop_columns(["reason", "size_bytes"]), 9)
    assert older.texts("reason").to_list() == [None] * older.rows
    assert older.numbers("size_bytes").to_list() == [None] * older.rows
    with pytest.raises(Exception, match="position"):
        rows_of_table(table.drop_columns(["position"]), 9)
