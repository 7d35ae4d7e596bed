"""Changed blocks in the shapes that tools already read. Each is a stream of text pieces: memory doesn't grow with the runs.

| format     | what it is like                                              | lists      |
|------------|--------------------------------------------------------------|------------|
| table      | for people                                                   | changed    |
| json       | oVirt imageio, GET /images/TICKET/extents?context=dirty      | all        |
| qemu-map   | qemu-img map --output=json (QAPI MapEntry)                   | all        |
| nbdinfo    | nbdinfo --map=qemu:dirty-bitmap:NAME --json                  | all        |
| rbd        | rbd diff --format json (exists "false": reads as zeros)      | changed    |
| ebs        | EBS direct APIs, ListChangedBlocks: one page                 | changed    |
| extentlist | nbdkit-extentlist-filter(1), type left out (data)            | changed    |
| csv        | start,length,zero with a header                              | changed    |
| ranges     | first-last byte, both inside (RFC 9110, 14.1.2)              | changed    |

Bytes, clipped at the volume's end. A listing that is resumed begins with the byte asked for, in the middle of a run if need be.
Those in JSON also come in pages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any, Final, TypeAlias

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.points import format_time
from mirrorlog.domain.bitmaps import BitMap64, runs
from mirrorlog.errors import BadUse
from mirrorlog.units import format_size

EBS_PAGE: Final = 10_000
"""Blocks on a page of ListChangedBlocks: the most that EBS gives (MaxResults)."""
_GIB: Final = 1 << 30
Entry: TypeAlias = Mapping[str, Any]
"""One object of a listing."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """`length` bytes from `start` on, all alike. zero: changed, and known to read as zeros."""

    start: int
    length: int
    dirty: bool
    zero: bool


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of a listing. next: the byte that the rest of it begins with; None where there is no rest."""

    listing: Sequence[Entry] | Entry
    next: int | None


def render(answer: ChangedBlocks, name: str, offset: int = 0) -> Iterator[str]:
    """The answer in the format `name`, from byte `offset` on; BadUse for an unknown format and an offset outside."""
    check_format(name, FORMATS)
    _check_offset(answer, offset)
    if name in _LISTS:
        return _list(map(json.dumps, _LISTS[name](answer, offset)))
    return _TEXTS[name](answer, offset)


def page(answer: ChangedBlocks, name: str, offset: int, most: int) -> Page:
    """At most `most` entries of the listing in the format `name`, from byte `offset` on; BadUse as `render`.

    A page ends where an entry does: all pages together are the listing.
    """
    check_format(name, JSON_FORMATS)
    _check_offset(answer, offset)
    if name == "ebs":
        return _ebs_page(answer, offset, most)
    entries = list(islice(_LISTS[name](answer, offset), most + 1))
    rest = entries.pop() if len(entries) > most else None
    return Page(entries, None if rest is None else rest["start" if "start" in rest else "offset"])


def check_format(name: str, known: Sequence[str]) -> None:
    """BadUse where `name` is none of the formats `known`."""
    if name not in known:
        raise BadUse(f"there is no format '{name[:40]}'", next=f"Use one of {', '.join(known)}.")


def _check_offset(answer: ChangedBlocks, offset: int) -> None:
    if not 0 <= offset <= answer.volume.size_bytes:
        size = answer.volume.size_bytes
        raise BadUse(
            f"offset {offset} lies outside volume {answer.volume.volume}",
            next=f"It has {size} bytes.",
        )


def changed_stretches(answer: ChangedBlocks, offset: int = 0) -> Iterator[Stretch]:
    """The changed runs from byte `offset` on, ascending; neighbours differ in `zero`."""
    volume = answer.volume
    first_block = offset // volume.block_size
    dirty = (
        (first, count, False)
        for first, count in runs(_from(answer.changed - answer.zeroed, first_block))
    )
    zero = ((first, count, True) for first, count in runs(_from(answer.zeroed, first_block)))
    for first, count, is_zero in merge(dirty, zero):
        start, length = volume.byte_range(first=first, count=count)
        cut = max(offset - start, 0)
        if length > cut:
            yield Stretch(start + cut, length - cut, True, is_zero)


def all_stretches(answer: ChangedBlocks, offset: int = 0) -> Iterator[Stretch]:
    """The whole volume from byte `offset` on, without a gap."""
    reached = offset
    for stretch in changed_stretches(answer, offset):
        if stretch.start > reached:
            yield Stretch(reached, stretch.start - reached, False, False)
        yield stretch
        reached = stretch.start + stretch.length
    if reached < answer.volume.size_bytes:
        yield Stretch(reached, answer.volume.size_bytes - reached, False, False)


def _from(blocks: BitMap64, first: int) -> BitMap64:
    if first == 0:
        return blocks
    rest = blocks.copy()
    rest.remove_range(0, first)
    return rest


def _list(entries: Iterator[str]) -> Iterator[str]:
    """A JSON array, an entry a line."""
    before = "[\n"
    for entry in entries:
        yield before + entry
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _json(answer: ChangedBlocks, offset: int) -> Iterator[Entry]:
    """A changed run says who may have written it, and when: what is known of the whole range, not of the run alone."""
    who: Entry = {
        "hosts": list(answer.hosts),
        "first_write_at": _time(answer.first_write_at_us),
        "last_write_at": _time(answer.last_write_at_us),
    }
    for_none: Entry = {"hosts": [], "first_write_at": None, "last_write_at": None}
    for each in all_stretches(answer, offset):
        fields = {
            "start": each.start,
            "length": each.length,
            "dirty": each.dirty,
            "zero": each.zero,
        }
        yield {**fields, **(who if each.dirty else for_none)}


def _time(at_us: int | None) -> str | None:
    return None if at_us is None else format_time(at_us)


def _qemu_map(answer: ChangedBlocks, offset: int) -> Iterator[Entry]:
    """As an overlay that holds what changed: what didn't isn't present, neither as data nor as zeros."""
    for each in all_stretches(answer, offset):
        yield {
            "start": each.start,
            "length": each.length,
            "depth": 0,
            "present": each.dirty,
            "zero": each.zero,
            "data": each.dirty and not each.zero,
            "offset": each.start,
        }


def _nbdinfo(answer: ChangedBlocks, offset: int) -> Iterator[Entry]:
    """A dirty bitmap's map knows clean and dirty: dirty zeros are dirty."""
    start, length, dirty = offset, 0, False
    for each in all_stretches(answer, offset):
        if each.dirty != dirty and length:
            yield _nbd_entry(start, length, dirty)
            start, length = each.start, 0
        length, dirty = length + each.length, each.dirty
    if length:
        yield _nbd_entry(start, length, dirty)


def _nbd_entry(start: int, length: int, dirty: bool) -> Entry:
    return {
        "offset": start,
        "length": length,
        "type": int(dirty),
        "description": "dirty" if dirty else "clean",
    }


def _rbd(answer: ChangedBlocks, offset: int) -> Iterator[Entry]:
    for each in changed_stretches(answer, offset):
        yield {
            "offset": each.start,
            "length": each.length,
            "exists": "false" if each.zero else "true",
        }


def _ebs(answer: ChangedBlocks, offset: int) -> Iterator[str]:
    yield json.dumps(_ebs_page(answer, offset, EBS_PAGE).listing) + "\n"


def _ebs_page(answer: ChangedBlocks, offset: int, most: int) -> Page:
    """One page. NextToken is the byte offset of the next one, as text; null on the last. VolumeSize in GiB, rounded up."""
    volume = answer.volume
    indexes = _from(answer.changed, offset // volume.block_size)
    found = list(islice(iter(indexes), most + 1))
    rest = found.pop() * volume.block_size if len(found) > most else None
    fields = {
        "BlockSize": volume.block_size,
        "VolumeSize": -(-volume.size_bytes // _GIB),
        "NextToken": None if rest is None else str(rest),
        "ChangedBlocks": [{"BlockIndex": index} for index in found],
    }
    return Page(fields, rest)


def _extentlist(answer: ChangedBlocks, offset: int) -> Iterator[str]:
    return (f"{each.start} {each.length}\n" for each in changed_stretches(answer, offset))


def _csv(answer: ChangedBlocks, offset: int) -> Iterator[str]:
    yield "start,length,zero\n"
    for each in changed_stretches(answer, offset):
        yield f"{each.start},{each.length},{str(each.zero).lower()}\n"


def _ranges(answer: ChangedBlocks, offset: int) -> Iterator[str]:
    return (
        f"{each.start}-{each.start + each.length - 1}\n"
        for each in changed_stretches(answer, offset)
    )


def _table(answer: ChangedBlocks, offset: int) -> Iterator[str]:
    volume, blocks = answer.volume, len(answer.changed)
    size = format_size(min(blocks * volume.block_size, volume.size_bytes))
    yield f"{volume.volume}: {blocks} of {volume.blocks} blocks changed ({size}) after position {answer.since}, "
    yield f"through {answer.until}\n"
    if answer.hosts:
        first, last = _time(answer.first_write_at_us), _time(answer.last_write_at_us)
        yield f"{answer.writes} writes by {', '.join(answer.hosts)}, the first {first}, the last {last}\n"
        yield f"{'START':>20} {'LENGTH':>20}\n"
    for each in changed_stretches(answer, offset):
        yield f"{each.start:>20} {each.length:>20}{'  zero' if each.zero else ''}\n"


_LISTS: Final[Mapping[str, Callable[[ChangedBlocks, int], Iterator[Entry]]]] = {
    "json": _json,
    "qemu-map": _qemu_map,
    "nbdinfo": _nbdinfo,
    "rbd": _rbd,
}
_TEXTS: Final[Mapping[str, Callable[[ChangedBlocks, int], Iterator[str]]]] = {
    "table": _table,
    "ebs": _ebs,
    "extentlist": _extentlist,
    "csv": _csv,
    "ranges": _ranges,
}
JSON_FORMATS: Final = (*_LISTS, "ebs")
FORMATS: Final = ("table", *JSON_FORMATS, "extentlist", "csv", "ranges")
