"""Rows of many sources, each in order, become one order, whatever the sizes of their tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow")

from mirrorlog.consumers.archive.sorted_rows import (  # noqa: E402
    is_in_order,
    merged_tables,
    tables_of,
)

_ROWS = st.lists(st.tuples(st.sampled_from([None, 0, 1, 2, 3, (1 << 64) - 1]), st.integers(1, 3)))


def _key(row: tuple[int | None, int, int]) -> tuple[bool, int, int, int]:
    offset, position, extent = row
    return offset is not None, offset or 0, position, extent


def _table(rows: list[tuple[int | None, int, int]]) -> Any:
    types = (("offset", pa.uint64()), ("position", pa.uint64()), ("extent", pa.uint32()))
    columns = [[row[number] for row in rows] for number in range(3)]
    arrays = [pa.array(values, kind) for values, (_, kind) in zip(columns, types, strict=True)]
    texts = pa.array([f"{row}" for row in rows], pa.string()).dictionary_encode()
    return pa.Table.from_arrays([*arrays, texts], names=[*(name for name, _ in types), "text"])


@given(st.lists(_ROWS, max_size=5), st.data())
def test_merged_rows_are_all_rows_in_order(given_rows: Any, data: st.DataObject) -> None:
    position, sources, everything = 0, [], []
    for commands in given_rows:
        rows = []
        for offset, extents in commands:
            rows += [(offset, position, extent) for extent in range(extents)]
            position += 1
        rows.sort(key=_key)
        everything += rows
        size = data.draw(st.integers(1, 7))
        tables = [_table(rows[at : at + size]) for at in range(0, len(rows), size)]
        sources.append(iter(tables))
    group_rows = data.draw(st.integers(1, 9))
    groups = list(tables_of(merged_tables(sources), group_rows))
    merged = [
        (row["offset"], row["position"], row["extent"])
        for group in groups
        for row in group.to_pylist()
    ]
    assert merged == sorted(everything, key=_key)
    assert [f"{row}" for row in merged] == [
        text for group in groups for text in group.column("text").to_pylist()
    ]
    assert all(group.num_rows == group_rows for group in groups[:-1])
    assert all(map(is_in_order, groups))


def test_rows_out_of_order_and_rows_that_are_there_twice_are_noticed() -> None:
    assert is_in_order(_table([(None, 5, 0), (0, 4, 0), (0, 4, 1), (7, 1, 0)]))
    for rows in ([(0, 1, 0), (None, 2, 0)], [(0, 1, 0), (0, 1, 0)], [(1, 1, 0), (0, 2, 0)]):
        assert not is_in_order(_table(rows))
