"""The tracking log: records, what they cover, and the proof that nothing is missing between two positions.

A record says which blocks of one volume changed in `(after, through]`. It is a pure function of the commands in that
range: whoever folds the same range writes the same bytes under the same key, so replays, duplicates and a worker that
comes back late change nothing (invariant 3).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from mirrorlog.bitmaps import BitMap64, union
from mirrorlog.errors import BadInput

NOTHING: Final = -1
"""The position before the first one."""
_KEY_VERSION: Final = 1
_RECORD, _HEAD, _BEAT, _WATERMARK = b"r", b"h", b"s", b"w"
_RECORD_TAIL: Final = struct.Struct(">BQQH")


@dataclass(frozen=True, slots=True, eq=False)
class LogRecord:
    """Blocks of `volume` changed in `(after, through]`; part `part` of `parts` where it was split by block range.

    changed holds every block of which a byte was written, zeroed or discarded; zeroed those that a zero or discard
    covered whole. Counts and times are for people; positions order (invariant 10).
    """

    volume: str
    generation: str
    tier: int
    after: int
    through: int
    block_size: int
    changed: BitMap64
    zeroed: BitMap64
    first_at_us: int
    last_at_us: int
    commands: int
    writes: int
    bytes_written: int
    hosts: tuple[str, ...]
    part: int = 0
    parts: int = 1


@dataclass(frozen=True, slots=True)
class SessionHead:
    """What the log knows of one session of a host; merging two takes the greater of each field, of opened the lesser.

    opened_position: of its first command. last_position: of its last command that wasn't a SESSION_CLOSE.
    closed_position: of its SESSION_CLOSE.
    A late command after the close opens it again: unknown is dirty.
    """

    session: str
    host: str
    opened_position: int = NOTHING
    last_position: int = NOTHING
    closed_position: int = NOTHING
    acknowledged_position: int = NOTHING
    last_sequence: int = NOTHING
    last_at_us: int = 0

    @property
    def is_open(self) -> bool:
        """Whether the host may still hold writes that the log doesn't name."""
        return self.closed_position < self.last_position

    def merged(self, other: SessionHead) -> SessionHead:
        """The greater of each: commutative and idempotent."""
        return SessionHead(
            self.session,
            self.host,
            min((each for each in (self.opened_position, other.opened_position) if each > NOTHING), default=NOTHING),
            max(self.last_position, other.last_position),
            max(self.closed_position, other.closed_position),
            max(self.acknowledged_position, other.acknowledged_position),
            max(self.last_sequence, other.last_sequence),
            max(self.last_at_us, other.last_at_us),
        )


@dataclass(frozen=True, slots=True)
class VolumeHead:
    """The newest of a volume: the last position that held a command for it, and its sessions."""

    volume: str
    generation: str
    through: int
    sessions: tuple[SessionHead, ...] = ()

    def merged(self, other: VolumeHead) -> VolumeHead:
        """The union of the sessions, each merged; the higher position and its generation."""
        sessions = {each.session: each for each in self.sessions}
        for each in other.sessions:
            known = sessions.get(each.session)
            sessions[each.session] = each if known is None else known.merged(each)
        newer = self if self.through >= other.through else other
        return replace(newer, sessions=tuple(sessions.values()))

    def settled_after(self, end_position: int, beats: Mapping[str, int]) -> bool:
        """Whether no host can hold an unpublished write that was made before the topic ended at `end_position`.

        True when each open session closed a batch of the volume after a command at or above `end_position` had been
        acknowledged to it (invariant 8). `beats`: by session, the same for all of its volumes in the partition.
        """
        return all(
            max(each.acknowledged_position, beats.get(each.session, NOTHING)) >= end_position
            for each in self.sessions
            if each.is_open
        )


@dataclass(frozen=True, slots=True)
class SessionBeat:
    """A session's last heartbeat in one partition: it speaks for all volumes that the session has there.

    Before it, the session published everything that it held for any of them, when it knew `acknowledged_position`.
    So idle volumes cost nothing, however many they are.
    """

    session: str
    host: str
    position: int
    acknowledged_position: int
    at_us: int


@dataclass(frozen=True, slots=True)
class Watermark:
    """The log of `partition` is complete through position `through`."""

    partition: int
    through: int
    at_us: int


def record_key(record: LogRecord) -> bytes:
    """Key of a record: version, 'r', volume, NUL, tier (u8), start (u64 BE, = after + 1), through (u64 BE), part (u16).

    Sorted by bytes it is sorted by volume, tier and position. `through` is in the key so that two folds of ranges that
    only begin alike never overwrite each other (docs/decisions/log-record-keys.md).
    """
    tail = _RECORD_TAIL.pack(record.tier, record.after + 1, record.through, record.part)
    return bytes([_KEY_VERSION]) + _RECORD + record.volume.encode() + b"\0" + tail


def head_key(volume: str) -> bytes:
    """Key of a volume's head: version, 'h', volume."""
    return bytes([_KEY_VERSION]) + _HEAD + volume.encode()


def beat_key(session: str) -> bytes:
    """Key of a session's heartbeat: version, 's', session."""
    return bytes([_KEY_VERSION]) + _BEAT + session.encode()


def watermark_key(partition: int) -> bytes:
    """Key of a partition's watermark: version, 'w', partition (u32 BE)."""
    return bytes([_KEY_VERSION]) + _WATERMARK + struct.pack(">I", partition)


def key_kind(key: bytes) -> type[LogRecord] | type[VolumeHead] | type[SessionBeat] | type[Watermark]:
    """What a changelog key names. BadInput for a version or a kind that this reader doesn't know."""
    kinds = {_RECORD: LogRecord, _HEAD: VolumeHead, _BEAT: SessionBeat, _WATERMARK: Watermark}
    kind = kinds.get(key[1:2]) if key[:1] == bytes([_KEY_VERSION]) else None
    if kind is None:
        raise BadInput(
            f"changelog key {key[:16].hex()} is of an unknown version or kind", next="Upgrade this mirrorlog."
        )
    return kind


@dataclass(frozen=True, slots=True)
class Hole:
    """Positions `(after, through]` that no record covers."""

    after: int
    through: int


@dataclass(slots=True)
class VolumeLog:
    """What one reader holds of one volume's log: the records after the position that it has dealt with.

    The watermark of the partition and the volume's head arrive beside the records, after them in the changelog.
    """

    head: VolumeHead | None = None
    _groups: dict[tuple[int, int, int], dict[int, LogRecord]] = field(default_factory=dict)

    def add(self, record: LogRecord) -> None:
        """Takes a record or one part of it; a duplicate replaces its equal."""
        self._groups.setdefault((record.after, record.through, record.parts), {})[record.part] = record

    def add_head(self, head: VolumeHead) -> None:
        """Takes the volume's head."""
        self.head = head if self.head is None else self.head.merged(head)

    def whole(self) -> Iterator[tuple[LogRecord, ...]]:
        """Each record of which every part is there, as its parts; in the order of positions, the longer first."""
        for after, through, parts in sorted(self._groups, key=lambda key: (key[0], -key[1])):
            if len(group := self._groups[after, through, parts]) == parts:
                yield tuple(group.values())

    def forget_through(self, position: int) -> None:
        """Drops records that say nothing about positions above `position`."""
        self._groups = {key: parts for key, parts in self._groups.items() if key[1] > position}

    def hole(self, after: int, through: int) -> Hole | None:
        """The first stretch of `(after, through]` that isn't proved covered (invariant 5); None where all of it is.

        Records are chained: each begins where the one before ended, or earlier. What follows the last record is
        covered by the watermark: the caller passes one as `through`.
        """
        reach = after
        for start, end, parts in sorted(key for key in self._groups if key[1] > after and key[0] < through):
            if len(self._groups[start, end, parts]) < parts:
                continue
            if start > reach:
                return Hole(reach, start)
            reach = max(reach, end)
        if self.head is not None and reach < self.head.through <= through:
            return Hole(reach, self.head.through)  # the chain goes further than the records that are there
        incomplete = [key for key, got in self._groups.items() if len(got) < key[2] and reach < key[1] <= through]
        return Hole(reach, min(key[1] for key in incomplete)) if incomplete else None

    def changed(self, after: int, through: int) -> BitMap64:
        """Blocks that may have changed in `(after, through]`: all of every record that overlaps it (rounded outwards)."""
        return union(record.changed for record in self._overlapping(after, through))

    def oldest_at_us(self, after: int, through: int) -> int | None:
        """When the first write of `(after, through]` was made, by its host's clock; None where there is none."""
        return min((r.first_at_us for r in self._overlapping(after, through) if r.changed), default=None)

    def _overlapping(self, after: int, through: int) -> Iterable[LogRecord]:
        for (start, end, _), parts in self._groups.items():
            if end > after and start < through:
                yield from parts.values()
