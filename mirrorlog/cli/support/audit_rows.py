"""Where the rows of an audit go: text or an Arrow stream to stdout, or a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from mirrorlog.cli.support.output import Output, discard_the_rest
from mirrorlog.consumers.audit.output_file import whole_file
from mirrorlog.consumers.audit.text_rows import TEXTS, CsvText, JsonText, TableText
from mirrorlog.errors import BadUse
from mirrorlog.history.batches import HistoryBatch

if TYPE_CHECKING:
    from mirrorlog.consumers.file_names.extent_files import TextWithFiles

ROW_FORMATS: Final = (*TEXTS, "parquet", "arrow")
RowText: TypeAlias = "TableText | CsvText | JsonText | TextWithFiles"
ChangesText: TypeAlias = Callable[[RowText], RowText]
"""Adds something to each row of a text."""


def write_rows(
    output: Output,
    name: str,
    path: Path | None,
    batches: Iterable[HistoryBatch],
    change: ChangesText | None = None,
) -> bool:
    """Write the rows in a format of ROW_FORMATS to a file, or to stdout without a path.

    change: of the formats that are text.

    Under --json, stdout takes the rows as JSON only. Return False if the reader of stdout has
    closed it (`| head`): not all rows were read. Raise BadUse for a format that can't go to stdout;
    what whole_file and the batches raise.
    """
    if path is None:
        return _write_to_stdout(output, name, batches, change)
    with whole_file(path) as part:
        if name in TEXTS:
            text = _text(name, change)
            with part.open("w", encoding="utf-8", newline="") as file:
                _write_text(text, file.write, batches)
        else:
            from mirrorlog.consumers.audit.arrow_files import write_arrow, write_parquet

            (write_parquet if name == "parquet" else write_arrow)(part, batches)
    return True


def _write_to_stdout(
    output: Output, name: str, batches: Iterable[HistoryBatch], change: ChangesText | None
) -> bool:
    if name == "parquet" or (name == "arrow" and sys.stdout.isatty()):
        raise BadUse(f"{name} doesn't go to a terminal or a pipe", next="Name a file with -o.")
    if output.json and name != "json":
        raise BadUse(
            f"with --json, stdout takes no {name}",
            next="Name a file with -o, or use --format json.",
        )
    try:
        if name == "arrow":
            from mirrorlog.consumers.audit.arrow_files import write_arrow_stream

            write_arrow_stream(sys.stdout.buffer, batches)
        else:
            text = _text("row" if output.json else name, change)
            quiet = name == "table" and output.quiet
            _write_text(text, _discard if quiet else sys.stdout.write, batches)
        sys.stdout.flush()
    except BrokenPipeError:
        discard_the_rest(sys.stdout)
        return False
    return True


def _text(name: str, change: ChangesText | None) -> RowText:
    """Return what makes text of rows. name: of a format, or `row` for JSON under --json."""
    text = JsonText("row") if name == "row" else TEXTS[name]()
    return text if change is None else change(text)


def _write_text(
    text: RowText,
    write: Callable[[str], object],
    batches: Iterable[HistoryBatch],
) -> None:
    write(text.header())
    for batch in batches:
        write(text.rows(batch))


def _discard(_: str) -> None:
    pass
