"""What one reader holds of a volume's log, and the proof that nothing is missing between two positions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mirrorlog.domain.bitmaps import BitMap64, union
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.tracking_log.heads import VolumeHead
from mirrorlog.tracking_log.keys import RecordKey
from mirrorlog.tracking_log.records import LogRecord


@dataclass(frozen=True, slots=True)
class Hole:
    """Positions `(after, through]` that no record covers."""

    after: int
    through: int


class _Group(NamedTuple):
    """What the parts of one record have in common."""

    tier: int
    after: int
    through: int
    parts: int
    generation: str

    def is_inside(self, other: _Group) -> bool:
        return (
            self.generation == other.generation
            and other.after <= self.after
            and self.through <= other.through
        )


@dataclass(slots=True)
class VolumeLog:
    """What one reader holds of one volume's log: the records after the position that it has dealt with.

    The watermark of the partition and the volume's head arrive beside the records, after them in the changelog. Records
    stay here when the log no longer has them: what a record says stays true.
    """

    head: VolumeHead | None = None
    _groups: dict[_Group, dict[int, LogRecord]] = field(default_factory=dict)
    _rolled_up: list[_Group] = field(default_factory=list)

    def add(self, record: LogRecord) -> None:
        """Takes a record or one part of it; a duplicate replaces its equal."""
        key = _Group(record.tier, record.after, record.through, record.parts, record.generation)
        group = self._groups.setdefault(key, {})
        group[record.part] = record
        if record.tier and len(group) == record.parts:
            self._rolled_up.append(key)

    def drop(self, key: RecordKey) -> None:
        """Takes a record, or a part of one, away."""
        for group in [
            g
            for g in self._groups
            if (g.tier, g.after, g.through) == (key.tier, key.after, key.through)
        ]:
            self._groups[group].pop(key.part, None)
            if not self._groups[group]:
                del self._groups[group]

    def add_head(self, head: VolumeHead) -> None:
        """Takes the volume's head."""
        self.head = head if self.head is None else self.head.merged(head)

    def whole(self) -> Iterator[tuple[LogRecord, ...]]:
        """Each record of which every part is there, as its parts; in the order of positions, the longer first."""
        for key in sorted(self._groups, key=lambda key: (key.after, -key.through, key.tier)):
            if len(group := self._groups[key]) == key.parts:
                yield tuple(group.values())

    def forget_through(self, position: int) -> None:
        """Drops records that say nothing about positions above `position`."""
        self._groups = {key: parts for key, parts in self._groups.items() if key.through > position}

    def forget_parts(self, apart: Collection[int]) -> None:
        """Drops what a whole record of a higher tier says too, where it spans none of the positions `apart`.

        So a reader that doesn't get on holds no more than the log does. A record that spans a position at which the
        reader takes the log apart would make him take more than the finer ones: those stay then.
        """
        waiting, self._rolled_up = self._rolled_up, []
        for key in waiting:
            if key not in self._groups:
                continue
            if any(key.after < position < key.through for position in apart):
                self._rolled_up.append(key)
                continue
            inside = [each for each in self._groups if each.tier < key.tier and each.is_inside(key)]
            held = (
                union(part.changed for part in self._groups[key].values()) if inside else BitMap64()
            )
            for each in inside:
                if all(part.changed.issubset(held) for part in self._groups[each].values()):
                    del self._groups[each]

    def hole(self, after: int, through: int, chain_end: int | None = None) -> Hole | None:
        """The first stretch of `(after, through]` that isn't proved covered (invariant 5); None where all of it is.

        Records are chained: each begins where the one before ended, or earlier. What follows the last record is
        covered by the watermark: the caller passes one as `through`. chain_end: where the last record ends; None: the
        head tells it.
        """
        if chain_end is None:
            chain_end = BEFORE_FIRST if self.head is None else self.head.through
        reach = after
        for key in sorted(self._between(after, through), key=lambda key: (key.after, key.through)):
            if len(self._groups[key]) < key.parts:
                continue
            if key.after > reach:
                return Hole(reach, key.after)
            reach = max(reach, key.through)
        if reach < chain_end <= through:
            return Hole(reach, chain_end)  # the chain goes further than the records that are there
        incomplete = [
            key.through
            for key, got in self._groups.items()
            if len(got) < key.parts and reach < key.through <= through
        ]
        return Hole(reach, min(incomplete)) if incomplete else None

    def changed(self, after: int, through: int) -> BitMap64:
        """Blocks that may have changed in `(after, through]`: all of every record that is needed (rounded outwards)."""
        return union(record.changed for record in self._needed(after, through))

    def reach(self, after: int, through: int) -> int:
        """How far down the records reach that say what changed in `(after, through]`."""
        return min((record.after for record in self._needed(after, through)), default=after)

    def oldest_at_us(self, after: int, through: int) -> int | None:
        """When the first write of `(after, through]` was made, by its host's clock; None where there is none."""
        return min((r.first_at_us for r in self._needed(after, through) if r.changed), default=None)

    def _needed(self, after: int, through: int) -> Iterator[LogRecord]:
        """Parts that together say all that the log says of `(after, through]`, the lowest tier that says it first.

        A reader in the middle of a minute, of which it holds the seconds, takes those: the minute's record would name
        again what it has copied. Of one tier all that overlap are taken: after a replay they may overlap each other.
        """
        gaps = [(after, through)]
        by_tier: dict[int, list[_Group]] = defaultdict(list)
        for key in self._between(after, through):
            by_tier[key.tier].append(key)
        for tier in sorted(by_tier):
            taken = [
                key
                for key in by_tier[tier]
                if any(key.after < end and key.through > start for start, end in gaps)
            ]
            for key in taken:
                yield from self._groups[key].values()
            gaps = _left(gaps, [key for key in taken if len(self._groups[key]) == key.parts])

    def _between(self, after: int, through: int) -> list[_Group]:
        return (
            [key for key in self._groups if key.through > after and key.after < through]
            if after < through
            else []
        )


def _left(gaps: Sequence[tuple[int, int]], taken: Sequence[_Group]) -> list[tuple[int, int]]:
    """What is left of `gaps`, ascending, when the records of `taken` cover their part of them."""
    left = []
    spans = sorted((key.after, key.through) for key in taken)
    for start, end in gaps:
        reach = start
        for first, last in spans:
            if first >= end:
                break
            if first > reach:
                left.append((reach, first))
            reach = max(reach, last)
        if reach < end:
            left.append((reach, end))
    return left
