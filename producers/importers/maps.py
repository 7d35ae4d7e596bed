"""Dirty maps that others keep: what each of their fields means for a volume. In doubt a range is dirty."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
_DATA: Final = (b"", b"0", b"hole", b"1")
_ZEROS: Final = (b"zero", b"hole,zero", b"zero,hole", b"2", b"3")


def qemu_map_source(path: Path, *, layers: int = 1, dirty_bitmap: bool = False) -> ImportSource:
    """`qemu-img map --output=json IMAGE`: a list of MapEntry (qapi/block-core.json), from the first byte to the last.

    As a rule it is of an overlay: what the overlay holds was written since it was made. `depth` counts the layers from the
    newest, and `layers` of them are meant. What reads as zeros in them changed too, `present` or not: nothing tells a hole
    from what was discarded there.

    dirty_bitmap: the map was made over NBD with `x-dirty-bitmap` (block-core.json, BlockdevOptionsNbd), which puts the
    bitmap in the place of base:allocation. Its dirty ranges come out as neither data nor zeros, and not `present`
    (get_block_status in qemu-img.c; tried with 7.2). Without being told, such an entry is dirty all the same, but for
    those that have an `offset`: qemu-img never gives one there, `mirrorlog changed --format qemu-map` does for what
    didn't change.
    """

    def meaning(entry: Mapping[str, Any], reader: SourceReader) -> ChangeKind:
        data, zero = boolean_field(entry, "data"), boolean_field(entry, "zero")
        depth = integer_field(entry, "depth")
        if dirty_bitmap:
            if zero or depth:
                raise MalformedRecord(
                    "a dirty bitmap has neither zeros nor layers: this map is of an image"
                )
            return ChangeKind.UNCHANGED if data else ChangeKind.DIRTY
        if depth >= layers:
            return ChangeKind.UNCHANGED
        if data or zero:
            return ChangeKind.ZERO if zero else ChangeKind.DIRTY
        if entry.get("present") is False and "offset" in entry:
            return ChangeKind.UNCHANGED
        reader.warn(
            "entries are neither data nor zeros: those are dirty. If the map is of an x-dirty-bitmap, say "
            "--dirty-bitmap: then what it calls data is clean"
        )
        return ChangeKind.DIRTY

    return _listed("qemu-map", path, "start", meaning, whole=True)


def nbdinfo_source(path: Path) -> ImportSource:
    """`nbdinfo --map=qemu:dirty-bitmap:NAME --json URI` (nbdinfo(1), "Map"; info/map.c in libnbd).

    The list doesn't name its context; `description` tells it. A dirty bitmap's type is 1 where it is dirty and 0 where it is
    clean (qemu, docs/interop/nbd.rst). Maps of base:allocation and qemu:allocation-depth say what is allocated and are
    refused. Without a description that is known a range is dirty.
    """

    def meaning(entry: Mapping[str, Any], reader: SourceReader) -> ChangeKind:
        kind, description = integer_field(entry, "type"), str(entry.get("description", ""))
        if _OF_ALLOCATION.fullmatch(description):
            raise MalformedRecord(
                f"this map has '{description}' in it: it says what is allocated, not what changed",
                next="Make it with nbdinfo --map=qemu:dirty-bitmap:NAME --json.",
            )
        if {"clean": 0, "dirty": 1}.get(description, kind) != kind:
            raise MalformedRecord(f"type {kind} contradicts the description '{description}'")
        if description not in ("clean", "dirty"):
            reader.warn(
                "entries have no description that is known: those are dirty, whatever their type"
            )
        return ChangeKind.UNCHANGED if description == "clean" else ChangeKind.DIRTY

    return _listed("nbdinfo", path, "offset", meaning, whole=True)


def rbd_diff_source(path: Path) -> ImportSource:
    """`rbd diff --from-snap SNAP IMAGE --format json` (rbd(8); src/tools/rbd/action/Diff.cc): what differs, and no more.

    `exists` is a string: "true" for data, "false" for what reads as zeros now.
    """

    def meaning(entry: Mapping[str, Any], _: SourceReader) -> ChangeKind:
        exists = entry.get("exists")
        if exists not in ("true", "false"):
            raise MalformedRecord(
                f'\'exists\' of the entry is {str(exists)[:40]!r} and neither "true" nor "false"'
            )
        return ChangeKind.DIRTY if exists == "true" else ChangeKind.ZERO

    return _listed("rbd-diff", path, "offset", meaning)


def extent_list_source(path: Path) -> ImportSource:
    """Lines `offset length [type]` (nbdkit-extentlist-filter(1), "FILE FORMAT"): what changed, and no more.

    Sizes as nbdkit writes them (K, M, … are powers of 1024, s is 512). A type with `zero` reads as zeros.
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
                if kind not in (*_DATA, *_ZEROS):
                    raise MalformedRecord(f"{quoted(kind)} is no type of an extent")
                offset, length = _nbdkit_size(fields[0]), _nbdkit_size(fields[1])
                yield from _named(
                    ChangeKind.ZERO if kind in _ZEROS else ChangeKind.DIRTY, offset, length
                )

    return ImportSource("extentlist", changes, warnings)


def _listed(
    name: str, path: Path, start: str, meaning: Any, *, whole: bool = False
) -> ImportSource:
    """A JSON list of objects with `start` (or what it is called) and `length`, each of which has a meaning."""
    warnings: list[str] = []

    def changes() -> Iterator[Change]:
        reader = SourceReader(path, name, warnings)
        with reader.opened() as stream:
            for entry in reader.entries(stream):
                offset, length = integer_field(entry, start), integer_field(entry, "length")
                yield from _named(meaning(entry, reader), offset, length)

    return ImportSource(name, changes, warnings, whole=whole)


def _named(kind: ChangeKind, offset: int, length: int) -> Iterator[Change]:
    """The range, if it names a byte."""
    if offset + length > MAX_BYTE:
        raise MalformedRecord(f"{length} bytes from byte {offset} on end above byte {MAX_BYTE}")
    if length:
        yield Change(kind, offset, length)


def _nbdkit_size(field: bytes) -> int:
    match = _SIZE.fullmatch(field)
    if match is None:
        raise MalformedRecord(f"{quoted(field)} isn't a size")
    return int(match[1]) * _UNITS[match[2].lower()]
