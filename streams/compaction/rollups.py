"""Roll-ups: which records become one, and what it holds. Pure; `roll_up_job` executes.

Records of one tier that follow each other without a hole become one record of the next tier. It
covers what they covered and no more: a hole stays a hole (invariant 5). Its blocks are the union of
theirs, also where they overlap after a replay. Counts and times are for people: they are added up
without the records that another one covers.

A volume's records may be larger than memory together. So they are read and united part by part, in
the order of blocks. The generators here yield None after a little work.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final, NamedTuple

from mirrorlog.domain.bitmaps import BlockSet, pack
from mirrorlog.domain.extents import MAX_BYTE
from mirrorlog.tracking_log.keys import RecordKey
from mirrorlog.tracking_log.records import LogRecord, named_hosts

MAX_SOURCES: Final = 1024
"""Records that become one: a part of each is in memory at the same time."""
_MAX_SOURCES_BYTES: Final = 64 << 20
_HOUR_US: Final = 3_600_000_000
_RANGE_BLOCKS: Final = 1 << 26
"""Blocks united at a time: 8 MiB of bitmap at most."""


class RangeBlocks(NamedTuple):
    """The blocks of a range that changed, and those of them that were zeroed."""

    changed: BlockSet
    zeroed: BlockSet


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class StoredRecord:
    """A record of the table as the keys of its parts tell.

    part_numbers: of the parts that are in the table, ascending.
    """

    tier: int
    after: int
    through: int
    part_numbers: tuple[int, ...] = (0,)

    def is_covered_by(self, other: StoredRecord) -> bool:
        """Return whether `other` is of a higher tier and covers all positions of this record."""
        return (
            self.tier < other.tier and other.after <= self.after and self.through <= other.through
        )

    def keys(self, volume: str) -> list[RecordKey]:
        """Return the keys of its parts."""
        return [
            RecordKey(volume, tier=self.tier, after=self.after, through=self.through, part=number)
            for number in self.part_numbers
        ]


def stored_records(keys: Iterable[RecordKey]) -> list[StoredRecord]:
    """Return the records that the keys of one volume name. The keys are sorted."""
    groups = groupby(keys, key=lambda key: (key.tier, key.after, key.through))
    return [
        StoredRecord(
            tier=tier, after=after, through=through, part_numbers=tuple(key.part for key in parts)
        )
        for (tier, after, through), parts in groups
    ]


@dataclass(frozen=True, slots=True)
class RollUpSource:
    """A record to roll up.

    first: its first part, with empty bitmaps if its blocks are many. size_bytes: of that part.
    """

    record: StoredRecord
    first: LogRecord
    size_bytes: int

    @property
    def is_complete(self) -> bool:
        """Return whether every part is in the table."""
        return self.record.part_numbers == tuple(range(self.first.parts))


def plan_chains(sources: Iterable[RollUpSource]) -> list[list[RollUpSource]]:
    """Group sources of one tier into chains, each of which may become one record.

    The sources of a chain are of one generation and block size, leave no hole, and are bounded in
    number and size. Imports are united with imports of the same hour, by their own times. A chain
    of one source waits for the next one: a record for it alone would say nothing new.
    """
    chains: list[list[RollUpSource]] = []
    reach = size_bytes = 0
    kind: tuple[str, int, int | None] | None = None
    for source in sorted(
        sources,
        key=lambda source: (
            source.first.generation,
            source.record.after,
            -source.record.through,
        ),
    ):
        source_kind = (source.first.generation, source.first.block_size, _own_hour(source))
        continues = kind == source_kind and source.record.after <= reach
        if continues and len(chains[-1]) < MAX_SOURCES and size_bytes < _MAX_SOURCES_BYTES:
            chains[-1].append(source)
        else:
            chains.append([source])
            reach, size_bytes = source.record.through, 0
        kind, size_bytes = source_kind, size_bytes + source.size_bytes
        reach = max(reach, source.record.through)
    return chains


def _own_hour(source: RollUpSource) -> int | None:
    """Return the hour of an import's writes, by their own times; None for anything else.

    A question about times replays the commands of records that its times divide. So a recording of
    weeks, which is imported in seconds, must not become one record (docs/decisions/own-times.md).
    An import of several hours stays as it is: it has a negative number of its own.
    """
    first = source.first
    if not first.is_only_imported:
        return None
    hour = first.first_at_us // _HOUR_US
    return hour if first.last_at_us // _HOUR_US == hour else -2 - source.record.after


def merged_header(tier: int, chain: Sequence[RollUpSource]) -> LogRecord:
    """Return the record of a chain in `tier`, with empty bitmaps."""
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
        changed=BlockSet(),
        zeroed=BlockSet(),
        first_at_us=min(record.first_at_us for record in records),
        last_at_us=max(record.last_at_us for record in records),
        commands=sum(record.commands for record in counted),
        writes=sum(record.writes for record in counted),
        bytes_written=min(sum(record.bytes_written for record in counted), MAX_BYTE),
        **named_hosts(
            (host for record in records for host in record.hosts),
            has_more=any(record.has_more_hosts for record in records),
        ),
        part=0,
        parts=1,
    )


class _OpenPart(NamedTuple):
    """A part that was read and isn't united yet, and the parts of its record that follow it."""

    part: LogRecord
    following: Iterator[LogRecord]


def unite(records: Sequence[Iterator[LogRecord]]) -> Iterator[RangeBlocks | None]:
    """Yield the union of records, a range of _RANGE_BLOCKS at a time, ascending.

    records: each as its parts in their order. None is yielded after each part that was read.
    Ranges without a block are left out. Memory: one range, one part of each record, and the blocks
    above the range of parts that reach further.
    """
    waiting: list[_OpenPart] = []
    for parts in records:
        waiting += _next_part(parts)
        yield None
    changed, zeroed = BlockSet(), BlockSet()
    while waiting or changed:
        lowest = min(
            [open_part.part.changed.min() for open_part in waiting]
            + ([changed.min()] if changed else [])
        )
        end = (lowest // _RANGE_BLOCKS + 1) * _RANGE_BLOCKS
        while reached := [open_part for open_part in waiting if open_part.part.changed.min() < end]:
            waiting = [open_part for open_part in waiting if open_part.part.changed.min() >= end]
            for part, following in reached:
                changed |= part.changed
                zeroed |= part.zeroed
                waiting += _next_part(following)
                yield None
        mask = BlockSet()
        mask.add_range(end - _RANGE_BLOCKS, end)
        yield RangeBlocks(changed & mask, zeroed & mask)
        changed, zeroed = changed - mask, zeroed - mask


def _next_part(parts: Iterator[LogRecord]) -> list[_OpenPart]:
    """Read on to the next part that holds a block; return it, or nothing if there is none."""
    part = next((part for part in parts if part.changed), None)
    return [] if part is None else [_OpenPart(part, parts)]


def cut_to_size(
    ranges: Iterable[RangeBlocks | None], max_bytes: int
) -> Iterator[RangeBlocks | None]:
    """Yield the same blocks in pieces by block range, each with bitmaps of at most `max_bytes`.

    ranges: as `unite` yields them. None is yielded after a little work.
    Where a piece ends depends on the blocks and on `max_bytes` alone, not on the ranges: halves of
    halves of the address space are joined from the left as far as they fit. Two workers that roll
    up the same range of positions cut it alike, and the parts of one fit those of the other
    (docs/decisions/roll-ups.md).
    """
    changed, zeroed, size_bytes = BlockSet(), BlockSet(), 0
    for blocks in ranges:
        if blocks is None:
            yield None
            continue
        first = blocks.changed.min() // _RANGE_BLOCKS * _RANGE_BLOCKS
        for leaf, leaf_bytes in _leaves(
            blocks, first=first, width=_RANGE_BLOCKS, max_bytes=max_bytes
        ):
            yield None
            if changed and size_bytes + leaf_bytes > max_bytes:
                yield RangeBlocks(changed, zeroed)
                changed, zeroed, size_bytes = BlockSet(), BlockSet(), 0
            changed |= leaf.changed
            zeroed |= leaf.zeroed
            size_bytes += leaf_bytes
    if changed:
        yield RangeBlocks(changed, zeroed)


def _leaves(
    blocks: RangeBlocks, *, first: int, width: int, max_bytes: int
) -> Iterator[tuple[RangeBlocks, int]]:
    """Yield halves of halves of the range [first, first + width), as large as `max_bytes` allows.

    With each comes the size of its packed bitmaps. `width` is a power of two.
    """
    changed, zeroed = blocks
    if not changed:
        return
    size_bytes = pack(changed).size_bytes + pack(zeroed).size_bytes
    if size_bytes <= max_bytes or width == 1:
        yield blocks, size_bytes
        return
    half = width // 2
    low = BlockSet()
    low.add_range(first, first + half)
    lower, upper = (
        RangeBlocks(changed & low, zeroed & low),
        RangeBlocks(changed - low, zeroed - low),
    )
    yield from _leaves(lower, first=first, width=half, max_bytes=max_bytes)
    yield from _leaves(upper, first=first + half, width=half, max_bytes=max_bytes)


def is_within(
    parts: Iterable[RangeBlocks | None], whole: Iterable[RangeBlocks | None]
) -> Iterator[bool | None]:
    """Prove that `whole` holds every block of `parts`: yield None after some work, a bool last.

    parts, whole: as `unite` yields them.
    """
    held = (blocks for blocks in whole if blocks is not None)
    current = next(held, None)
    for blocks in parts:
        yield None
        if blocks is None:
            continue
        number = blocks.changed.min() // _RANGE_BLOCKS
        while current is not None and current.changed.max() // _RANGE_BLOCKS < number:
            current = next(held, None)
        if current is None or not (
            blocks.changed.issubset(current.changed) and blocks.zeroed.issubset(current.zeroed)
        ):
            yield False
            return
    yield True


class CoverIndex:
    """Finds, for a record, one of a higher tier that covers it."""

    def __init__(self, records: Iterable[StoredRecord]) -> None:
        self._by_tier: dict[int, tuple[list[int], list[StoredRecord]]] = {}
        for record in sorted(records, key=lambda record: record.after):
            starts, furthest = self._by_tier.setdefault(record.tier, ([], []))
            starts.append(record.after)
            # Of the records that begin here or before, the one that reaches furthest.
            reaches_further = not furthest or record.through > furthest[-1].through
            furthest.append(record if reaches_further else furthest[-1])

    def covering(self, record: StoredRecord) -> StoredRecord | None:
        """Return the lowest record above `record` that covers it, None if there is none."""
        for tier in sorted(self._by_tier):
            starts, furthest = self._by_tier[tier]
            number = bisect_right(starts, record.after)
            if number and record.is_covered_by(furthest[number - 1]):
                return furthest[number - 1]
        return None
