"""Rows as text: a table for people, CSV, and JSON Lines. Null is `-`, nothing, and null."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import StringIO
from typing import Any, Final

import numpy as np

from mirrorlog.history.batches import Column, DictionaryColumn, Forks, HistoryBatch, NumberColumn
from mirrorlog.history.definition import COLUMNS
from mirrorlog.units import format_size

_SESSION_CHARACTERS: Final = 8
_TABLE: Final = (
    ("APPENDED", 26),
    ("POSITION", 10),
    ("HOST", 16),
    ("SESSION", 8),
    ("KIND", 13),
    ("OFFSET", 15),
    ("LENGTH", 10),
    ("WRITTEN", 26),
    ("STATUS", 13),
    ("FORKS", 5),
    ("NOTE", 4),
)


class TableText:
    """A table for people: a line a row, in columns of fixed width, wider where a value is."""

    def header(self) -> str:
        """Return the titles."""
        return _line([name for name, _ in _TABLE])

    def rows(self, batch: HistoryBatch) -> str:
        """Return a line for each row."""
        notes = zip(_texts(batch, "note"), _texts(batch, "reason"), _sizes(batch), strict=True)
        columns: list[Sequence[str]] = [
            _times(batch, "appended_at_us"),
            _numbers(batch, "position"),
            _texts(batch, "host"),
            [text[:_SESSION_CHARACTERS] for text in _texts(batch, "session")],
            _texts(batch, "kind"),
            _numbers(batch, "offset"),
            _numbers(batch, "length"),
            _times(batch, "last_at_us"),
            _texts(batch, "status"),
            _of_dictionary(batch.columns["forks"], _fork_text, "-"),
            [" ".join(text for text in row if text != "-") for row in notes],
        ]
        return "".join(map(_line, zip(*columns, strict=True)))


class CsvText:
    """CSV (RFC 4180, with \\n) with a header. `forks` is `site=outcome`, apart by `;`."""

    def header(self) -> str:
        """Return the names of the columns."""
        return _csv([[column.name for column in COLUMNS]])

    def rows(self, batch: HistoryBatch) -> str:
        """Return a line for each row."""
        columns: list[Sequence[Any]] = []
        for column in batch.columns.values():
            if isinstance(column, NumberColumn):
                columns.append(column.to_list())
            else:
                columns.append(_of_dictionary(column, _cell, ""))
        return _csv(zip(*columns, strict=True))


class JsonText:
    """JSON Lines: an object a row, with the names of the definition as keys.

    message_type: is put first into each object; None: it isn't.
    """

    def __init__(self, message_type: str | None = None) -> None:
        typed = "" if message_type is None else f'"message_type": {json.dumps(message_type)}, '
        self._begin = f"{{{typed}"

    def header(self) -> str:
        """Return nothing."""
        return ""

    def rows(self, batch: HistoryBatch) -> str:
        """Return an object for each row."""
        if not batch.rows:
            return ""
        columns: list[Sequence[str]] = []
        for name, column in batch.columns.items():
            key = f"{json.dumps(name)}: "
            if isinstance(column, NumberColumn):
                values = column.to_list()
                columns.append([f"{key}{'null' if v is None else v}" for v in values])
            else:
                columns.append(_of_dictionary(column, partial(_json_field, key), f"{key}null"))
        begin = self._begin
        return "".join([f"{begin}{', '.join(fields)}}}\n" for fields in zip(*columns, strict=True)])


TEXTS: Final[Mapping[str, Callable[[], TableText | CsvText | JsonText]]] = {
    "table": TableText,
    "csv": CsvText,
    "json": JsonText,
}
"""The formats that are text."""


def _line(cells: Sequence[str]) -> str:
    padded = (cell.ljust(width) for cell, (_, width) in zip(cells, _TABLE, strict=True))
    return "  ".join(padded).rstrip() + "\n"


def _csv(rows: Any) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _of_dictionary(column: Column, show: Callable[[Any], str], null: str) -> list[str]:
    """Return the text of each value. Each entry of the dictionary is shown once."""
    assert isinstance(column, DictionaryColumn)
    shown = [*map(show, column.dictionary), null]
    return [shown[code] for code in column.codes.tolist()]


def _texts(batch: HistoryBatch, name: str) -> list[str]:
    return _of_dictionary(batch.texts(name), str, "-")


def _numbers(batch: HistoryBatch, name: str) -> list[str]:
    return ["-" if value is None else str(value) for value in batch.numbers(name).to_list()]


def _sizes(batch: HistoryBatch) -> list[str]:
    sizes = batch.numbers("size_bytes").to_list()
    return ["-" if size is None else f"to {format_size(size)}" for size in sizes]


def _times(batch: HistoryBatch, name: str) -> list[str]:
    """Return the times by RFC 3339, in UTC, with milliseconds."""
    column = batch.numbers(name)
    texts = np.datetime_as_string(column.values.astype("datetime64[us]"), unit="ms").tolist()
    known = [True] * len(texts) if column.known is None else column.known.tolist()
    return [f"{text}Z" if has else "-" for text, has in zip(texts, known, strict=True)]


def _fork_text(forks: Forks) -> str:
    return ";".join(f"{site}={outcome}" for site, outcome in forks)


def _cell(value: str | Forks) -> str:
    return value if isinstance(value, str) else _fork_text(value)


def _json_field(key: str, value: str | Forks) -> str:
    return key + _json(value)


def _json(value: str | Forks) -> str:
    if isinstance(value, str):
        return json.dumps(value)
    return json.dumps([{"site": site, "outcome": outcome} for site, outcome in value])
