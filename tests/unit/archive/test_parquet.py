"""Parquet files of the archive: which rows are read, and which row groups aren't even looked at."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import pytest

from mirrorlog.archive.parquet import parquet_bytes, read_parquet
from mirrorlog.errors import StateDamaged

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

VOLUMES = ["a", "a", "a", "b", "b", None, "d", "d", None, None]
"""By position; two to a row group, as where rows are sorted by volume."""


def content() -> bytes:
    """Return a file of five row groups."""
    columns = {
        "position": pa.array(range(len(VOLUMES)), pa.int64()),
        "volume": pa.array(VOLUMES, pa.string()),
        "value": pa.array([bytes([number]) * 50 for number in range(len(VOLUMES))]),
    }
    return parquet_bytes(pa.table(columns), dictionaries=("volume",), row_group_rows=2)


def damaged(groups: Sequence[int]) -> bytes:
    """Return a file of which the pages of these row groups are damaged."""
    file = bytearray(content())
    metadata = pq.ParquetFile(BytesIO(file)).metadata
    for group in groups:
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            pages = column.dictionary_page_offset or column.data_page_offset
            file[pages : pages + column.total_compressed_size] = bytes(column.total_compressed_size)
    return bytes(file)


@pytest.mark.parametrize("wanted", [None, [], ["a"], ["b", "d"], ["c"]])
@pytest.mark.parametrize(("after", "through"), [(-1, 99), (2, 6), (3, 4), (4, 4), (9, 99), (-5, 0)])
def test_exactly_the_wanted_rows_are_read(
    after: int, through: int, wanted: list[str] | None
) -> None:
    table = read_parquet(content(), after=after, through=through, volumes=wanted)
    assert table.column_names == ["position", "volume", "value"]
    assert table.column("position").to_pylist() == [
        position
        for position, volume in enumerate(VOLUMES)
        if after < position <= through and (wanted is None or volume in (None, *wanted))
    ]
    values = read_parquet(
        content(), after=after, through=through, volumes=wanted, columns=("value",)
    )
    assert values.column_names == ["value"]
    assert values.column("value").to_pylist() == table.column("value").to_pylist()


def test_row_groups_whose_statistics_rule_all_rows_out_are_not_read() -> None:
    rows = read_parquet(damaged([0, 1, 4]), after=3, through=7)
    assert rows.column("position").to_pylist() == [4, 5, 6, 7]
    rows = read_parquet(damaged([0, 1]), after=-1, through=99, volumes=["d"])
    assert rows.column("position").to_pylist() == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("file", [damaged([2]), content()[:-9], b"", b"PAR1"])
def test_a_file_that_cannot_be_read_is_named(file: bytes) -> None:
    with pytest.raises(StateDamaged) as caught:
        read_parquet(file, after=-1, through=99, where="commands/x.parquet")
    assert "commands/x.parquet" in str(caught.value)


def test_a_file_of_other_columns_is_damaged() -> None:
    file = parquet_bytes(pa.table({"offset": [1, 2]}), dictionaries=(), row_group_rows=2)
    with pytest.raises(StateDamaged):
        read_parquet(file, after=-1, through=99)
