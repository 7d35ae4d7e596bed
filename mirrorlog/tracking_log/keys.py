"""Names of logs, and the keys of the changelog topic.

Every key begins with a version byte and a byte for the kind of the entry.
"""

from __future__ import annotations

import struct
from dataclasses import KW_ONLY, dataclass
from typing import Final, TypeAlias

from mirrorlog.domain.log_questions import LogAnswer
from mirrorlog.errors import BadInput
from mirrorlog.tracking_log.heads import PositionTime, SessionBeat, VolumeHead, Watermark
from mirrorlog.tracking_log.publication_delays import PublicationDelays
from mirrorlog.tracking_log.records import LogRecord

_KEY_VERSION: Final = 1
_RECORD, _HEAD, _BEAT, _WATERMARK, _POSITION_TIME, _ANSWER = b"r", b"h", b"s", b"w", b"m", b"a"
_DELAYS: Final = b"d"
_RECORD_TAIL: Final = struct.Struct(">BQQH")
RECORD_PREFIX: Final = bytes([_KEY_VERSION]) + _RECORD
"""The first bytes of the keys of all records, and of no other keys."""
HEAD_PREFIX: Final = bytes([_KEY_VERSION]) + _HEAD
"""The first bytes of the keys of all heads, and of no other keys."""
KEY_PREFIX: Final = bytes([_KEY_VERSION])
"""The first byte of all keys of the log."""

EntryKind: TypeAlias = type[
    LogRecord | VolumeHead | SessionBeat | Watermark | PositionTime | LogAnswer | PublicationDelays
]


def missed_log(volume: str, site: str) -> str:
    """Return the name of the log of what `site` has missed of `volume`. Its form is a volume's log.

    No volume has such a name, because the names of volumes contain no '@'.
    """
    return f"{volume}@{site}"


def split_log_name(name: str) -> tuple[str, str | None]:
    """Return (volume, site) for the name of a missed log, (volume, None) for a volume's log."""
    volume, at, site = name.partition("@")
    return volume, site if at else None


@dataclass(frozen=True, slots=True)
class RecordKey:
    """The fields in the key of a record, or of one part of it."""

    volume: str
    _: KW_ONLY
    tier: int
    after: int
    through: int
    part: int


def record_key(record: LogRecord | RecordKey) -> bytes:
    """Return the key of a record.

    Its fields are version, 'r', volume, NUL, tier (u8), start = after + 1 (u64 BE), through (u64
    BE) and part (u16 BE). So the order of keys is the order of volume, tier and position. `through`
    is part of the key so that folds of two ranges with the same start never overwrite each other
    (docs/decisions/log-record-keys.md).
    """
    tail = _RECORD_TAIL.pack(record.tier, record.after + 1, record.through, record.part)
    return record_prefix(record.volume) + tail


def above_prefix(prefix: bytes) -> bytes:
    """Return a key above every key that begins with `prefix`: in none of them 0xff follows it."""
    return prefix + b"\xff"


def record_prefix(volume: str) -> bytes:
    """Return the first bytes of the keys of all records of a volume, and of no other keys."""
    return RECORD_PREFIX + volume.encode() + b"\0"


def tier_prefix(volume: str, tier: int) -> bytes:
    """Return the first bytes of the keys of a volume's records in one tier, and of no others."""
    return record_prefix(volume) + bytes([tier])


def first_key_after(volume: str, *, tier: int, position: int) -> bytes:
    """Return the lowest possible key of a record in `tier` whose `after` is at least `position`."""
    return tier_prefix(volume, tier) + struct.pack(">Q", position + 1)


def read_record_key(key: bytes) -> RecordKey:
    """Return the fields of a record's key. Raise BadInput for a key that record_key didn't make."""
    end = len(key) - _RECORD_TAIL.size - 1
    name = key[len(RECORD_PREFIX) : max(end, 0)]
    if not key.startswith(RECORD_PREFIX) or not name or key[end : end + 1] != b"\0":
        raise BadInput(f"{key[:60].hex()} is no key of a log record")
    try:
        volume = name.decode()
    except UnicodeDecodeError:
        raise BadInput(f"{key[:60].hex()} names no volume") from None
    tier, start, through, part = _RECORD_TAIL.unpack(key[-_RECORD_TAIL.size :])
    return RecordKey(
        volume,
        tier=tier,
        after=start - 1,
        through=through,
        part=part,
    )


def head_key(volume: str) -> bytes:
    """Return the key of a volume's head: version, 'h', volume."""
    return bytes([_KEY_VERSION]) + _HEAD + volume.encode()


def beat_key(session: str) -> bytes:
    """Return the key of a session's heartbeat: version, 's', session."""
    return bytes([_KEY_VERSION]) + _BEAT + session.encode()


def watermark_key(partition: int) -> bytes:
    """Return the key of a partition's watermark: version, 'w', partition (u32 BE)."""
    return bytes([_KEY_VERSION]) + _WATERMARK + struct.pack(">I", partition)


def position_times_prefix(partition: int) -> bytes:
    """Return the first bytes of the keys of a partition's position times."""
    return bytes([_KEY_VERSION]) + _POSITION_TIME + struct.pack(">I", partition)


def position_time_key(partition: int, *, at_us: int) -> bytes:
    """Return the key of a position time. The value under it is a Watermark.

    Its fields are version, 'm', partition (u32 BE) and seconds since 1970 (u64 BE).
    """
    return position_times_prefix(partition) + struct.pack(">Q", at_us // 1_000_000)


def delays_prefix(partition: int) -> bytes:
    """Return the first bytes of the keys of a partition's publication delays."""
    return bytes([_KEY_VERSION]) + _DELAYS + struct.pack(">I", partition)


def delays_key(partition: int, *, after: int) -> bytes:
    """Return the key of publication delays. The value under it is a PublicationDelays.

    Its fields are version, 'd', partition (u32 BE) and after + 1 (u64 BE).
    """
    return delays_prefix(partition) + struct.pack(">Q", after + 1)


def answer_key(asker: str) -> bytes:
    """Return the key of the last answer to an asker's questions: version, 'a', asker."""
    return bytes([_KEY_VERSION]) + _ANSWER + asker.encode()


def key_kind(key: bytes) -> EntryKind | None:
    """Return the type of the entry under a changelog key.

    None: the key has a version or a kind that this reader doesn't know, and the reader skips it.
    """
    kinds: dict[bytes, EntryKind] = {
        _RECORD: LogRecord,
        _HEAD: VolumeHead,
        _BEAT: SessionBeat,
        _WATERMARK: Watermark,
        _POSITION_TIME: PositionTime,
        _ANSWER: LogAnswer,
        _DELAYS: PublicationDelays,
    }
    return kinds.get(key[1:2]) if key[:1] == bytes([_KEY_VERSION]) else None
