"""Prints the files that changed, and says how far their names can be trusted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.file_names import NameSource, read_index
from mirrorlog.cli.support.tables import Column, table_lines
from mirrorlog.consumers.file_names.changed_files import FilesAnswer, changed_files
from mirrorlog.consumers.file_names.file_formats import (
    files_as_csv,
    files_as_json,
    table_row,
    table_title,
)
from mirrorlog.consumers.file_names.mapping import mapping_as_json, mapping_notes, mapping_title

_COLUMNS: Final = (
    Column("BYTES", right=True),
    Column("WHAT", wraps=True),
    Column("FILE", wraps=True),
)


def files_pieces(
    call: Invocation,
    blocks: ChangedBlocks,
    source: NameSource,
    output_format: str,
    fields: Mapping[str, Any] | None,
) -> Iterator[str]:
    """Yield the text of the files that changed. Print notes on stderr, unless they are in the text.

    fields: of the JSON object in which the list is; None for the bare list.

    Errors: those of read_index().
    """
    address, index = read_index(call.settings, blocks.volume, source)
    answer = changed_files(blocks, index)
    notes = [mapping_title(address, index), *mapping_notes(index, blocks.volume, by_blocks=True)]
    if output_format == "table":
        yield from _table(call, answer, notes)
        return
    for note in notes:
        call.output.print_note(note)
    if output_format == "csv":
        yield from files_as_csv(answer)
    elif fields is None:
        yield json.dumps(files_as_json(answer)) + "\n"
    else:
        mapping = mapping_as_json(address, index, blocks.volume, by_blocks=True)
        whole = {**fields, "mapping": mapping, "files": files_as_json(answer)}
        yield json.dumps(whole) + "\n"


def _table(call: Invocation, answer: FilesAnswer, notes: Sequence[str]) -> Iterator[str]:
    for line in (table_title(answer), *notes):
        yield line + "\n"
    rows = [table_row(row) for row in answer.files]
    if rows:
        for line in table_lines(_COLUMNS, rows, call.output.width):
            yield line + "\n"
