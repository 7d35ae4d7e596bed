"""The rows of a result as text: a table for people, CSV, and JSON Lines."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from io import StringIO
from typing import Any


def json_value(value: Any) -> Any:
    """Return a value as JSON has it. Integers of any size stay exact; what is no number is null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if value == value.to_integral_value() else str(value)
        case datetime():
            return value.isoformat(timespec="microseconds") + ("" if value.tzinfo else "Z")
        case date():
            return value.isoformat()
        case bytes():
            return value.hex()
        case dict():
            return {str(name): json_value(item) for name, item in value.items()}
        case list() | tuple():
            return [json_value(item) for item in value]
        case _:
            return str(value)


def json_lines(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return an object a row, with the names of the result's columns."""
    return "".join(
        json.dumps(dict(zip(names, map(json_value, row), strict=True)), allow_nan=False) + "\n"
        for row in rows
    )


def csv_lines(rows: Sequence[Sequence[Any]]) -> str:
    """Return a line a row (RFC 4180, with \\n). Null is nothing."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in rows:
        writer.writerow(["" if value is None else _cell(value) for value in row])
    return out.getvalue()


def table_cells(rows: Sequence[Sequence[Any]]) -> list[list[str]]:
    """Return the cells of a table for people. Null is `-`."""
    return [["-" if value is None else _cell(value) for value in row] for row in rows]


def _cell(value: Any) -> str:
    shown = json_value(value)
    return shown if isinstance(shown, str) else json.dumps(shown)
