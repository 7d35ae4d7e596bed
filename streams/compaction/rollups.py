"""Roll-ups: which records become one, and what it holds. Pure: planned here, executed elsewhere (upkeep.py).

Records of one tier that follow each other without a hole become one of the next tier, which covers what they covered, and no
more: a hole stays a hole. What a record holds is united from all of them, also where they overlap after a replay; its
counts and times are for people, and are added up without the records that others contain.

A volume's records may be larger than memory together. So they are read a part at a time, in the order of blocks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final, TypeAlias

from mirrorlog.domain.bitmaps import BitMap64, pack
from mirrorlog.tracking_log.keys import RecordKey
from mirrorlog.tracking_log.records import LogRecord

MOST_SOURCES: Final = 1024
"""Records that become one: each has a part of it in memory meanwhile."""
_SOURCES_BYTES: Final = 64 << 20
_STRETCH: Final = 1 << 26
"""Blocks united together: 8 MiB of bitmap at most."""

Blocks: TypeAlias = tuple[BitMap64, BitMap64]
"""Changed and zeroed."""


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One record of the table as the keys of its parts tell. numbers: of the parts that are there, ascending."""

    tier: int
    after: int
    through: int
    numbers: tuple[int, ...] = (0,)

    def is_inside(self, other: Entry) -> bool:
        """Whether `other`, of a higher tier, covers all of it."""
        return (
            self.tier < other.tier and other.after <= self.after and self.through <= other.through
        )

    def keys(self, volume: str) -> list[RecordKey]:
        """The keys of its parts."""
        return [
            RecordKey(volume, self.tier, self.after, self.through, number)
            for number in self.numbers
        ]


def entries(keys: Iterable[RecordKey]) -> list[Entry]:
    """The records that sorted keys of one volume name."""
    groups = groupby(keys, key=lambda key: (key.tier, key.after, key.through))
    return [Entry(*span, tuple(key.part for key in parts)) for span, parts in groups]


@dataclass(frozen=True, slots=True)
class Source:
    """A record to roll up. first: its first part, without the blocks where they are many; size_bytes: of that part."""

    entry: Entry
    first: LogRecord
    size_bytes: int

    @property
    def is_whole(self) -> bool:
        """Whether every part is there."""
        return self.entry.numbers == tuple(range(self.first.parts))


def chains(sources: Iterable[Source]) -> list[list[Source]]:
    """Sources of one tier in chains that each may become one record: of one generation, without a hole, of bounded size.

    A chain of one is left to wait for its next: another record would say nothing new.
    """
    found: list[list[Source]] = []
    reach = size_bytes = 0
    kind: tuple[str, int] | None = None
    for source in sorted(
        sources, key=lambda s: (s.first.generation, s.entry.after, -s.entry.through)
    ):
        mine = (source.first.generation, source.first.block_size)
        goes_on = kind == mine and source.entry.after <= reach
        if goes_on and len(found[-1]) < MOST_SOURCES and size_bytes < _SOURCES_BYTES:
            found[-1].append(source)
        else:
            found.append([source])
            reach, size_bytes = source.entry.through, 0
        kind, size_bytes = mine, size_bytes + source.size_bytes
        reach = max(reach, source.entry.through)
    return found


def header(tier: int, chain: Sequence[Source]) -> LogRecord:
    """What the chain's record says beside its blocks."""
    records = [source.first for source in chain]
    counted, reach = [], records[0].after - 1
    for record in records:
        if record.through > reach:
            counted.append(record)
            reach = record.through
    return replace(
        records[0],
        tier=tier,
        after=min(record.after for record in records),
        through=max(record.through for record in records),
        changed=BitMap64(),
        zeroed=BitMap64(),
        first_at_us=min(record.first_at_us for record in records),
        last_at_us=max(record.last_at_us for record in records),
        commands=sum(record.commands for record in counted),
        writes=sum(record.writes for record in counted),
        bytes_written=sum(record.bytes_written for record in counted),
        hosts=tuple(sorted({host for record in records for host in record.hosts})),
        part=0,
        parts=1,
    )


def united(records: Sequence[Iterator[LogRecord]]) -> Iterator[Blocks | None]:
    """The union of records, each given as its parts in their order: stretches ascending; None after each part read.

    In memory: one stretch, one part of each record, and what parts that reach further hold above the stretch.
    """
    ahead: list[tuple[LogRecord, Iterator[LogRecord]]] = []
    for parts in records:
        ahead += _next_of(parts)
        yield None
    changed, zeroed = BitMap64(), BitMap64()
    while ahead or changed:
        lowest = min(
            [part.changed.min() for part, _ in ahead] + ([changed.min()] if changed else [])
        )
        end = (lowest // _STRETCH + 1) * _STRETCH
        while begun := [each for each in ahead if each[0].changed.min() < end]:
            ahead = [each for each in ahead if each[0].changed.min() >= end]
            for part, parts in begun:
                changed |= part.changed
                zeroed |= part.zeroed
                ahead += _next_of(parts)
                yield None
        mask = BitMap64()
        mask.add_range(end - _STRETCH, end)
        yield changed & mask, zeroed & mask
        changed, zeroed = changed - mask, zeroed - mask


def _next_of(parts: Iterator[LogRecord]) -> list[tuple[LogRecord, Iterator[LogRecord]]]:
    """The next part that holds a block, and those that follow it."""
    return [
        (part, parts)
        for part in [next((part for part in parts if part.changed), None)]
        if part is not None
    ]


def pieces(stretches: Iterable[Blocks | None], max_bytes: int) -> Iterator[Blocks | None]:
    """The same blocks in pieces by block range, each with bitmaps of at most `max_bytes`; None after a little work.

    Where one ends depends on the blocks and on `max_bytes` alone, not on how they came: two workers that roll up the same
    range cut it alike, and parts of the one fit those of the other.
    """
    changed, zeroed, size_bytes = BitMap64(), BitMap64(), 0
    for stretch in stretches:
        if stretch is None:
            yield None
            continue
        first = stretch[0].min() // _STRETCH * _STRETCH
        for leaf, leaf_bytes in _leaves(stretch, first, _STRETCH, max_bytes):
            yield None
            if changed and size_bytes + leaf_bytes > max_bytes:
                yield changed, zeroed
                changed, zeroed, size_bytes = BitMap64(), BitMap64(), 0
            changed |= leaf[0]
            zeroed |= leaf[1]
            size_bytes += leaf_bytes
    if changed:
        yield changed, zeroed


def _leaves(blocks: Blocks, first: int, width: int, max_bytes: int) -> Iterator[tuple[Blocks, int]]:
    """Halves of halves of the range [first, first + width), as large as `max_bytes` lets them be."""
    changed, zeroed = blocks
    if not changed:
        return
    size_bytes = len(pack(changed)) + len(pack(zeroed))
    if size_bytes <= max_bytes or width == 1:
        yield blocks, size_bytes
        return
    low = BitMap64()
    low.add_range(first, first + width // 2)
    yield from _leaves((changed & low, zeroed & low), first, width // 2, max_bytes)
    yield from _leaves((changed - low, zeroed - low), first + width // 2, width // 2, max_bytes)


def is_within(
    parts: Iterable[Blocks | None], whole: Iterable[Blocks | None]
) -> Iterator[bool | None]:
    """Whether `whole` holds every block of `parts`, both as `united` gives them: at the end one bool, before it None."""
    held = (stretch for stretch in whole if stretch is not None)
    now = next(held, None)
    for stretch in parts:
        yield None
        if stretch is None:
            continue
        while now is not None and now[0].max() // _STRETCH < stretch[0].min() // _STRETCH:
            now = next(held, None)
        if now is None or not (stretch[0].issubset(now[0]) and stretch[1].issubset(now[1])):
            yield False
            return
    yield True


class Holders:
    """Records, asked for one of a higher tier that covers another."""

    def __init__(self, found: Iterable[Entry]) -> None:
        self._by_tier: dict[int, tuple[list[int], list[Entry]]] = {}
        for entry in sorted(found, key=lambda entry: entry.after):
            starts, furthest = self._by_tier.setdefault(entry.tier, ([], []))
            starts.append(entry.after)
            # Of those that begin at or before it, the one that reaches furthest.
            furthest.append(
                entry if not furthest or entry.through > furthest[-1].through else furthest[-1]
            )

    def holder(self, entry: Entry) -> Entry | None:
        """The lowest record above `entry` that covers it; None where there is none."""
        for tier in sorted(self._by_tier):
            starts, furthest = self._by_tier[tier]
            number = bisect_right(starts, entry.after)
            if number and entry.is_inside(furthest[number - 1]):
                return furthest[number - 1]
        return None
