"""The file format of the activity log, and what the log of a dead session says.

The file is an array of 512-byte slots: a header, then one slot for each call of ActivityLog.append
(several if its entries don't fit in one), then slots of zeros. Each slot fills one sector, which a
disk writes whole or not at all, and is durable before the next one is written. A power cut can't
tear a slot, so a slot that fails its checksum is damage.

    header   magic 8s, version u16, slot bytes u16, slots u32, region bytes u64, session (UUID),
             padding, CRC-32
    slot     sequence u64 (from 1, without gaps), session (UUID), length of the entries u16,
             entries, padding, CRC-32
    entry    operation u8, length of the name u8, the volume's name, then by operation:
             OPENED, LOST: a session (UUID); HOT, COOL: a region number u64;
             HOT_SET, COOL_SET: how many regions u8, and their numbers in ascending order: the first
             one, then what each adds to the one before, as unsigned LEB128;
             SPOOL: two record numbers u64; FOLLOWED: a partition u32;
             KNOWN: a position i64, a time i64 in microseconds since 1970 by the host's clock, and
             the id of the position's history (UUID, zeros if it isn't known);
             REACHED: a partition u32, and the fields of KNOWN; PRIMARY: an id (UUID);
             others: nothing

All integers are little-endian. Each CRC-32 (zlib) covers the 508 bytes before it. Version 1 had the
operations up to LOST, version 2 those up to SPOOL, version 3 those up to PRIMARY. This version
reads them, too. It writes HOT_SET and COOL_SET, and not HOT and COOL: fewer slots are fewer syncs.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from itertools import pairwise
from typing import Final
from uuid import UUID

SLOT_BYTES: Final = 512
MAGIC: Final = b"MLACTLOG"
VERSION: Final = 4
_READABLE: Final = (1, 2, 3, 4)
SET_REGIONS: Final = 24
"""The most regions of one HOT_SET or COOL_SET: such an entry fits in a slot, whatever its name."""

_HEADER: Final = struct.Struct("<8sHHIQ16s")
_SLOT: Final = struct.Struct("<Q16sH")
_ENTRY: Final = struct.Struct("<BB")
_REGION: Final = struct.Struct("<Q")
_RECORDS: Final = struct.Struct("<QQ")
_POSITION: Final = struct.Struct("<qq16s")
_NO_HISTORY: Final = UUID(int=0)
_PARTITION: Final = struct.Struct("<I")
_CRC: Final = struct.Struct("<I")
_ROOM: Final = SLOT_BYTES - _SLOT.size - _CRC.size
_BLANK: Final = bytes(SLOT_BYTES)


class ActivityOp(IntEnum):
    """The meaning of an entry. The numbers are on disk: their meanings never change."""

    SETTLED = 1  # all is published: no region is hot, no session is open; the log covers the volume
    OPENED = 2  # the session may have published commands for the volume
    HOT = 3  # the region may hold writes that aren't in Kafka
    COOL = 4  # the region holds no such write any more
    LOST = 5  # the session's log was damaged; it may have any volume open that isn't covered
    WHOLE_VOLUME = 6  # the whole volume may hold writes that aren't in Kafka; replaces its regions
    REGIONS = 7  # ends WHOLE_VOLUME: only the regions that became hot since may hold such writes
    SPOOLED = 8  # some of the volume's commands are in the spool alone; their regions may be cool
    SPOOL = 9  # the spool durably holds these records; an empty range ends SPOOLED of each volume
    KNOWN = 10  # the folder knows what the log names of the volume, through this position
    FOLLOWED = 11  # until SETTLED, REACHED of this partition counts for the volume
    REACHED = 12  # KNOWN of each volume that is followed in the partition
    PRIMARY = 13  # the session writes to the primary whose mark has this id
    HOT_SET = 14  # HOT of several regions
    COOL_SET = 15  # COOL of several regions


_REGION_OPS: Final = (ActivityOp.HOT, ActivityOp.COOL, ActivityOp.HOT_SET, ActivityOp.COOL_SET)


@dataclass(frozen=True, slots=True)
class ActivityEntry:
    """One change of the log's state. Which fields count depends on `op`.

    regions: of a HOT_SET or COOL_SET, in ascending order (region_entries).
    records: (first, last) of the spool records; none if first > last.
    partition, position: of the commands topic. at_us: the time when the position was noted.
    history: the id of the history in which the position counts; empty if it isn't known.
    primary_id: of the mark of a primary.
    """

    op: ActivityOp
    volume: str = ""
    session: str = ""
    region: int = 0
    records: tuple[int, int] = (1, 0)
    partition: int = 0
    position: int = 0
    at_us: int = 0
    history: str = ""
    primary_id: str = ""
    regions: tuple[int, ...] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        """The regions of a HOT, COOL, HOT_SET or COOL_SET."""
        return self.regions or (self.region,)


def region_entries(op: ActivityOp, volume: str, numbers: Iterable[int]) -> Iterator[ActivityEntry]:
    """Yield entries that say `op`, HOT_SET or COOL_SET, of these regions of the volume."""
    ordered = sorted(numbers)
    for start in range(0, len(ordered), SET_REGIONS):
        yield ActivityEntry(op, volume, regions=tuple(ordered[start : start + SET_REGIONS]))


@dataclass(frozen=True, slots=True)
class KnownPosition:
    """A position through which a state folder knows the log of a volume.

    at_us: when it was noted. history: the id of its history; empty if it isn't known.
    """

    position: int
    at_us: int = 0
    history: str = ""


@dataclass(slots=True)
class VolumeActivity:
    """The state of one volume in the activity log.

    covered: everything that this host did to the volume before `sessions` and `regions` is
        published. A volume that isn't covered is dirty as a whole.
    sessions: the sessions that are open on the volume.
    regions: the numbers of its hot regions.
    whole_volume: the whole volume may hold unpublished writes.
    spooled: the spool alone names some of its unpublished writes.
    known_through: when this was written, the primary held, or `regions` named, each write that the
        log names through this position. None: a log of version 1 or 2 doesn't say. If the log names
        more than a session left, the folder went back in time (session/unvouched.py).
    followed: the volume's partition, if the session raises `known_through` as it publishes.
    primary_id: of the mark of the primary that all this says something of; empty if it isn't known.
    """

    covered: bool = False
    sessions: set[str] = field(default_factory=set)
    regions: set[int] = field(default_factory=set)
    whole_volume: bool = False
    spooled: bool = False
    known_through: KnownPosition | None = None
    followed: int | None = None
    primary_id: str = ""

    def apply(self, entry: ActivityEntry) -> None:
        """Change the state as an entry of this volume says, other than SETTLED."""
        match entry.op:
            case ActivityOp.OPENED:
                self.sessions.add(entry.session)
            case ActivityOp.HOT | ActivityOp.HOT_SET:
                self.regions.update(entry.numbers)
            case ActivityOp.COOL | ActivityOp.COOL_SET:
                self.regions.difference_update(entry.numbers)
            case ActivityOp.WHOLE_VOLUME:
                self.whole_volume = True
                self.regions.clear()
            case ActivityOp.REGIONS:
                self.whole_volume = False
            case ActivityOp.SPOOLED:
                self.spooled = True
            case ActivityOp.KNOWN:
                self.known_through = _known_position(entry)
            case ActivityOp.FOLLOWED:
                self.followed = entry.partition
            case ActivityOp.PRIMARY:
                self.primary_id = entry.primary_id

    @property
    def is_settled(self) -> bool:
        """Return whether everything is published, and no session is open."""
        return not (self.sessions or self.may_be_unpublished)

    @property
    def may_be_unpublished(self) -> bool:
        """Return whether the entries name writes that may not be in Kafka."""
        return bool(self.regions or self.whole_volume or self.spooled)

    @property
    def is_whole_volume_dirty(self) -> bool:
        """Return whether all of the volume may hold unpublished writes, whatever `regions` says."""
        return self.whole_volume or not self.covered


@dataclass(slots=True)
class ActivityState:
    """The state that a log's entries yield. Both the writer and the reader of a log use it.

    lost: the sessions whose log was damaged.
    spool: (first, last) of the records that the spool must hold, because regions that they name
        may be cool; none if first > last.
    """

    volumes: dict[str, VolumeActivity] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    spool: tuple[int, int] = (1, 0)
    _followers: dict[int, set[str]] = field(default_factory=dict, repr=False, compare=False)

    def apply(self, entry: ActivityEntry) -> None:
        """Change the state as `entry` says."""
        match entry.op:
            case ActivityOp.LOST:
                self.lost.add(entry.session)
            case ActivityOp.SPOOL:
                self._spool(entry.records)
            case ActivityOp.REACHED:
                for name in self._followers.get(entry.partition, ()):
                    if self.volumes[name].followed == entry.partition:
                        self.volumes[name].known_through = _known_position(entry)
            case ActivityOp.SETTLED:
                known = self.volumes.get(entry.volume, VolumeActivity())
                self.volumes[entry.volume] = VolumeActivity(
                    covered=True,
                    known_through=known.known_through,
                    primary_id=known.primary_id,
                )
            case _:
                if entry.op is ActivityOp.FOLLOWED:
                    self._followers.setdefault(entry.partition, set()).add(entry.volume)
                self.volumes.setdefault(entry.volume, VolumeActivity()).apply(entry)

    def entries(self) -> Iterator[ActivityEntry]:
        """Yield entries that lead from an empty state to this one."""
        yield from (
            ActivityEntry(ActivityOp.LOST, session=session) for session in sorted(self.lost)
        )
        if self.spool[0] <= self.spool[1]:
            yield ActivityEntry(ActivityOp.SPOOL, records=self.spool)
        for name, volume in self.volumes.items():
            if volume.covered:
                yield ActivityEntry(ActivityOp.SETTLED, name)
            yield from (
                ActivityEntry(ActivityOp.OPENED, name, session=session)
                for session in sorted(volume.sessions)
            )
            if volume.whole_volume:
                yield ActivityEntry(ActivityOp.WHOLE_VOLUME, name)
            if volume.spooled:
                yield ActivityEntry(ActivityOp.SPOOLED, name)
            if volume.known_through is not None:
                yield ActivityEntry(ActivityOp.KNOWN, name, **asdict(volume.known_through))
            if volume.primary_id:
                yield ActivityEntry(ActivityOp.PRIMARY, name, primary_id=volume.primary_id)
            if volume.followed is not None:
                yield ActivityEntry(ActivityOp.FOLLOWED, name, partition=volume.followed)
            yield from region_entries(ActivityOp.HOT_SET, name, volume.regions)

    def _spool(self, records: tuple[int, int]) -> None:
        self.spool = records
        if records[0] > records[1]:
            for volume in self.volumes.values():
                volume.spooled = False


@dataclass(frozen=True, slots=True)
class PreviousLog:
    """The content of the log of the session before.

    exists: there was a log. If there was none, no volume is covered.
    session: the session that wrote it; None if that can't be told.
    damaged: nobody knows what the log named. Every volume is dirty as a whole, also one that
        `state` doesn't name.
    """

    exists: bool
    session: str | None
    region_bytes: int
    damaged: bool
    state: ActivityState

    @property
    def volumes(self) -> frozenset[str]:
        """The volumes that aren't settled. After a clean close there is none."""
        return frozenset(
            name for name, activity in self.state.volumes.items() if not activity.is_settled
        )

    @property
    def whole(self) -> frozenset[str]:
        """The volumes among `volumes` that are dirty as a whole."""
        return frozenset(
            name for name in self.volumes if self.state.volumes[name].is_whole_volume_dirty
        )

    @property
    def regions(self) -> Mapping[str, frozenset[int]]:
        """The numbers of the hot regions, by volume; volumes without one are left out."""
        return {
            name: frozenset(activity.regions)
            for name, activity in self.state.volumes.items()
            if activity.regions
        }


def pack_log(
    state: ActivityState, session: str, *, region_bytes: int, slots: int
) -> tuple[bytes, int]:
    """Return (the content of a file that says `state`, the number of slots used).

    The file has `slots` slots, or twice as many as are used if that is more.
    """
    used = list(pack_slots(state.entries(), session, 1))
    slots = max(slots, 2 * len(used))
    header = _HEADER.pack(MAGIC, VERSION, SLOT_BYTES, slots, region_bytes, UUID(session).bytes)
    return b"".join((_sealed(header), *used, bytes(SLOT_BYTES * (slots - len(used))))), len(used)


def pack_slots(entries: Iterable[ActivityEntry], session: str, sequence: int) -> Iterator[bytes]:
    """Yield slots with the entries in order, numbered from `sequence`: as few as hold them."""
    payload = b""
    for entry in entries:
        packed = _pack_entry(entry)
        if len(payload) + len(packed) > _ROOM:
            yield _sealed(_SLOT.pack(sequence, UUID(session).bytes, len(payload)) + payload)
            payload, sequence = b"", sequence + 1
        payload += packed
    if payload:
        yield _sealed(_SLOT.pack(sequence, UUID(session).bytes, len(payload)) + payload)


def read_log(data: bytes | None) -> PreviousLog:
    """Return what a file with this content says; None is a file that doesn't exist.

    If any byte is invalid, the result is `damaged`, and its state names what can still be read.
    """
    if data is None:
        return PreviousLog(
            exists=False, session=None, region_bytes=0, damaged=False, state=ActivityState()
        )
    try:
        session, region_bytes = _read_header(data)
        state = ActivityState()
        for sequence, slot in enumerate(_used_slots(data), start=1):
            if slot.session != session or slot.sequence != sequence:
                raise ValueError("a slot doesn't follow the one before")
            for entry in slot.entries:
                state.apply(entry)
        return PreviousLog(True, session, region_bytes, False, state)
    except ValueError:
        return _salvaged(data)


@dataclass(frozen=True, slots=True)
class _Slot:
    sequence: int
    session: str
    entries: list[ActivityEntry]


def _salvaged(data: bytes) -> PreviousLog:
    """Return the volumes and sessions that any valid slot of a damaged log names.

    No volume is covered.
    """
    state = ActivityState()
    session: str | None = None
    for start in range(SLOT_BYTES, len(data), SLOT_BYTES):
        try:
            slot = _read_slot(data[start : start + SLOT_BYTES])
        except ValueError:
            continue
        session = slot.session
        state.lost.add(slot.session)
        for entry in slot.entries:
            if entry.op is ActivityOp.LOST:
                state.lost.add(entry.session)
            if not entry.volume:
                continue
            volume = state.volumes.setdefault(entry.volume, VolumeActivity())
            volume.sessions |= {slot.session, entry.session} - {""}
    try:
        session = _read_header(data[:SLOT_BYTES], whole=False)[0]
        state.lost.add(session)
    except ValueError:
        pass
    return PreviousLog(True, session, 0, True, state)


def _read_header(data: bytes, *, whole: bool = True) -> tuple[str, int]:
    """Return (session, region bytes) of the header. Raise ValueError if it isn't valid.

    whole: `data` is the whole file, whose size must be what the header says.
    """
    body = _unsealed(data[:SLOT_BYTES])
    magic, version, slot_bytes, slots, region_bytes, session = _HEADER.unpack_from(body)
    if (magic, slot_bytes) != (MAGIC, SLOT_BYTES) or version not in _READABLE or region_bytes <= 0:
        raise ValueError("not an activity log of this version")
    if whole and len(data) != SLOT_BYTES * (1 + slots):
        raise ValueError("the file isn't as long as its header says")
    return str(UUID(bytes=session)), region_bytes


def _used_slots(data: bytes) -> Iterator[_Slot]:
    """Yield the slots up to the first one of zeros.

    Raise ValueError for a slot that isn't valid, and for anything but zeros behind the first of
    zeros.
    """
    for start in range(SLOT_BYTES, len(data), SLOT_BYTES):
        slot = data[start : start + SLOT_BYTES]
        if slot == _BLANK:
            if data.count(0, start) != len(data) - start:
                raise ValueError("there is data behind the end")
            return
        yield _read_slot(slot)


def _read_slot(slot: bytes) -> _Slot:
    """Return the slot's content. Raise ValueError if it isn't valid."""
    body = _unsealed(slot)
    sequence, session, length = _SLOT.unpack_from(body)
    payload = body[_SLOT.size : _SLOT.size + length]
    if sequence == 0 or len(payload) != length:
        raise ValueError("not a slot")
    return _Slot(sequence, str(UUID(bytes=session)), list(_unpack_entries(payload)))


def _sealed(body: bytes) -> bytes:
    """Return `body` as a slot: padded, with its checksum."""
    padded = body.ljust(SLOT_BYTES - _CRC.size, b"\0")
    return padded + _CRC.pack(zlib.crc32(padded))


def _unsealed(slot: bytes) -> bytes:
    """Return a slot without its checksum. Raise ValueError if the checksum is wrong."""
    body = slot[: SLOT_BYTES - _CRC.size]
    if len(slot) != SLOT_BYTES or _CRC.pack(zlib.crc32(body)) != slot[len(body) :]:
        raise ValueError("the checksum is wrong")
    return body


def _pack_entry(entry: ActivityEntry) -> bytes:
    name = entry.volume.encode()
    packed = _ENTRY.pack(entry.op, len(name)) + name
    if entry.op in (ActivityOp.OPENED, ActivityOp.LOST):
        return packed + UUID(entry.session).bytes
    if entry.op in (ActivityOp.HOT, ActivityOp.COOL):
        return packed + _REGION.pack(entry.region)
    if entry.op in (ActivityOp.HOT_SET, ActivityOp.COOL_SET):
        return packed + _packed_regions(entry.regions)
    if entry.op is ActivityOp.SPOOL:
        return packed + _RECORDS.pack(*entry.records)
    if entry.op in (ActivityOp.FOLLOWED, ActivityOp.REACHED):
        packed += _PARTITION.pack(entry.partition)
    if entry.op in (ActivityOp.KNOWN, ActivityOp.REACHED):
        history = UUID(entry.history) if entry.history else _NO_HISTORY
        packed += _POSITION.pack(entry.position, entry.at_us, history.bytes)
    if entry.op is ActivityOp.PRIMARY:
        packed += UUID(entry.primary_id).bytes
    return packed


def _packed_regions(regions: Sequence[int]) -> bytes:
    """Return the regions of a HOT_SET or COOL_SET. They ascend, and there are 255 at most."""
    steps = [after - before for before, after in pairwise(regions)]
    packed = _packed_number(regions[0])
    if steps and max(steps) <= 0x7F:  # as mostly: a byte each
        packed += bytes(steps)
    else:
        packed += b"".join(map(_packed_number, steps))
    return bytes((len(regions),)) + packed


def _packed_number(number: int) -> bytes:
    """Return the number as unsigned LEB128."""
    packed = bytearray()
    while number > 0x7F:
        packed.append(number & 0x7F | 0x80)
        number >>= 7
    packed.append(number)
    return bytes(packed)


def _read_regions(op: int, payload: bytes, at: int) -> tuple[tuple[int, ...], int]:
    """Return (the regions of an entry of _REGION_OPS, where they end).

    Raise ValueError for what _packed_regions() doesn't write, and ValueError or struct.error if
    they are cut off.
    """
    if op in (ActivityOp.HOT, ActivityOp.COOL):
        return _REGION.unpack_from(payload, at), at + _REGION.size
    if at >= len(payload) or payload[at] == 0:
        raise ValueError("an entry is cut off")
    regions: list[int] = []
    count, at, number = payload[at], at + 1, 0
    for place in range(count):
        shift, more, start = 0, 0x80, number
        while more:
            if at >= len(payload) or shift > 63:
                raise ValueError("an entry is cut off")
            more = payload[at] & 0x80
            number += (payload[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
        if number >= 1 << 64 or (place and number == start):
            raise ValueError("not the regions of an entry")
        regions.append(number)
    return tuple(regions), at


def _known_position(entry: ActivityEntry) -> KnownPosition:
    return KnownPosition(entry.position, entry.at_us, entry.history)


def _unpack_entries(payload: bytes) -> Iterator[ActivityEntry]:
    """Yield the entries.

    Raise ValueError for other bytes, such as an operation of a later version.
    """
    at = 0
    try:
        while at < len(payload):
            op, length = _ENTRY.unpack_from(payload, at)
            at += _ENTRY.size + length
            name = payload[at - length : at].decode()
            session, records, partition, known = "", (1, 0), 0, (0, 0, "")
            primary_id, regions = "", tuple[int, ...]()
            if op in (ActivityOp.OPENED, ActivityOp.LOST):
                session = str(UUID(bytes=payload[at : at + 16]))
                at += 16
            elif op == ActivityOp.PRIMARY:
                primary_id = str(UUID(bytes=payload[at : at + 16]))
                at += 16
            elif op in _REGION_OPS:
                regions, at = _read_regions(op, payload, at)
            elif op == ActivityOp.SPOOL:
                records = _RECORDS.unpack_from(payload, at)
                at += _RECORDS.size
            if op in (ActivityOp.FOLLOWED, ActivityOp.REACHED):
                (partition,) = _PARTITION.unpack_from(payload, at)
                at += _PARTITION.size
            if op in (ActivityOp.KNOWN, ActivityOp.REACHED):
                position, at_us, history = _POSITION.unpack_from(payload, at)
                known = (position, at_us, "" if not any(history) else str(UUID(bytes=history)))
                at += _POSITION.size
            if at > len(payload):
                raise ValueError("an entry is cut off")
            yield ActivityEntry(
                ActivityOp(op),
                name,
                session,
                records=records,
                partition=partition,
                position=known[0],
                at_us=known[1],
                history=known[2],
                primary_id=primary_id,
                regions=regions,
            )
    except struct.error as error:
        raise ValueError("an entry is cut off") from error
