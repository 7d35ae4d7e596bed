"""Reads the XML of `thin_delta --thin1 OLD --thin2 NEW METADATA` (thin-provisioning-tools).

It says which blocks of two thin devices differ:

    <superblock … data_block_size="128" …>          the size of a block in sectors of 512 bytes
      <diff left="1" right="2">
        <same begin="0" length="8"/>                in blocks; or <different>, <left_only>,
                                                    <right_only>
        <different>                                 with --verbose
          <range begin="8" … length="2"/> …
        </different>

Sources: thin_delta(8), src/thin/delta_visitor.rs of version 1, thin-provisioning/thin_delta.cc of
version 0.9. All ranges except `same` are dirty. `left_only` was unmapped if the left device is the
older one, but the file doesn't say which one is older, nor whether an external origin shows
through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from xml.parsers import expat

from mirrorlog.domain.extents import MAX_BYTE
from mirrorlog.producers.importers.change import AddressRange, Change, ChangeKind, ImportSource
from mirrorlog.producers.importers.reading import CHUNK_BYTES, MAX_ENTRY_BYTES, SourceReader
from mirrorlog.producers.traces.request import SECTOR_BYTES, MalformedRecord, parse_number

_DIRTY: Final = ("different", "left_only", "right_only")
_PARENTS: Final = {
    "superblock": ("",),
    "diff": ("superblock",),
    **dict.fromkeys(("same", *_DIRTY), ("diff",)),
    "range": ("same", *_DIRTY),
}
_MAX_BLOCK_SECTORS: Final = 1 << 31


def thin_delta_source(path: Path, volume: AddressRange) -> ImportSource:
    """Read thin_delta's XML.

    volume: the volume's range on the thin device. The device's last block may reach beyond the end
    of the volume, and is clipped.
    """
    warnings: list[str] = []

    def changes() -> Iterator[Change]:
        reader = SourceReader(path, "thin-delta", warnings)
        with reader.opened() as stream:
            parser = _DeltaParser(reader, volume.end)
            while chunk := stream.read(CHUNK_BYTES):
                yield from parser.feed(chunk)
            yield from parser.feed(b"")

    return ImportSource("thin-delta", changes, warnings)


class _DeltaParser:
    """Parses the XML in chunks, and keeps the reader's position.

    A document type is refused, and with it every entity. The known elements are nested four deep.
    """

    def __init__(self, reader: SourceReader, end: int) -> None:
        self._reader, self._volume_end = reader, end
        self._path: list[str] = []
        self._block_bytes = self._fed = 0
        self._diffs = 0
        self._changes: list[tuple[int, int, Change]] = []
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._begin
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        reader.move_to(1, 0)

    def feed(self, chunk: bytes) -> Iterator[Change]:
        """Yield the changes that end in `chunk`. Pass an empty chunk at the file's end."""
        self._changes.clear()
        self._fed += len(chunk)
        try:
            self._parser.Parse(chunk, not chunk)
        except expat.ExpatError as error:
            self._note_position()
            raise MalformedRecord(
                f"the file isn't complete XML: {expat.ErrorString(error.code)}"
            ) from error
        if chunk and self._fed - self._parser.CurrentByteIndex > MAX_ENTRY_BYTES + CHUNK_BYTES:
            self._note_position()
            raise MalformedRecord(f"a tag has more than {MAX_ENTRY_BYTES:,} bytes")
        for line, byte, change in self._changes:
            self._reader.move_to(line, byte)
            yield change
        if not chunk and not self._diffs:
            raise MalformedRecord("the file has no <diff>, and thin_delta writes one")

    def _begin(self, name: str, attributes: Mapping[str, str]) -> None:
        parent = self._path[-1] if self._path else ""
        if parent not in _PARENTS.get(name, ()):
            self._note_position()
            raise MalformedRecord(f"<{name[:40]}> inside <{parent}> isn't what thin_delta writes")
        self._path.append(name)
        if name == "superblock":
            self._block_bytes = (
                self._number(attributes, "data_block_size", _MAX_BLOCK_SECTORS) * SECTOR_BYTES
            )
            if not self._block_bytes:
                raise MalformedRecord("data_block_size is 0")
        elif name == "diff":
            self._diffs += 1
        elif (
            name == "range" or attributes
        ):  # With --verbose the element has no attributes, and contains ranges.
            self._add_range(parent if name == "range" else name, attributes)

    def _end(self, _: str) -> None:
        self._path.pop()

    def _add_range(self, kind: str, attributes: Mapping[str, str]) -> None:
        maximum = MAX_BYTE // self._block_bytes // 2
        begin = self._number(attributes, "begin", maximum)
        length = self._number(attributes, "length", maximum)
        offset, end = begin * self._block_bytes, (begin + length) * self._block_bytes
        if self._volume_end < end < self._volume_end + self._block_bytes:
            end = self._volume_end
        if end > offset:
            position = self._parser.CurrentLineNumber, self._parser.CurrentByteIndex
            change_kind = ChangeKind.DIRTY if kind in _DIRTY else ChangeKind.UNCHANGED
            self._changes.append(
                (*position, Change(change_kind, offset=offset, length=end - offset))
            )

    def _number(self, attributes: Mapping[str, str], name: str, maximum: int) -> int:
        """Return an attribute, which is a whole number up to `maximum`."""
        self._note_position()
        value = parse_number(attributes.get(name, "").encode("utf-8", "replace"), name)
        if value > maximum:
            raise MalformedRecord(f"{name} {value} is above {maximum}")
        return value

    def _refuse_doctype(self, *_: object) -> None:
        self._note_position()
        raise MalformedRecord(
            "the file has a document type: thin_delta writes none, and it could define entities"
        )

    def _note_position(self) -> None:
        self._reader.move_to(self._parser.CurrentLineNumber, max(self._parser.CurrentByteIndex, 0))
