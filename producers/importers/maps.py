"""Dirty maps that others keep: what each of their fields means for a volume. In doubt a range is dirty."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from mirrorlog.extents import MAX_BYTE
from mirrorlog.producers.importers.change import Change, ChangeKind, Source
from mirrorlog.producers.importers.reading import Reading, flag, whole_number
from mirrorlog.producers.traces.request import SECTOR_BYTES, Malformed, shown

_ALLOCATION: Final = frozenset({"data", "hole", "zero", "hole,zero"})
_UNCHANGED_BEHIND: Final = re.compile(r"absent|backing depth [0-9]+")
_SIZE: Final = re.compile(rb"([0-9]{1,20})([bBkKmMgGtTpPeEsS]?)")
_UNITS: Final = {b"s": SECTOR_BYTES, b"b": 1, b"": 1} | {
    bytes([letter]): 1 << 10 * power for power, letter in enumerate(b"kmgtpe", start=1)
}
_DATA: Final = (b"", b"0", b"hole", b"1")
_ZEROS: Final = (b"zero", b"hole,zero", b"zero,hole", b"2", b"3")


def qemu_map(path: Path, *, layers: int = 1, dirty_bitmap: bool = False) -> Source:
    """`qemu-img map --output=json IMAGE`: a list of MapEntry (qapi/block-core.json), from the first byte to the last.

    As a rule it is of an overlay, and what the overlay holds changed since the one below was the newest: `depth` counts
    from it, and `layers` of them are meant. An entry of them that is `present` is dirty, and reads as zeros where it says
    `zero`. One that isn't `present` and reads as zeros is in no layer. qemu before 6.1 doesn't say `present`: then it is dirty.

    dirty_bitmap: the map was made over NBD with `x-dirty-bitmap` (block-core.json, BlockdevOptionsNbd), which puts the
    bitmap in the place of base:allocation. Its dirty ranges come out as neither data nor zeros, and not `present`
    (img_map in qemu-img.c; tried with 7.2). Without being told, such an entry is dirty all the same, but for those
    that have an `offset`: qemu-img never gives one there, `mirrorlog changed --format qemu-map` does.
    """

    def meaning(entry: Mapping[str, Any], reading: Reading) -> ChangeKind:
        data, zero = flag(entry, "data"), flag(entry, "zero")
        present = flag(entry, "present") if "present" in entry else None
        if dirty_bitmap:
            return ChangeKind.UNCHANGED if data else ChangeKind.DIRTY
        if whole_number(entry, "depth") >= layers:
            return ChangeKind.UNCHANGED
        if present is None and not data:
            reading.doubt("entries don't say whether they are present (qemu before 6.1): those are dirty")
        if not data and not zero:
            if present is False and "offset" in entry:
                return ChangeKind.UNCHANGED
            reading.doubt(
                "entries are neither data nor zeros: those are dirty. If the map is of an x-dirty-bitmap, say "
                "--dirty-bitmap: then what it calls data is clean"
            )
            return ChangeKind.DIRTY
        if present is False:
            return ChangeKind.UNCHANGED
        return ChangeKind.ZERO if zero else ChangeKind.DIRTY

    return _listed("qemu-map", path, "start", meaning, whole=True)


def nbdinfo(path: Path) -> Source:
    """`nbdinfo --map=qemu:dirty-bitmap:NAME --json URI` or `--map=qemu:allocation-depth` (nbdinfo(1), "Map"; info/map.c).

    The list doesn't name its context; `description` tells it. A dirty bitmap's type is 1 where it is dirty and 0 where it is
    clean (qemu, docs/interop/nbd.rst). Of the allocation depth, 1 is `local`: the newest layer holds it. A map of
    base:allocation says nothing of changes and is refused. Without a description that is known a range is dirty.
    """

    def meaning(entry: Mapping[str, Any], reading: Reading) -> ChangeKind:
        kind, description = whole_number(entry, "type"), str(entry.get("description", ""))
        if description in _ALLOCATION:
            raise Malformed(
                f"this is a map of base:allocation ('{description}'): it says what is allocated, not what changed",
                next="Make it with nbdinfo --map=qemu:dirty-bitmap:NAME --json.",
            )
        if {"clean": 0, "dirty": 1, "local": 1, "absent": 0}.get(description, kind) != kind:
            raise Malformed(f"type {kind} contradicts the description '{description}'")
        if description == "clean" or _UNCHANGED_BEHIND.fullmatch(description):
            return ChangeKind.UNCHANGED
        if description not in ("dirty", "local"):
            reading.doubt("entries have no description that is known: those are dirty, whatever their type")
        return ChangeKind.DIRTY

    return _listed("nbdinfo", path, "offset", meaning, whole=True)


def rbd_diff(path: Path) -> Source:
    """`rbd diff --from-snap SNAP IMAGE --format json` (rbd(8); src/tools/rbd/action/Diff.cc): what differs, and no more.

    `exists` is a string: "true" for data, "false" for what reads as zeros now.
    """

    def meaning(entry: Mapping[str, Any], _: Reading) -> ChangeKind:
        exists = entry.get("exists")
        if exists not in ("true", "false"):
            raise Malformed(f'\'exists\' of the entry is {str(exists)[:40]!r} and neither "true" nor "false"')
        return ChangeKind.DIRTY if exists == "true" else ChangeKind.ZERO

    return _listed("rbd-diff", path, "offset", meaning)


def extent_list(path: Path) -> Source:
    """Lines `offset length [type]` (nbdkit-extentlist-filter(1), "FILE FORMAT"): what changed, and no more.

    Sizes as nbdkit writes them (K, M, … are powers of 1024, s is 512). A type with `zero` reads as zeros.
    """
    doubts: list[str] = []

    def changes() -> Iterator[Change]:
        reading = Reading(path, "extentlist", doubts)
        with reading.opened() as stream:
            for line in reading.lines(stream):
                fields = line.split()
                if not 2 <= len(fields) <= 3:
                    raise Malformed(f"{shown(line)} isn't 'offset length [type]'")
                kind = fields[2] if len(fields) == 3 else b""
                if kind not in (*_DATA, *_ZEROS):
                    raise Malformed(f"{shown(kind)} is no type of an extent")
                offset, length = _nbdkit_size(fields[0]), _nbdkit_size(fields[1])
                yield from _named(ChangeKind.ZERO if kind in _ZEROS else ChangeKind.DIRTY, offset, length)

    return Source("extentlist", changes, doubts)


def _listed(name: str, path: Path, start: str, meaning: Any, *, whole: bool = False) -> Source:
    """A JSON list of objects with `start` (or what it is called) and `length`, each of which has a meaning."""
    doubts: list[str] = []

    def changes() -> Iterator[Change]:
        reading = Reading(path, name, doubts)
        with reading.opened() as stream:
            for entry in reading.entries(stream):
                offset, length = whole_number(entry, start), whole_number(entry, "length")
                yield from _named(meaning(entry, reading), offset, length)

    return Source(name, changes, doubts, whole=whole)


def _named(kind: ChangeKind, offset: int, length: int) -> Iterator[Change]:
    """The range, if it names a byte."""
    if offset + length > MAX_BYTE:
        raise Malformed(f"{length} bytes from byte {offset} on end above byte {MAX_BYTE}")
    if length:
        yield Change(kind, offset, length)


def _nbdkit_size(field: bytes) -> int:
    match = _SIZE.fullmatch(field)
    if match is None:
        raise Malformed(f"{shown(field)} isn't a size")
    return int(match[1]) * _UNITS[match[2].lower()]
