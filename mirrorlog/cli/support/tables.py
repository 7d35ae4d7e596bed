"""Tables for people: plain and uncut, and on a terminal no wider than that.

Off a terminal a row is one line, however long, with two spaces between the columns. On a terminal
that is too narrow, the columns that may wrap do so; if that isn't enough, each row becomes a block
of lines `COLUMN  value`. Nothing is ever cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import wrap
from typing import Final

from mirrorlog.cli.support.output import Output

_GAP: Final = "  "
_LEAST_WRAPPED: Final = 12
"""A column isn't wrapped to fewer characters than this."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    right: its values are numbers, and end at one place. wraps: on a narrow terminal a value may
    take several lines: a text, an address, a list of names.
    """

    name: str
    right: bool = False
    wraps: bool = False


def print_table(output: Output, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table for people. A row has one text for each column."""
    if not output.quiet:
        output.print_text("\n".join(table_lines(columns, rows, output.width)))


def print_fields(output: Output, fields: Sequence[tuple[str, str]]) -> None:
    """Print one thing for people: lines `NAME  value`, uncut."""
    columns = (Column("name"), Column("value", wraps=True))
    output.print_text("\n".join([*table_lines(columns, fields, output.width)][1:]))


def table_lines(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], width: int | None
) -> Iterator[str]:
    """Yield the lines of a table, without spaces at their ends.

    width: the columns of the terminal; None for no limit.
    """
    cells = [[_printable(cell) for cell in row] for row in rows]
    table = [[column.name for column in columns], *cells]
    widths = [max(map(_cell_width, column)) for column in zip(*table, strict=True)]
    if width is not None and _table_width(widths) > width:
        narrowed = _narrowed(columns, widths, width)
        if narrowed is None:
            yield from _blocks(columns, cells, width)
            return
        widths = narrowed
    for row in table:
        yield from _row_lines(columns, row, widths)


def _row_lines(
    columns: Sequence[Column], row: Sequence[str], widths: Sequence[int]
) -> Iterator[str]:
    wrapped = [_wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
    for line in zip_longest(*wrapped, fillvalue=""):
        padded = (
            _padded(cell, width, right=column.right)
            for cell, width, column in zip(line, widths, columns, strict=True)
        )
        yield _GAP.join(padded).rstrip()


def _narrowed(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int] | None:
    """Return the widths with which the table is `width` wide, None if wrapping isn't enough.

    The widest of the columns that may wrap gives up most.
    """
    narrowed = list(widths)
    while (surplus := _table_width(narrowed) - width) > 0:
        wrapping = [number for number, column in enumerate(columns) if column.wraps]
        widest = max(wrapping, key=lambda number: narrowed[number], default=None)
        if widest is None or narrowed[widest] <= _LEAST_WRAPPED:
            return None
        others = [narrowed[number] for number in wrapping if number != widest]
        floor = max(_LEAST_WRAPPED, max(others, default=0))
        step = surplus if narrowed[widest] - surplus >= floor else narrowed[widest] - floor
        narrowed[widest] -= max(step, 1)
    return narrowed


def _blocks(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Yield each row as lines `COLUMN  value`, with an empty line between two rows."""
    name_width = max(_cell_width(column.name) for column in columns)
    value_width = max(width - name_width - len(_GAP), _LEAST_WRAPPED)
    for number, row in enumerate(rows):
        if number:
            yield ""
        for column, cell in zip(columns, row, strict=True):
            names = [column.name, *[""] * len(cell)]
            for name, line in zip(names, _wrapped(cell, value_width), strict=False):
                yield f"{_padded(name, name_width)}{_GAP}{line}".rstrip()


def _wrapped(cell: str, width: int) -> list[str]:
    """Return the lines of a cell, each at most `width` wide where its characters are narrow."""
    if _cell_width(cell) <= width:
        return [cell]
    return wrap(cell, width, break_on_hyphens=False, drop_whitespace=True) or [""]


def _padded(cell: str, width: int, *, right: bool = False) -> str:
    padding = " " * (width - _cell_width(cell))
    return padding + cell if right else cell + padding


def _table_width(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _cell_width(cell: str) -> int:
    """Return the places that a text takes on a terminal: two for a wide character."""
    if cell.isascii():
        return len(cell)
    from rich.cells import cell_len

    return cell_len(cell)


def _printable(cell: str) -> str:
    """Return the text with what would move the cursor, or colour the terminal, spelt out."""
    if cell.isprintable():
        return cell
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in cell
    )
