"""The activity log's bytes, and what a log left behind says.

A file of 512-byte slots: a header, then one slot for each time that something had to be durable, then slots of zeros.
Each slot fills one sector, which a disk writes whole or not at all, and each is made durable before the next is written:
a power cut can't tear one, so every slot that fails its checksum is damage.

    header   magic 8s, version u16, slot bytes u16, slots u32, region bytes u64, session (UUID)   … CRC-32
    slot     sequence u64 (from 1, without gaps), session (UUID), bytes of entries u16, entries   … CRC-32
    entry    operation u8, bytes of the name u8, the volume's name, then as the operation has it
             a session (UUID: OPENED, LOST), a region number (u64: HOT, COOL), two record numbers (u64 each: SPOOL) or nothing

All little-endian; CRC-32 (zlib) over the 508 bytes before it. Version 1 had the operations up to LOST; it is read as well.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final
from uuid import UUID

SLOT_BYTES: Final = 512
MAGIC: Final = b"MLACTLOG"
VERSION: Final = 2
_READABLE: Final = (1, 2)

_HEADER: Final = struct.Struct("<8sHHIQ16s")
_SLOT: Final = struct.Struct("<Q16sH")
_ENTRY: Final = struct.Struct("<BB")
_REGION: Final = struct.Struct("<Q")
_RECORDS: Final = struct.Struct("<QQ")
_CRC: Final = struct.Struct("<I")
_ROOM: Final = SLOT_BYTES - _SLOT.size - _CRC.size
_BLANK: Final = bytes(SLOT_BYTES)


class ActivityOp(IntEnum):
    """What an entry says. The numbers are on disk: they never change their meaning."""

    SETTLED = 1  # all is published: no region is hot, no session is open; the log covers the volume
    OPENED = 2  # the session may have published commands for the volume
    HOT = 3  # the region may hold writes that aren't in Kafka
    COOL = 4  # the region holds no such write any more
    LOST = 5  # the session's log was damaged; it may have any volume open that isn't covered
    WHOLE_VOLUME = 6  # the whole volume may hold writes that aren't in Kafka; replaces its regions
    REGIONS = 7  # ends WHOLE_VOLUME: only the regions that became hot since may hold such writes
    SPOOLED = 8  # some of the volume's commands are in the spool alone; their regions may be cool
    SPOOL = 9  # the spool durably holds these records; an empty range ends SPOOLED of each volume


@dataclass(frozen=True, slots=True)
class ActivityEntry:
    """One change of the log's state."""

    op: ActivityOp
    volume: str = ""
    session: str = ""
    region: int = 0
    records: tuple[int, int] = (1, 0)


@dataclass(slots=True)
class VolumeActivity:
    """What the log says of one volume.

    covered: everything that this host did to the volume before `sessions` and `regions` is
        published. A volume that isn't covered is dirty as a whole.
    sessions: the sessions that are open on the volume.
    regions: the numbers of its hot regions.
    whole_volume: the whole volume may hold unpublished writes.
    spooled: the spool alone names some of its unpublished writes.
    """

    covered: bool = False
    sessions: set[str] = field(default_factory=set)
    regions: set[int] = field(default_factory=set)
    whole_volume: bool = False
    spooled: bool = False

    @property
    def is_owed(self) -> bool:
        """Whether something of the volume may not be published."""
        return bool(self.sessions or self.regions or self.whole_volume or self.spooled)

    @property
    def is_whole_volume_dirty(self) -> bool:
        """Whether no region says enough."""
        return self.whole_volume or not self.covered


@dataclass(slots=True)
class ActivityState:
    """What all entries together say. Writing and reading a log both come here, so they can't disagree.

    spool: (first, last) of the records that regions may have cooled on account of; none where the first is above the last.
    """

    volumes: dict[str, VolumeActivity] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    spool: tuple[int, int] = (1, 0)

    def apply(self, entry: ActivityEntry) -> None:
        """Take one entry."""
        if entry.op is ActivityOp.LOST:
            self.lost.add(entry.session)
            return
        if entry.op is ActivityOp.SPOOL:
            self._spool(entry.records)
            return
        volume = self.volumes.setdefault(entry.volume, VolumeActivity())
        match entry.op:
            case ActivityOp.SETTLED:
                self.volumes[entry.volume] = VolumeActivity(covered=True)
            case ActivityOp.OPENED:
                volume.sessions.add(entry.session)
            case ActivityOp.HOT:
                volume.regions.add(entry.region)
            case ActivityOp.COOL:
                volume.regions.discard(entry.region)
            case ActivityOp.WHOLE_VOLUME:
                volume.whole_volume = True
                volume.regions.clear()
            case ActivityOp.REGIONS:
                volume.whole_volume = False
            case ActivityOp.SPOOLED:
                volume.spooled = True

    def entries(self) -> Iterator[ActivityEntry]:
        """Entries that say all of it anew."""
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
            yield from (
                ActivityEntry(ActivityOp.HOT, name, region=region)
                for region in sorted(volume.regions)
            )

    def _spool(self, records: tuple[int, int]) -> None:
        self.spool = records
        if records[0] > records[1]:
            for volume in self.volumes.values():
                volume.spooled = False


@dataclass(frozen=True, slots=True)
class PreviousLog:
    """What the previous session's log says.

    found:   there was a log. Where there was none, nothing is covered.
    session: its session; None where that can't be told.
    damaged: what it may have named can't be told: every volume is dirty as a whole, also one that `state` doesn't name.
    """

    found: bool
    session: str | None
    region_bytes: int
    damaged: bool
    state: ActivityState

    @property
    def volumes(self) -> frozenset[str]:
        """The volumes for which something is owed: after a clean close there is none."""
        return frozenset(name for name, volume in self.state.volumes.items() if volume.is_owed)

    @property
    def whole(self) -> frozenset[str]:
        """Those of `volumes` that are dirty as a whole."""
        return frozenset(
            name for name in self.volumes if self.state.volumes[name].is_whole_volume_dirty
        )

    @property
    def regions(self) -> Mapping[str, frozenset[int]]:
        """The dirty regions, by volume."""
        return {
            name: frozenset(volume.regions)
            for name, volume in self.state.volumes.items()
            if volume.regions
        }


def pack_log(
    state: ActivityState, session: str, region_bytes: int, slots: int
) -> tuple[bytes, int]:
    """(a whole file that says `state`, how many of its slots that takes); `slots` is made larger where it must be."""
    used = list(pack_slots(state.entries(), session, 1))
    slots = max(slots, 2 * len(used))
    header = _HEADER.pack(MAGIC, VERSION, SLOT_BYTES, slots, region_bytes, UUID(session).bytes)
    return b"".join((_sealed(header), *used, bytes(SLOT_BYTES * (slots - len(used))))), len(used)


def pack_slots(entries: Iterable[ActivityEntry], session: str, sequence: int) -> Iterator[bytes]:
    """The entries in as few slots as they fit in, in order, numbered from `sequence`."""
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
    """What the file says; where any byte of it is in doubt, `damaged` and all that can still be told."""
    if data is None:
        return PreviousLog(
            found=False, session=None, region_bytes=0, damaged=False, state=ActivityState()
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
    """Whatever is still whole, wherever it stands: which volumes are named, and by which sessions. Nothing is covered."""
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
    """(session, region bytes). ValueError where it isn't sound, or, for a whole file, the file's size isn't what it says."""
    body = _unsealed(data[:SLOT_BYTES])
    magic, version, slot_bytes, slots, region_bytes, session = _HEADER.unpack_from(body)
    if (magic, slot_bytes) != (MAGIC, SLOT_BYTES) or version not in _READABLE or region_bytes <= 0:
        raise ValueError("not an activity log of this version")
    if whole and len(data) != SLOT_BYTES * (1 + slots):
        raise ValueError("the file isn't as long as its header says")
    return str(UUID(bytes=session)), region_bytes


def _used_slots(data: bytes) -> Iterator[_Slot]:
    """The slots up to the first of zeros. ValueError for one that isn't sound, and for anything behind the zeros."""
    for start in range(SLOT_BYTES, len(data), SLOT_BYTES):
        slot = data[start : start + SLOT_BYTES]
        if slot == _BLANK:
            if data.count(0, start) != len(data) - start:
                raise ValueError("there is something behind the end")
            return
        yield _read_slot(slot)


def _read_slot(slot: bytes) -> _Slot:
    body = _unsealed(slot)
    sequence, session, length = _SLOT.unpack_from(body)
    payload = body[_SLOT.size : _SLOT.size + length]
    if sequence == 0 or len(payload) != length:
        raise ValueError("not a slot")
    return _Slot(sequence, str(UUID(bytes=session)), list(_unpack_entries(payload)))


def _sealed(body: bytes) -> bytes:
    padded = body.ljust(SLOT_BYTES - _CRC.size, b"\0")
    return padded + _CRC.pack(zlib.crc32(padded))


def _unsealed(slot: bytes) -> bytes:
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
    if entry.op is ActivityOp.SPOOL:
        return packed + _RECORDS.pack(*entry.records)
    return packed


def _unpack_entries(payload: bytes) -> Iterator[ActivityEntry]:
    """ValueError where the bytes aren't entries (an operation of a later version, for one)."""
    at = 0
    try:
        while at < len(payload):
            op, length = _ENTRY.unpack_from(payload, at)
            at += _ENTRY.size + length
            name = payload[at - length : at].decode()
            session, region, records = "", 0, (1, 0)
            if op in (ActivityOp.OPENED, ActivityOp.LOST):
                session = str(UUID(bytes=payload[at : at + 16]))
                at += 16
            elif op in (ActivityOp.HOT, ActivityOp.COOL):
                (region,) = _REGION.unpack_from(payload, at)
                at += _REGION.size
            elif op == ActivityOp.SPOOL:
                records = _RECORDS.unpack_from(payload, at)
                at += _RECORDS.size
            if at > len(payload):
                raise ValueError("an entry is cut off")
            yield ActivityEntry(ActivityOp(op), name, session, region, records)
    except struct.error as error:
        raise ValueError("an entry is cut off") from error
