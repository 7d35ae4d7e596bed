"""Reads dirty maps of other tools. In doubt a range is dirty.

Each function's docstring says what the map's fields mean for a volume.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from mirrorlog.domain.extents import MAX_BYTE
from mirrorlog.producers.importers.change import Change, ChangeKind, ImportSource
from mirrorlog.producers.importers.reading import SourceReader, boolean_field, integer_field
from mirrorlog.producers.traces.request import SECTOR_BYTES, MalformedRecord, quoted

_OF_ALLOCATION: Final = re.compile(r"data|hole|zero|hole,zero|local|absent|backing depth [0-9]+")
_SIZE: Final = re.compile(rb"([0-9]{1,20})([bBkKmMgGtTpPeEsS]?)")
_UNITS: Final = {b"s": SECTOR_BYTES, b"b": 1, b"": 1} | {
    bytes([letter]): 1 << 10 * power for power, letter in enumerate(b"kmgtpe", start=1)
}
_DATA_TYPES: Final = (b"", b"0", b"hole", b"1")
_ZERO_TYPES: Final = (b"zero", b"hole,zero", b"zero,hole", b"2", b"3")


def qemu_map_source(path: Path, *, layers: int = 1, dirty_bitmap: bool = False) -> ImportSource:
    """Read the output of `qemu-img map --output=json IMAGE`.

    It is a list of MapEntry (qapi/block-core.json) that covers the image from the first byte to the
    last. Usually the image is an overlay, and the overlay holds what was written since it was made.

    layers: the number of newest layers whose content changed; `depth` counts the layers from the
    newest. Ranges of these layers that read as zeros changed too, whether `present` or not, because
    a hole can't be told from a discarded range.

    dirty_bitmap: the map was made over NBD with `x-dirty-bitmap` (block-core.json,
    BlockdevOptionsNbd), which reports the bitmap in the place of base:allocation. Its dirty ranges
    are neither data nor zeros, and not `present` (get_block_status in qemu-img.c; tried with 7.2).
    Without `dirty_bitmap` such an entry is dirty too, unless it has an `offset`. qemu-img never
    gives one there, and `mirrorlog changed --format qemu-map` does for unchanged ranges.
    """

    def kind_of(entry: Mapping[str, Any], reader: SourceReader) -> ChangeKind:
        data, zero = boolean_field(entry, "data"), boolean_field(entry, "zero")
        depth = integer_field(entry, "depth")
        if dirty_bitmap:
            if zero or depth:
                raise MalformedRecord(
                    "a map of a dirty bitmap has neither zeros nor layers: this map is of an image"
                )
            return ChangeKind.UNCHANGED if data else ChangeKind.DIRTY
        if depth >= layers:
            return ChangeKind.UNCHANGED
        if data or zero:
            return ChangeKind.ZERO if zero else ChangeKind.DIRTY
        if entry.get("present") is False and "offset" in entry:
            return ChangeKind.UNCHANGED
        reader.warn(
            "some entries are neither data nor zeros, and count as dirty. If the map is of an "
            "x-dirty-bitmap, pass --dirty-bitmap; its data entries are then clean"
        )
        return ChangeKind.DIRTY

    return _json_list_source("qemu-map", path, "start", kind_of, whole=True)


def nbdinfo_source(path: Path) -> ImportSource:
    """Read the output of `nbdinfo --map=qemu:dirty-bitmap:NAME --json URI`.

    nbdinfo(1), "Map", and info/map.c in libnbd describe it. The list doesn't name its metadata
    context, but the entries' descriptions depend on it. The type of a dirty bitmap is 1 for dirty
    and 0 for clean (qemu, docs/interop/nbd.rst). Maps of base:allocation and qemu:allocation-depth
    are refused, because they say what is allocated. A range without a known description is dirty.
    """

    def kind_of(entry: Mapping[str, Any], reader: SourceReader) -> ChangeKind:
        kind, description = integer_field(entry, "type"), str(entry.get("description", ""))
        if _OF_ALLOCATION.fullmatch(description):
            raise MalformedRecord(
                f"the map contains '{description}': it says what is allocated, not what changed",
                next="Make the map with nbdinfo --map=qemu:dirty-bitmap:NAME --json.",
            )
        if {"clean": 0, "dirty": 1}.get(description, kind) != kind:
            raise MalformedRecord(f"type {kind} contradicts the description '{description}'")
        if description not in ("clean", "dirty"):
            reader.warn(
                "some entries have no known description, and count as dirty, whatever their type"
            )
        return ChangeKind.UNCHANGED if description == "clean" else ChangeKind.DIRTY

    return _json_list_source("nbdinfo", path, "offset", kind_of, whole=True)


def rbd_diff_source(path: Path) -> ImportSource:
    """Read the output of `rbd diff --from-snap SNAP IMAGE --format json`.

    It lists only ranges that differ (rbd(8); src/tools/rbd/action/Diff.cc). `exists` is a string:
    "true" for data, "false" for a range that reads as zeros now.
    """

    def kind_of(entry: Mapping[str, Any], _: SourceReader) -> ChangeKind:
        exists = entry.get("exists")
        if exists not in ("true", "false"):
            raise MalformedRecord(
                f"'exists' of the entry is '{str(exists)[:40]}', neither \"true\" nor \"false\""
            )
        return ChangeKind.DIRTY if exists == "true" else ChangeKind.ZERO

    return _json_list_source("rbd-diff", path, "offset", kind_of)


def extent_list_source(path: Path) -> ImportSource:
    """Read lines of `offset length [type]`, which list only ranges that changed.

    nbdkit-extentlist-filter(1), "FILE FORMAT", describes them. Sizes are written as for nbdkit: K,
    M, … are powers of 1024, and s is 512. A range whose type contains `zero` reads as zeros.
    """
    warnings: list[str] = []

    def changes() -> Iterator[Change]:
        reader = SourceReader(path, "extentlist", warnings)
        with reader.opened() as stream:
            for line in reader.lines(stream):
                fields = line.split()
                if not 2 <= len(fields) <= 3:
                    raise MalformedRecord(f"{quoted(line)} isn't 'offset length [type]'")
                kind = fields[2] if len(fields) == 3 else b""
                if kind not in (*_DATA_TYPES, *_ZERO_TYPES):
                    raise MalformedRecord(f"{quoted(kind)} isn't a type of an extent")
                offset, length = _nbdkit_size(fields[0]), _nbdkit_size(fields[1])
                yield from _change(
                    ChangeKind.ZERO if kind in _ZERO_TYPES else ChangeKind.DIRTY, offset, length
                )

    return ImportSource("extentlist", changes, warnings)


def _json_list_source(
    name: str,
    path: Path,
    offset_field: str,
    kind_of: Callable[[Mapping[str, Any], SourceReader], ChangeKind],
    *,
    whole: bool = False,
) -> ImportSource:
    """Return a source of kind `name` for a JSON list of ranges.

    offset_field: the name of the field with the range's first byte. `length` has its length.
    kind_of: what an entry says of its range. It raises MalformedRecord for an invalid entry.
    """
    warnings: list[str] = []

    def changes() -> Iterator[Change]:
        reader = SourceReader(path, name, warnings)
        with reader.opened() as stream:
            for entry in reader.entries(stream):
                offset, length = integer_field(entry, offset_field), integer_field(entry, "length")
                yield from _change(kind_of(entry, reader), offset, length)

    return ImportSource(name, changes, warnings, whole=whole)


def _change(kind: ChangeKind, offset: int, length: int) -> Iterator[Change]:
    """Yield the change, if its range isn't empty. MalformedRecord if it ends above MAX_BYTE."""
    if offset + length > MAX_BYTE:
        raise MalformedRecord(
            f"the range of {length} bytes from byte {offset} ends above byte {MAX_BYTE}"
        )
    if length:
        yield Change(kind, offset=offset, length=length)


def _nbdkit_size(field: bytes) -> int:
    """Return a size in bytes as nbdkit reads it (nbdkit_parse_size in nbdkit-plugin(3))."""
    match = _SIZE.fullmatch(field)
    if match is None:
        raise MalformedRecord(f"{quoted(field)} isn't a size")
    return int(match[1]) * _UNITS[match[2].lower()]
