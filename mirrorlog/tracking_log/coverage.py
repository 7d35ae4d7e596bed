"""One reader's copy of a volume's log, and the proof that nothing is missing between two positions.

Ranges of positions are written `(after, through]`, as in records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mirrorlog.domain.bitmaps import BlockSet, union
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.tracking_log.heads import VolumeHead
from mirrorlog.tracking_log.keys import RecordKey
from mirrorlog.tracking_log.records import LogRecord


@dataclass(frozen=True, slots=True)
class Hole:
    """The positions `(after, through]`, which no record covers."""

    after: int
    through: int


class _RecordId(NamedTuple):
    """The fields that all parts of one record share."""

    tier: int
    after: int
    through: int
    parts: int
    generation: str

    def is_inside(self, other: _RecordId) -> bool:
        """Return whether the range lies inside that of `other`, in the same generation."""
        return (
            self.generation == other.generation
            and other.after <= self.after
            and self.through <= other.through
        )


@dataclass(slots=True)
class VolumeLog:
    """The records of one volume behind the position that its reader has applied.

    The watermark of the partition and the volume's head arrive beside the records, and follow them
    in the changelog. Records stay here after the log has deleted them, because what a record says
    stays true.

    Only the records of one generation count in an answer: that of the head, unless the caller names
    another. Positions of two generations may belong to two histories, and mean other commands.

    is_ahead: a head was read that the watermark hasn't reached. It may have taken the place of a
        head before it, so nobody knows which sessions were open at the watermark.
    is_replaced: the only heads that were read are of an earlier history than the watermark's. A
        worker that had lost the partition wrote them, and compaction removed the one that counts,
        so nobody knows the open sessions.
    """

    head: VolumeHead | None = None
    is_ahead: bool = False
    is_replaced: bool = False
    _parts_by_id: dict[_RecordId, dict[int, LogRecord]] = field(default_factory=dict)
    _rolled_up: list[_RecordId] = field(default_factory=list)

    def add(self, record: LogRecord) -> None:
        """Add a record, or one part of it. A duplicate replaces its equal."""
        key = _RecordId(record.tier, record.after, record.through, record.parts, record.generation)
        parts = self._parts_by_id.setdefault(key, {})
        parts[record.part] = record
        if record.tier and len(parts) == record.parts:
            self._rolled_up.append(key)

    def drop(self, key: RecordKey) -> None:
        """Remove a record, or one part of it."""
        wanted = (key.tier, key.after, key.through)
        for record in [r for r in self._parts_by_id if (r.tier, r.after, r.through) == wanted]:
            self._parts_by_id[record].pop(key.part, None)
            if not self._parts_by_id[record]:
                del self._parts_by_id[record]

    def add_head(self, head: VolumeHead) -> None:
        """Merge `head` into the volume's head."""
        self.is_replaced = False
        self.head = head if self.head is None else self.head.joined(head)

    def is_settled(self, end_position: int, *, watermark: int, beats: Mapping[str, int]) -> bool:
        """Return whether the log names all that was written before the commands ended there.

        The log is complete through `watermark`. beats: as VolumeHead.settled_after() takes them
        (invariant 8). False if nobody knows which sessions were open at the watermark.
        """
        if watermark < end_position - 1 or self.is_ahead or self.is_replaced:
            return False
        return self.head is None or self.head.settled_after(end_position, beats)

    @property
    def generation(self) -> str | None:
        """The generation whose records count; None before the first head: then all do."""
        return None if self.head is None else self.head.generation

    def complete_records(self) -> Iterator[tuple[LogRecord, ...]]:
        """Yield each record that counts with all its parts present, as a tuple of its parts.

        The records are in the order of positions. Of two with the same start, the longer is first.
        """
        for key in sorted(self._parts_by_id, key=lambda key: (key.after, -key.through, key.tier)):
            if self._is_complete(key) and self.generation in (None, key.generation):
                yield tuple(self._parts_by_id[key].values())

    def forget_through(self, position: int) -> None:
        """Remove the records that say nothing about positions above `position`."""
        self._parts_by_id = {
            key: parts for key, parts in self._parts_by_id.items() if key.through > position
        }

    def forget_rolled_up(self, split_positions: Collection[int]) -> None:
        """Remove the records that a complete record of a higher tier contains.

        So a reader that makes no progress holds no more than the log does.

        split_positions: positions at which the reader will split its ranges. The reader would have
        to apply all of a record that spans one of them, so the finer records stay there.
        """
        waiting, self._rolled_up = self._rolled_up, []
        for key in waiting:
            if key not in self._parts_by_id:
                continue
            if any(key.after < position < key.through for position in split_positions):
                self._rolled_up.append(key)
                continue
            self._forget_inside(key)

    def _forget_inside(self, key: _RecordId) -> None:
        """Remove the records of lower tiers inside `key` whose blocks it names too."""
        inside = [
            finer for finer in self._parts_by_id if finer.tier < key.tier and finer.is_inside(key)
        ]
        if not inside:
            return
        changed = union(part.changed for part in self._parts_by_id[key].values())
        for finer in inside:
            if all(part.changed.issubset(changed) for part in self._parts_by_id[finer].values()):
                del self._parts_by_id[finer]

    def hole(
        self,
        *,
        after: int,
        through: int,
        chain_end: int | None = None,
        generation: str | None = None,
    ) -> Hole | None:
        """Return the first part of `(after, through]` that isn't proved covered (invariant 5).

        Return None if all of it is covered. Records form a chain: each begins where the one before
        ended, or earlier. The watermark covers what follows the last record: pass a watermark as
        `through`.

        chain_end: the position at which the last record ends; None: take it from the head.
        generation: of the records that count; None: take it from the head.
        """
        if chain_end is None:
            chain_end = BEFORE_FIRST if self.head is None else self.head.through
        covered = after
        overlapping = self._overlapping(after, through, generation)
        for key in sorted(overlapping, key=lambda key: (key.after, key.through)):
            if not self._is_complete(key):
                continue
            if key.after > covered:
                return Hole(covered, key.after)
            covered = max(covered, key.through)
        if covered < chain_end <= through:
            return Hole(covered, chain_end)  # the chain goes further than the records present
        incomplete = [
            key.through
            for key in self._counted(generation)
            if not self._is_complete(key) and covered < key.through <= through
        ]
        return Hole(covered, min(incomplete)) if incomplete else None

    def changed(self, *, after: int, through: int, generation: str | None = None) -> BlockSet:
        """Return the blocks that may have changed in `(after, through]`.

        A record that reaches beyond the range counts with all its blocks: the result is rounded
        outwards. generation: as for hole().
        """
        return union(record.changed for record in self._needed(after, through, generation))

    def covered_from(self, *, after: int, through: int, generation: str | None = None) -> int:
        """Return the lowest `after` of the records on which changed() of the same range stands."""
        records = self._needed(after, through, generation)
        return min((record.after for record in records), default=after)

    def oldest_at_us(
        self, *, after: int, through: int, generation: str | None = None
    ) -> int | None:
        """Return the time of the first write in `(after, through]`, by its host's clock.

        Return None if the range holds no write.
        """
        records = self._needed(after, through, generation)
        return min((record.first_at_us for record in records if record.changed), default=None)

    def _needed(self, after: int, through: int, generation: str | None) -> Iterator[LogRecord]:
        """Yield record parts that together say all that the log says of `(after, through]`.

        Lower tiers come first. A reader in the middle of a minute that holds the records of the
        seconds uses those, because the minute's record would name blocks again that it has copied.
        Within a tier, all overlapping records are used: after a replay they may overlap each other.
        """
        gaps = [(after, through)]
        by_tier: dict[int, list[_RecordId]] = defaultdict(list)
        for key in self._overlapping(after, through, generation):
            by_tier[key.tier].append(key)
        for tier in sorted(by_tier):
            used = [
                key
                for key in by_tier[tier]
                if any(key.after < end and key.through > start for start, end in gaps)
            ]
            for key in used:
                yield from self._parts_by_id[key].values()
            gaps = _uncovered(gaps, [key for key in used if self._is_complete(key)])

    def _overlapping(self, after: int, through: int, generation: str | None) -> list[_RecordId]:
        """Return the records that count and overlap `(after, through]`; none for an empty range."""
        if after >= through:
            return []
        counted = self._counted(generation)
        return [key for key in counted if key.through > after and key.after < through]

    def _counted(self, generation: str | None) -> Iterator[_RecordId]:
        """Yield the records of `generation`, for None of the head's; all if that is unknown."""
        wanted = self.generation if generation is None else generation
        return (key for key in self._parts_by_id if wanted in (None, key.generation))

    def _is_complete(self, key: _RecordId) -> bool:
        return len(self._parts_by_id[key]) == key.parts


def _uncovered(
    gaps: Sequence[tuple[int, int]], records: Sequence[_RecordId]
) -> list[tuple[int, int]]:
    """Return the parts of `gaps`, ascending, that none of the records covers."""
    left = []
    spans = sorted((key.after, key.through) for key in records)
    for start, end in gaps:
        covered = start
        for first, last in spans:
            if first >= end:
                break
            if first > covered:
                left.append((covered, first))
            covered = max(covered, last)
        if covered < end:
            left.append((covered, end))
    return left
