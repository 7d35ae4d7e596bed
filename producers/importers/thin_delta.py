"""`thin_delta --thin1 OLD --thin2 NEW METADATA` of thin-provisioning-tools: which blocks of two thin devices differ, in XML.

    <superblock … data_block_size="128" …>            sectors of 512 bytes in a block
      <diff left="1" right="2">
        <same begin="0" length="8"/>                  blocks; also <different>, <left_only>, <right_only>
        <different> <range begin="8" … length="2"/> … </different>      with --verbose

thin_delta(8), src/thin/delta_visitor.rs of version 1, thin-provisioning/thin_delta.cc of version 0.9. All but `same` is dirty:
`left_only` was unmapped if the left one is the older, but the file doesn't say which is, nor whether an external origin
shows through.
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
    """volume: on the thin device; its last block may reach behind the end, and is clipped."""
    warnings: list[str] = []

    def changes() -> Iterator[Change]:
        reader = SourceReader(path, "thin-delta", warnings)
        with reader.opened() as stream:
            document = _Document(reader, volume.end)
            while chunk := stream.read(CHUNK_BYTES):
                yield from document.feed(chunk)
            yield from document.feed(b"")

    return ImportSource("thin-delta", changes, warnings)


class _Document:
    """The XML as it comes. A document type is refused, and so is every entity; known elements nest four deep."""

    def __init__(self, reader: SourceReader, end: int) -> None:
        self._reading, self._volume_end = reader, end
        self._path: list[str] = []
        self._block_bytes = self._fed = 0
        self._diffs = 0
        self._found: list[tuple[int, int, Change]] = []
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._begin
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        reader.record = 1

    def feed(self, chunk: bytes) -> Iterator[Change]:
        """The changes that end in `chunk`; an empty one is the file's end."""
        self._found.clear()
        self._fed += len(chunk)
        try:
            self._parser.Parse(chunk, not chunk)
        except expat.ExpatError as error:
            self._note_place()
            raise MalformedRecord(
                f"this isn't whole XML: {expat.ErrorString(error.code)}"
            ) from error
        if chunk and self._fed - self._parser.CurrentByteIndex > MAX_ENTRY_BYTES + CHUNK_BYTES:
            self._note_place()
            raise MalformedRecord(f"a tag of more than {MAX_ENTRY_BYTES:,} bytes")
        for line, byte, change in self._found:
            self._reading.record, self._reading.byte = line, byte
            yield change
        if not chunk and not self._diffs:
            raise MalformedRecord("there is no <diff> in it: thin_delta writes one")

    def _begin(self, name: str, attributes: Mapping[str, str]) -> None:
        parent = self._path[-1] if self._path else ""
        if parent not in _PARENTS.get(name, ()):
            self._note_place()
            raise MalformedRecord(f"<{name[:40]}> in <{parent}> isn't what thin_delta writes")
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
        ):  # with --verbose the ranges are inside, and the element has none
            self._range(parent if name == "range" else name, attributes)

    def _end(self, _: str) -> None:
        self._path.pop()

    def _range(self, kind: str, attributes: Mapping[str, str]) -> None:
        most = MAX_BYTE // self._block_bytes // 2
        begin, length = (self._number(attributes, name, most) for name in ("begin", "length"))
        offset, end = begin * self._block_bytes, (begin + length) * self._block_bytes
        if self._volume_end < end < self._volume_end + self._block_bytes:
            end = self._volume_end
        if kind in _DIRTY and end > offset:
            place = self._parser.CurrentLineNumber, self._parser.CurrentByteIndex
            self._found.append((*place, Change(ChangeKind.DIRTY, offset, end - offset)))

    def _number(self, attributes: Mapping[str, str], name: str, most: int) -> int:
        self._note_place()
        found = parse_number(attributes.get(name, "").encode("utf-8", "replace"), name)
        if found > most:
            raise MalformedRecord(f"{name} {found} is above {most}")
        return found

    def _refuse_doctype(self, *_: object) -> None:
        self._note_place()
        raise MalformedRecord(
            "a document type: thin_delta writes none, and entities could be hidden in it"
        )

    def _note_place(self) -> None:
        self._reading.record, self._reading.byte = (
            self._parser.CurrentLineNumber,
            max(self._parser.CurrentByteIndex, 0),
        )
