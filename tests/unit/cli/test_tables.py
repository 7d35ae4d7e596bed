"""Tables are plain and uncut off a terminal, and fit into a narrow one without losing a letter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.cli.support.tables import Column, table_lines

COLUMNS = (
    Column("VOLUME"),
    Column("SIZE", right=True),
    Column("PRIMARY", wraps=True),
    Column("SITES", wraps=True),
)
LONG = f"file:///srv/{'primary/' * 20}vol1.img"
ROWS = [("vol1", "1.0 GiB", LONG, "site-a, site-b"), ("v2", "64.0 KiB", "file:///v2", "")]


def test_without_a_terminal_a_row_is_a_line_and_nothing_is_cut() -> None:
    header, first, second = table_lines(COLUMNS, ROWS, None)
    assert header.split() == ["VOLUME", "SIZE", "PRIMARY", "SITES"]
    assert first.split() == ["vol1", "1.0", "GiB", LONG, "site-a,", "site-b"]
    assert second == "v2      64.0 KiB  file:///v2", "no spaces at the end"
    assert all(line.isascii() and line.isprintable() for line in (header, first, second))


def test_a_table_that_fits_is_the_same_on_a_terminal() -> None:
    rows = [ROWS[1]]
    assert list(table_lines(COLUMNS, rows, 80)) == list(table_lines(COLUMNS, rows, None))


@pytest.mark.parametrize("width", [80, 60])
def test_on_a_terminal_columns_wrap_and_no_letter_is_lost(width: int) -> None:
    lines = list(table_lines(COLUMNS, ROWS, width))
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    start = lines[0].index("PRIMARY")
    row = lines[1 : next(number for number, line in enumerate(lines) if line.startswith("v2"))]
    end = lines[0].index("SITES")
    assert "".join(line[start:end].strip() for line in row) == LONG


def test_where_wrapping_is_not_enough_a_row_is_a_block() -> None:
    lines = list(table_lines(COLUMNS, ROWS, 30))
    assert max(map(len, lines)) <= 30
    assert lines[0] == "VOLUME   vol1"
    assert "".join(line[9:] for line in lines[2 : lines.index("SITES    site-a, site-b")]) == LONG
    assert lines.count("") == 1, "one empty line between two rows"


def test_a_control_character_does_not_reach_the_terminal() -> None:
    lines = list(table_lines((Column("NAME"), Column("X")), [("a\x1b[31m\nb", "x")], None))
    assert lines[1] == r"a\x1b[31m\nb  x"


def test_wide_characters_take_two_places() -> None:
    lines = list(table_lines((Column("N"), Column("X")), [("日本", "x"), ("abcd", "y")], None))
    assert lines[1:] == ["日本  x", "abcd  y"]


def test_an_empty_table_has_its_header() -> None:
    assert list(table_lines(COLUMNS, [], 80)) == ["VOLUME  SIZE  PRIMARY  SITES"]


@given(
    rows=st.lists(st.tuples(*[st.text("abc -", max_size=90)] * 3), max_size=4),
    width=st.integers(20, 120),
)
def test_every_line_fits_and_every_letter_is_there(
    rows: list[tuple[str, str, str]], width: int
) -> None:
    columns = tuple(Column(name, wraps=True) for name in "XYZ")
    lines = list(table_lines(columns, rows, width))
    assert all(len(line) <= width for line in lines)
    shown = "".join(lines)
    for letter in "abc":
        assert shown.count(letter) == "".join("".join(row) for row in rows).count(letter)
