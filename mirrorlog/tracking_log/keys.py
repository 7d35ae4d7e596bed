"""Names of logs, and the keys of the changelog."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from mirrorlog.tracking_log.heads import PositionTime, SessionBeat, VolumeHead, Watermark
from mirrorlog.tracking_log.records import LogRecord

_KEY_VERSION: Final = 1
_RECORD, _HEAD, _BEAT, _WATERMARK, _POSITION_TIME = b"r", b"h", b"s", b"w", b"m"
_RECORD_TAIL: Final = struct.Struct(">BQQH")
RECORD_PREFIX: Final = bytes([_KEY_VERSION]) + _RECORD
"""How the keys of all records begin, and of nothing else."""


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


def position_times_prefix(partition: int) -> bytes:
    """How the keys of a partition's moments begin."""
    return bytes([_KEY_VERSION]) + _POSITION_TIME + struct.pack(">I", partition)


def position_time_key(partition: int, at_us: int) -> bytes:
    """Key of a moment: version, 'm', partition (u32 BE), seconds since 1970 (u64 BE); its value is a Watermark."""
    return position_times_prefix(partition) + struct.pack(">Q", at_us // 1_000_000)


def key_kind(
    key: bytes,
) -> type[LogRecord | VolumeHead | SessionBeat | Watermark | PositionTime] | None:
    """What a changelog key names; None for a version or a kind that this reader doesn't know: it isn't for him."""
    kinds: dict[bytes, type[LogRecord | VolumeHead | SessionBeat | Watermark | PositionTime]] = {
        _RECORD: LogRecord,
        _HEAD: VolumeHead,
        _BEAT: SessionBeat,
        _WATERMARK: Watermark,
        _POSITION_TIME: PositionTime,
    }
    return kinds.get(key[1:2]) if key[:1] == bytes([_KEY_VERSION]) else None
