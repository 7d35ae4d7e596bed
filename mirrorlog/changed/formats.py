"""Changed blocks in formats that tools already read.

A listing is a stream of text pieces: memory doesn't grow with its length. docs/changed.md says how
to copy what a listing names.

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

Numbers are bytes, clipped at the volume's end. A listing that is resumed begins with the byte asked
for, even in the middle of a run. Listings in JSON also come in pages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any, Final, TypeAlias

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.points import AnsweringClock, format_time
from mirrorlog.domain.bitmaps import BlockSet, runs
from mirrorlog.errors import BadUse
from mirrorlog.units import format_size

EBS_PAGE: Final = 10_000
"""The blocks on a page of ListChangedBlocks: as many as EBS returns (MaxResults)."""
_GIB: Final = 1 << 30
_CHUNK_CHARACTERS: Final = 1 << 16
ListingEntry: TypeAlias = Mapping[str, Any]
"""One object of a listing."""


@dataclass(frozen=True, slots=True)
class ByteRun:
    """`length` bytes from `start` on that are alike.

    dirty: they may have changed. zero: they changed, and are known to read as zeros.
    """

    start: int
    length: int
    dirty: bool
    zero: bool


@dataclass(frozen=True, slots=True)
class ListingPage:
    """A page of a listing. next: the byte with which the next page begins; None on the last."""

    listing: Sequence[ListingEntry] | ListingEntry
    next: int | None


def render(answer: ChangedBlocks, name: str, offset: int = 0) -> Iterator[str]:
    """Yield the answer in the format `name`, in pieces, from byte `offset` on.

    Raise BadUse for an unknown format or an offset outside the volume.
    """
    check_format(name, FORMATS)
    _check_offset(answer, offset)
    if name in _LISTS:
        return _list(map(json.dumps, _LISTS[name](answer, offset)))
    return _TEXTS[name](answer, offset)


def list_page(answer: ChangedBlocks, name: str, offset: int, max_entries: int) -> ListingPage:
    """Return at most `max_entries` entries of a JSON format, from byte `offset` on.

    A page ends where an entry does: all pages together are the listing. Raise BadUse as render().
    """
    check_format(name, JSON_FORMATS)
    _check_offset(answer, offset)
    if name == "ebs":
        return _ebs_page(answer, offset, max_entries)
    entries = list(islice(_LISTS[name](answer, offset), max_entries + 1))
    rest = entries.pop() if len(entries) > max_entries else None
    return ListingPage(
        entries, None if rest is None else rest["start" if "start" in rest else "offset"]
    )


def check_format(name: str, known: Sequence[str]) -> None:
    """Raise BadUse unless `name` is one of the formats `known`."""
    if name not in known:
        raise BadUse(f"there is no format '{name[:40]}'", next=f"Use one of {', '.join(known)}.")


def content_type(name: str) -> str:
    """Return the header Content-Type of a listing in the format `name`."""
    return f"{_MEDIA_TYPES.get(name, 'text/plain')}; charset=utf-8"


def _check_offset(answer: ChangedBlocks, offset: int) -> None:
    if not 0 <= offset <= answer.volume.size_bytes:
        size = answer.volume.size_bytes
        raise BadUse(
            f"offset {offset} lies outside volume {answer.volume.volume}",
            next=f"It has {size} bytes.",
        )


def changed_runs(answer: ChangedBlocks, offset: int = 0) -> Iterator[ByteRun]:
    """Yield the changed runs from byte `offset` on, ascending. Neighbours differ in `zero`."""
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
            yield ByteRun(start + cut, length - cut, True, is_zero)


def all_runs(answer: ChangedBlocks, offset: int = 0) -> Iterator[ByteRun]:
    """Yield runs that cover the volume from byte `offset` on without a gap, ascending."""
    reached = offset
    for run in changed_runs(answer, offset):
        if run.start > reached:
            yield ByteRun(reached, run.start - reached, False, False)
        yield run
        reached = run.start + run.length
    if reached < answer.volume.size_bytes:
        yield ByteRun(reached, answer.volume.size_bytes - reached, False, False)


def _from(blocks: BlockSet, first: int) -> BlockSet:
    if first == 0:
        return blocks
    rest = blocks.copy()
    rest.remove_range(0, first)
    return rest


def _list(entries: Iterator[str]) -> Iterator[str]:
    """Yield the text of a JSON array with one entry on a line."""
    before = "[\n"
    for entry in entries:
        yield before + entry
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def join_pieces(
    pieces: Iterator[str], checkpoint: Callable[[], None] = lambda: None
) -> Iterator[str]:
    """Join the pieces of a listing to larger chunks. Calls `checkpoint` before each piece."""
    held: list[str] = []
    size = 0
    for piece in pieces:
        checkpoint()
        held.append(piece)
        size += len(piece)
        if size >= _CHUNK_CHARACTERS:
            yield "".join(held)
            held, size = [], 0
    yield "".join(held)


def in_object(fields: Mapping[str, Any], pieces: Iterator[str]) -> Iterator[str]:
    """Yield, as one line, a JSON object of `fields` and of a listing in JSON, its `extents`.

    pieces: of the listing, as render() yields them.
    """
    yield f'{json.dumps(fields)[:-1]}, "extents": '
    for piece in pieces:
        yield piece.replace("\n", "")
    yield "}\n"


def _json(answer: ChangedBlocks, offset: int) -> Iterator[ListingEntry]:
    """Yield entries with the hosts and times of the whole range: those of one run aren't known.

    "has_more_hosts" is there only if the log left hosts out.
    """
    changed: ListingEntry = {
        "hosts": list(answer.hosts),
        **({"has_more_hosts": True} if answer.has_more_hosts else {}),
        "first_write_at": _time(answer.first_write_at_us),
        "last_write_at": _time(answer.last_write_at_us),
    }
    unchanged: ListingEntry = {"hosts": [], "first_write_at": None, "last_write_at": None}
    for run in all_runs(answer, offset):
        fields = {
            "start": run.start,
            "length": run.length,
            "dirty": run.dirty,
            "zero": run.zero,
        }
        yield {**fields, **(changed if run.dirty else unchanged)}


def _time(at_us: int | None) -> str | None:
    return None if at_us is None else format_time(at_us)


def _qemu_map(answer: ChangedBlocks, offset: int) -> Iterator[ListingEntry]:
    """Yield entries like those of an overlay that holds only the changed runs."""
    for run in all_runs(answer, offset):
        yield {
            "start": run.start,
            "length": run.length,
            "depth": 0,
            "present": run.dirty,
            "zero": run.zero,
            "data": run.dirty and not run.zero,
            "offset": run.start,
        }


def _nbdinfo(answer: ChangedBlocks, offset: int) -> Iterator[ListingEntry]:
    """Clean and dirty runs: the map of a dirty bitmap doesn't tell zeros."""
    start, length, dirty = offset, 0, False
    for run in all_runs(answer, offset):
        if run.dirty != dirty and length:
            yield _nbd_entry(start, length, dirty)
            start, length = run.start, 0
        length, dirty = length + run.length, run.dirty
    if length:
        yield _nbd_entry(start, length, dirty)


def _nbd_entry(start: int, length: int, dirty: bool) -> ListingEntry:
    return {
        "offset": start,
        "length": length,
        "type": int(dirty),
        "description": "dirty" if dirty else "clean",
    }


def _rbd(answer: ChangedBlocks, offset: int) -> Iterator[ListingEntry]:
    for run in changed_runs(answer, offset):
        yield {
            "offset": run.start,
            "length": run.length,
            "exists": "false" if run.zero else "true",
        }


def _ebs(answer: ChangedBlocks, offset: int) -> Iterator[str]:
    yield json.dumps(_ebs_page(answer, offset, EBS_PAGE).listing) + "\n"


def _ebs_page(answer: ChangedBlocks, offset: int, max_entries: int) -> ListingPage:
    """Return one page of ListChangedBlocks.

    NextToken is the byte offset of the next page, as text; null on the last. VolumeSize is in GiB,
    rounded up.
    """
    volume = answer.volume
    indexes = _from(answer.changed, offset // volume.block_size)
    blocks = list(islice(iter(indexes), max_entries + 1))
    rest = blocks.pop() * volume.block_size if len(blocks) > max_entries else None
    fields = {
        "BlockSize": volume.block_size,
        "VolumeSize": -(-volume.size_bytes // _GIB),
        "NextToken": None if rest is None else str(rest),
        "ChangedBlocks": [{"BlockIndex": index} for index in blocks],
    }
    return ListingPage(fields, rest)


def _extentlist(answer: ChangedBlocks, offset: int) -> Iterator[str]:
    return (f"{run.start} {run.length}\n" for run in changed_runs(answer, offset))


def _csv(answer: ChangedBlocks, offset: int) -> Iterator[str]:
    yield "start,length,zero\n"
    for run in changed_runs(answer, offset):
        yield f"{run.start},{run.length},{str(run.zero).lower()}\n"


def _ranges(answer: ChangedBlocks, offset: int) -> Iterator[str]:
    return (f"{run.start}-{run.start + run.length - 1}\n" for run in changed_runs(answer, offset))


def _table(answer: ChangedBlocks, offset: int) -> Iterator[str]:
    volume, blocks = answer.volume, len(answer.changed)
    size = format_size(volume.bytes_of(blocks))
    yield f"{volume.volume}: {blocks} of {volume.blocks} blocks changed ({size}) "
    yield f"after position {answer.since}, "
    yield f"through {answer.until}\n"
    asked = [
        f"{name} {_time(at_us)}"
        for name, at_us in (("since", answer.asked.since_us), ("until", answer.asked.until_us))
        if at_us is not None
    ]
    if asked:
        own = " by the writes' own times" if answer.asked.clock is AnsweringClock.OWN else ""
        yield f"asked for {', '.join(asked)}{own}\n"
    if answer.hosts:
        first, last = _time(answer.first_write_at_us), _time(answer.last_write_at_us)
        others = " and others" if answer.has_more_hosts else ""
        yield f"{answer.writes} writes by {', '.join(answer.hosts)}{others}, "
        yield f"the first {first}, the last {last}\n"
        yield f"{'START':>20} {'LENGTH':>20}\n"
    for run in changed_runs(answer, offset):
        yield f"{run.start:>20} {run.length:>20}{'  zero' if run.zero else ''}\n"


_LISTS: Final[Mapping[str, Callable[[ChangedBlocks, int], Iterator[ListingEntry]]]] = {
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
_MEDIA_TYPES: Final = {"csv": "text/csv"} | dict.fromkeys(JSON_FORMATS, "application/json")
