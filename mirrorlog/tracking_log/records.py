"""The tracking log: records, what they cover, and the proof that nothing is missing between two positions.

A record says which blocks of one volume changed in `(after, through]`. It is a pure function of the commands in that
range: whoever folds the same range writes the same bytes under the same key, so replays, duplicates and a worker that
comes back late change nothing (invariant 3).
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from mirrorlog.domain.bitmaps import BitMap64, union
from mirrorlog.domain.commands import CommandKind, TrackingCommand

NOTHING: Final = -1
"""The position before the first one."""
TIERS: Final = ("second", "minute", "hour", "day")
"""Names of the tiers: flushes, and what they are rolled up to."""
_KEY_VERSION: Final = 1
_RECORD, _HEAD, _BEAT, _WATERMARK, _MOMENT = b"r", b"h", b"s", b"w", b"m"
_RECORD_TAIL: Final = struct.Struct(">BQQH")
RECORD_PREFIX: Final = bytes([_KEY_VERSION]) + _RECORD
"""How the keys of all records begin, and of nothing else."""


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
    acknowledged_position: the highest that one of its commands knew as acknowledged.
    open_forks: sites of which its command at last_position left an outcome OPEN, sorted: merging takes that of the later.

    A command behind the close opens the session again (unknown is dirty), unless it says that it knew nothing from there on:
    then it was on its way when its host died, and the log names all that it wrote (docs/decisions/late-commands.md).
    """

    session: str
    host: str
    opened_position: int = NOTHING
    last_position: int = NOTHING
    closed_position: int = NOTHING
    acknowledged_position: int = NOTHING
    last_sequence: int = NOTHING
    last_at_us: int = 0
    open_forks: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether the host may still hold writes that the log doesn't name."""
        late = NOTHING < self.acknowledged_position < self.closed_position
        return self.closed_position < self.last_position and not late

    def merged(self, other: SessionHead) -> SessionHead:
        """The greater of each: commutative and idempotent."""
        return SessionHead(
            self.session,
            self.host,
            min(
                (each for each in (self.opened_position, other.opened_position) if each > NOTHING),
                default=NOTHING,
            ),
            max(self.last_position, other.last_position),
            max(self.closed_position, other.closed_position),
            max(self.acknowledged_position, other.acknowledged_position),
            max(self.last_sequence, other.last_sequence),
            max(self.last_at_us, other.last_at_us),
            tuple(sorted({*self._open_at(other), *other._open_at(self)})),
        )

    def _open_at(self, other: SessionHead) -> tuple[str, ...]:
        """Its open forks, where its last command isn't before that of `other`."""
        return self.open_forks if self.last_position >= other.last_position else ()


@dataclass(frozen=True, slots=True)
class ForkHead:
    """Where the log of what one site has missed begins and ends; merging takes the lower begin, the higher end.

    after: it says all that the site has missed behind this position. through: where its last record ends.
    """

    after: int
    through: int

    def merged(self, other: ForkHead) -> ForkHead:
        """Commutative and idempotent."""
        return ForkHead(min(self.after, other.after), max(self.through, other.through))


@dataclass(frozen=True, slots=True)
class VolumeHead:
    """The newest of a volume: the last position that held a command for it, and its sessions.

    described_position: of the description by which the log was written. Whoever has an older one reads a newer first.
    forks: by site, the logs of what sites have missed (missed_log).
    """

    volume: str
    generation: str
    through: int
    sessions: tuple[SessionHead, ...] = ()
    described_position: int = NOTHING
    forks: Mapping[str, ForkHead] = field(default_factory=dict)

    def merged(self, other: VolumeHead) -> VolumeHead:
        """The union of the sessions and of the forks, each merged; the higher position and its generation."""
        sessions = {each.session: each for each in self.sessions}
        for each in other.sessions:
            known = sessions.get(each.session)
            sessions[each.session] = each if known is None else known.merged(each)
        newer = self if self.through >= other.through else other
        described = max(self.described_position, other.described_position)
        forks = merged_forks(self.forks, other.forks)
        return replace(
            newer, sessions=tuple(sessions.values()), described_position=described, forks=forks
        )

    def has_open(self, site: str) -> bool:
        """Whether an open session doesn't know yet what became of one of its writes at the site."""
        return any(site in each.open_forks for each in self.sessions if each.is_open)

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


def speaks_for_session(command: TrackingCommand) -> bool:
    """Whether the command says anything of its session in the volume."""
    return command.sequence >= 0 or command.kind is CommandKind.SESSION_CLOSE


def session_head(
    command: TrackingCommand, position: int, open_forks: tuple[str, ...] = ()
) -> SessionHead:
    """What a command that speaks for its session says of it."""
    closes = command.kind is CommandKind.SESSION_CLOSE
    return SessionHead(
        session=command.session,
        host=command.host,
        opened_position=NOTHING if closes else position,
        last_position=NOTHING if closes else position,
        closed_position=position if closes else NOTHING,
        acknowledged_position=NOTHING
        if command.acknowledged_position is None
        else command.acknowledged_position,
        last_sequence=command.sequence,
        last_at_us=command.last_at_us,
        open_forks=open_forks,
    )


def merged_forks(one: Mapping[str, ForkHead], other: Mapping[str, ForkHead]) -> dict[str, ForkHead]:
    """The sites of both."""
    return {
        **one,
        **{site: fork.merged(one[site]) if site in one else fork for site, fork in other.items()},
    }


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


@dataclass(frozen=True, slots=True)
class Moment:
    """Where the log of `partition` was complete at a time: so that the age of records is known. No reader needs it."""

    partition: int
    at_us: int


def missed_log(volume: str, site: str) -> str:
    """The name under which the log keeps what `site` has missed of `volume`: a log like that of a volume.

    No volume has it: theirs hold no '@'.
    """
    return f"{volume}@{site}"


def split_log_name(name: str) -> tuple[str, str | None]:
    """The volume and the site of a missed log; the volume and None for the log of a volume."""
    volume, at, site = name.partition("@")
    return volume, site if at else None


@dataclass(frozen=True, slots=True)
class RecordKey:
    """What the key of a record, or of a part of one, tells."""

    volume: str
    tier: int
    after: int
    through: int
    part: int


def record_key(record: LogRecord | RecordKey) -> bytes:
    """Key of a record: version, 'r', volume, NUL, tier (u8), start (u64 BE, = after + 1), through (u64 BE), part (u16).

    Sorted by bytes it is sorted by volume, tier and position. `through` is in the key so that two folds of ranges that
    only begin alike never overwrite each other (docs/decisions/log-record-keys.md).
    """
    tail = _RECORD_TAIL.pack(record.tier, record.after + 1, record.through, record.part)
    return record_prefix(record.volume) + tail


def record_prefix(volume: str) -> bytes:
    """How the keys of all records of a volume begin, and of no other."""
    return RECORD_PREFIX + volume.encode() + b"\0"


def tier_prefix(volume: str, tier: int) -> bytes:
    """How the keys of a volume's records of one tier begin, and of no other."""
    return record_prefix(volume) + bytes([tier])


def first_key_after(volume: str, tier: int, position: int) -> bytes:
    """The lowest key that a record of the tier can have which begins at or after `position`."""
    return tier_prefix(volume, tier) + struct.pack(">Q", position + 1)


def read_record_key(key: bytes) -> RecordKey:
    """What a record's key tells; `key` is one that record_key made."""
    tier, start, through, part = _RECORD_TAIL.unpack(key[-_RECORD_TAIL.size :])
    return RecordKey(key[2 : -_RECORD_TAIL.size - 1].decode(), tier, start - 1, through, part)


def head_key(volume: str) -> bytes:
    """Key of a volume's head: version, 'h', volume."""
    return bytes([_KEY_VERSION]) + _HEAD + volume.encode()


def beat_key(session: str) -> bytes:
    """Key of a session's heartbeat: version, 's', session."""
    return bytes([_KEY_VERSION]) + _BEAT + session.encode()


def watermark_key(partition: int) -> bytes:
    """Key of a partition's watermark: version, 'w', partition (u32 BE)."""
    return bytes([_KEY_VERSION]) + _WATERMARK + struct.pack(">I", partition)


def moments_prefix(partition: int) -> bytes:
    """How the keys of a partition's moments begin."""
    return bytes([_KEY_VERSION]) + _MOMENT + struct.pack(">I", partition)


def moment_key(partition: int, at_us: int) -> bytes:
    """Key of a moment: version, 'm', partition (u32 BE), seconds since 1970 (u64 BE); its value is a Watermark."""
    return moments_prefix(partition) + struct.pack(">Q", at_us // 1_000_000)


def key_kind(key: bytes) -> type[LogRecord | VolumeHead | SessionBeat | Watermark | Moment] | None:
    """What a changelog key names; None for a version or a kind that this reader doesn't know: it isn't for him."""
    kinds: dict[bytes, type[LogRecord | VolumeHead | SessionBeat | Watermark | Moment]] = {
        _RECORD: LogRecord,
        _HEAD: VolumeHead,
        _BEAT: SessionBeat,
        _WATERMARK: Watermark,
        _MOMENT: Moment,
    }
    return kinds.get(key[1:2]) if key[:1] == bytes([_KEY_VERSION]) else None


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
            chain_end = NOTHING if self.head is None else self.head.through
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
