"""The files that changed as a table for people, as JSON, and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any, Final

from mirrorlog.consumers.file_names.changed_files import ChangedFile, FilesAnswer
from mirrorlog.consumers.file_names.name_table import is_exact, shown_name
from mirrorlog.units import format_size

_COLUMNS: Final = (
    "file",
    "label",
    "bytes",
    "zero_bytes",
    "partition",
    "inode",
    "detail",
    "other_names",
    "file_hex",
)


def files_as_json(answer: FilesAnswer) -> list[dict[str, Any]]:
    """Return a JSON object for each row.

    `file` is null where nothing has a name. A name that isn't UTF-8 has `file_hex`, its bytes.
    """
    return [_fields(row) for row in answer.files]


def files_as_csv(answer: FilesAnswer) -> Iterator[str]:
    """Yield lines of CSV (RFC 4180) with a header. Several other names are a JSON list."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in answer.files:
        fields = _fields(row)
        others = fields["other_names"]
        writer.writerow({**fields, "other_names": json.dumps(others) if others else ""})
    yield text.getvalue()


def table_title(answer: FilesAnswer) -> str:
    """Return the line above the table."""
    blocks = answer.blocks
    count = len(blocks.changed)
    size = format_size(sum(row.bytes_changed for row in answer.files))
    named = sum(1 for row in answer.files if row.names)
    return (
        f"{blocks.volume.volume}: {count} of {blocks.volume.blocks} blocks changed ({size}) after "
        f"position {blocks.since}, through {blocks.until}; {named} files have names"
    )


def table_row(row: ChangedFile) -> tuple[str, ...]:
    """Return the cells BYTES, WHAT and FILE."""
    names = [shown_name(name) for name in row.names]
    shown = names[0] if names else ""
    if len(names) > 1:
        shown += f" (also {', '.join(names[1:])})"
    if row.partition:
        shown = f"{row.partition}:{shown}"
    what = f"{row.label} ({row.detail})" if row.detail else row.label
    return f"{row.bytes_changed}", what, shown


def _fields(row: ChangedFile) -> dict[str, Any]:
    """Return the fields of one row in JSON."""
    names = [shown_name(name) for name in row.names]
    inexact = {} if all(map(is_exact, row.names)) else {"file_hex": row.names[0].hex()}
    return {
        "file": names[0] if names else None,
        **inexact,
        "other_names": names[1:],
        "label": row.label,
        "partition": row.partition,
        "inode": row.inode,
        "detail": row.detail,
        "bytes": row.bytes_changed,
        "zero_bytes": row.bytes_zeroed,
    }
