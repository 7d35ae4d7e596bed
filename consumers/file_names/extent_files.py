"""The files to which the extents of a history's rows belong, and the rows as text with them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from typing import Any, Final, Protocol

import numpy as np

from mirrorlog.consumers.file_names.changed_files import NamedOwners, named_owners
from mirrorlog.consumers.file_names.file_index import FileIndex, Pieces
from mirrorlog.consumers.file_names.name_table import is_exact, shown_name
from mirrorlog.consumers.file_names.owners import Owner, OwnerKind
from mirrorlog.history.batches import HistoryBatch

MORE: Final = "more"
"""The label of what isn't listed, because too many files have a part of the row's extent."""
_MOST_IN_A_CELL: Final = 3
_MOST_IN_A_ROW: Final = 1_000
_MAX_BYTE: Final = 1 << 62
"""No device has so many bytes. A command that names more is refused, and its row is kept."""


class RowText(Protocol):
    """Rows as text in one format (consumers/audit/text_rows.py)."""

    def header(self) -> str:
        """Return what comes before the first row."""
        ...

    def rows(self, batch: HistoryBatch) -> str:
        """Return the text of the rows."""
        ...


@dataclass(frozen=True, slots=True)
class FileShare:
    """The part of a row's extent that one file has, or what is in no file.

    label, names, partition, inode, detail: as in NamedOwners. inodes: the first and the last in
    that part of an inode table.
    """

    label: str
    names: tuple[bytes, ...]
    partition: int | None
    inode: int | None
    inodes: tuple[int, int] | None
    detail: str
    length: int

    def as_fields(self) -> dict[str, Any]:
        """Return the share as JSON has it."""
        shown = [shown_name(name) for name in self.names]
        fields: dict[str, Any] = {"file": shown[0] if shown else None, "label": self.label}
        if shown[1:]:
            fields["other_names"] = shown[1:]
        if not all(map(is_exact, self.names)):
            fields["file_hex"] = self.names[0].hex()
        if self.partition:
            fields["partition"] = self.partition
        if self.inode is not None:
            fields["inode"] = self.inode
        if self.inodes is not None:
            fields["inodes"] = list(self.inodes)
        if self.detail:
            fields["detail"] = self.detail
        return {**fields, "bytes": self.length}

    def as_text(self) -> str:
        """Return the share for a cell of a table: a name, or what it is in brackets."""
        if self.names:
            place = f"{self.partition}:" if self.partition else ""
            text = place + shown_name(self.names[0])
            return text if self.label == OwnerKind.FILE else f"{text} ({self.label})"
        inodes = "" if self.inodes is None else f" {self.inodes[0]}-{self.inodes[1]}"
        return f"[{self.label}{inodes}]"


@dataclass
class ExtentFiles:
    """Looks up the files of rows, and remembers each owner's names.

    They are remembered by the owners. Their numbers mean others in an index that covers more.
    """

    index: FileIndex
    _known: dict[tuple[Owner, ...], NamedOwners] = field(default_factory=dict)

    def of(self, batch: HistoryBatch) -> list[list[FileShare] | None]:
        """Return the shares of each row's extent, in the order of its bytes; None without one.

        The lengths of a row's shares add up to that of its extent. What lies after the end of the
        index is on no device that was read.
        """
        offset, length = batch.numbers("offset"), batch.numbers("length")
        has_extent = length.values > 0
        if offset.known is not None:
            has_extent = has_extent & offset.known
        is_sane = (offset.values < _MAX_BYTE) & (length.values < _MAX_BYTE)
        rows = np.flatnonzero(has_extent & is_sane)
        starts = offset.values[rows].astype(np.int64)
        lengths = length.values[rows].astype(np.int64)
        most = int((starts + lengths).max()) if len(rows) else 0
        index = self.index.covering(most)
        pieces = index.pieces(starts, lengths)
        shares: list[list[FileShare] | None] = [None] * batch.rows
        for row, share in self._shares(index, pieces):
            row_number = int(rows[row])
            its = shares[row_number]
            if its is None:
                its = shares[row_number] = []
            _add(its, share)
        for row in np.flatnonzero(has_extent & ~is_sane).tolist():  # the node refused it
            nowhere = FileShare(OwnerKind.NOT_THERE, (), None, None, None, "", 0)
            shares[row] = [replace(nowhere, length=int(length.values[row]))]
        return shares

    def _shares(self, index: FileIndex, pieces: Pieces) -> Iterator[tuple[int, FileShare]]:
        """Yield the row and the share of each piece, in order.

        A row may be marked dirty as a whole volume. What is behind its first pieces is one share.
        """
        counts = np.bincount(pieces.rows)
        place = np.arange(len(pieces.rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        is_listed = place < _MOST_IN_A_ROW
        columns = (pieces.rows, pieces.starts, pieces.lengths, pieces.owners)
        listed = (column[is_listed].tolist() for column in columns)
        for row, start, length, number in zip(*listed, strict=True):
            yield row, self._share(index, start=start, length=length, number=number)
        rest = np.zeros(len(counts), np.int64)
        np.add.at(rest, pieces.rows[~is_listed], pieces.lengths[~is_listed])
        for row in np.flatnonzero(rest).tolist():
            detail = f"{counts[row] - _MOST_IN_A_ROW} more ranges"
            yield row, FileShare(MORE, (), None, None, None, detail, int(rest[row]))

    def _share(self, index: FileIndex, *, start: int, length: int, number: int) -> FileShare:
        owners = index.owners(number)
        named = self._known.get(owners)
        if named is None:
            named = self._known[owners] = named_owners(index, owners)
        return FileShare(
            named.label,
            named.names,
            named.partition,
            named.inode,
            index.inodes_within(owners[0], start=start, length=length),
            named.detail,
            length,
        )


def _add(shares: list[FileShare], share: FileShare) -> None:
    """Add a share behind those of its row. Neighbours of one file become one."""
    last = shares[-1] if shares else None
    if last is not None and replace(last, length=share.length) == share:
        shares[-1] = replace(last, length=last.length + share.length)
    else:
        shares.append(share)


@dataclass(frozen=True)
class TextWithFiles:
    """Rows as text in a format, with the files of each at the end of it.

    name: of the format: `table`, `csv` or `json`. text: the format without files.
    """

    name: str
    text: RowText
    files: ExtentFiles

    def header(self) -> str:
        """Return the header, with the name of the new column."""
        line = self.text.header()
        if self.name == "json":
            return line
        return line.rstrip("\n") + (",files\n" if self.name == "csv" else "  FILES\n")

    def rows(self, batch: HistoryBatch) -> str:
        """Return the text of the rows."""
        shares = self.files.of(batch)
        if self.name == "csv":
            return _csv_with(self.text.rows(batch), shares)
        ends = _json_ends(shares) if self.name == "json" else _table_ends(shares)
        drop = 1 if self.name == "json" else 0  # the closing brace
        lines = self._lines(batch)
        if self.name == "table":  # the new column begins where its title does, or behind a note
            width = len(self.text.header().rstrip("\n"))
            lines = [line.ljust(width) for line in lines]
        return "".join(
            f"{line[: len(line) - drop]}{end}".rstrip() + "\n"
            for line, end in zip(lines, ends, strict=True)
        )

    def _lines(self, batch: HistoryBatch) -> list[str]:
        """Return the text of each row. A note may have several lines."""
        lines = self.text.rows(batch).split("\n")[:-1]
        if len(lines) == batch.rows:
            return lines
        single = (batch.take(np.array([row])) for row in range(batch.rows))
        return [self.text.rows(row)[:-1] for row in single]


def _json_ends(shares: Sequence[Sequence[FileShare] | None]) -> list[str]:
    return [f', "files": {json.dumps(_objects(row))}}}' for row in shares]


def _objects(row: Sequence[FileShare] | None) -> list[dict[str, Any]] | None:
    return None if row is None else [share.as_fields() for share in row]


def _table_ends(shares: Sequence[Sequence[FileShare] | None]) -> list[str]:
    return ["" if row is None else f"  {cell_of(row)}" for row in shares]


def cell_of(row: Sequence[FileShare]) -> str:
    """Return what a table says of a row's files: the first few, each once."""
    texts = list(dict.fromkeys(share.as_text() for share in row))
    more = len(texts) - _MOST_IN_A_CELL
    shown = ", ".join(texts[:_MOST_IN_A_CELL]) + (f" and {more} more" if more > 0 else "")
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in shown
    )


def _csv_with(text: str, shares: Sequence[Sequence[FileShare] | None]) -> str:
    """Return lines of CSV with one more cell: a list in JSON, empty without an extent."""
    written = StringIO()
    writer = csv.writer(written, lineterminator="\n")
    for cells, row in zip(csv.reader(StringIO(text)), shares, strict=True):
        writer.writerow([*cells, "" if row is None else json.dumps(_objects(row))])
    return written.getvalue()
