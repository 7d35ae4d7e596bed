"""The format of a journal: a header, entries, and a closing record that says that all are there.

Format, version 1. Integers are little-endian. A journal is a sequence of records:

    magic         4 bytes   MLJ1
    kind          u32       1 header, 2 entries, 3 close
    journal_id    16 bytes  a UUID, the same in all records of one journal
    number        u64       0 for the header, then 1, 2, … without a gap
    body_bytes    u64
    body_crc32    u32       CRC-32 (ISO 3309, zlib.crc32) of the body
    prefix_crc32  u32       CRC-32 of the 44 bytes before it
    body

- The body of the header is a JSON object with the fields of JournalHeader. `description` is the
  volume's description as its topic has it, in base64. A journal of no group has no `group` and no
  `commit_id`, and says `version` 1; one of a group says 2, so that no older release applies it
  alone.
- The body of entries is `round` (u32), `count` (u32), then by range `offset` (u64), `length` (u64)
  and `kind` (u32: 0 zeros, 1 data), then the bytes of the ranges of data, in the same order. The
  ranges of one round don't overlap. Those of a later round replace what earlier ones hold.
- The body of the close is `through` (i64), then the state to save, as the caller encodes it. The
  number of the close counts the records before it.

A journal counts only if each record up to the close is intact and has the id of the header. So it
is sealed, whole, or it is nothing: what a crash leaves of it, or an older journal under it in the
same file, never counts. Bytes behind the close mean nothing.
"""

from __future__ import annotations

import json
import struct
import zlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple, Protocol
from uuid import UUID

import numpy as np
import numpy.typing as npt

from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.domain.volumes import check_group_name, check_volume_name
from mirrorlog.errors import BadUse
from mirrorlog.json_text import parse_json
from mirrorlog.ports.devices import Data

FORMAT: Final = "mirrorlog.site_journal"
_MAGIC: Final = b"MLJ1"
_HEADER, _ENTRIES, _CLOSE = 1, 2, 3
_PREFIX: Final = struct.Struct("<4sI16sQQI")
_CRC: Final = struct.Struct("<I")
_ENTRIES_HEAD: Final = struct.Struct("<II")
_RANGE: Final = struct.Struct("<QQI")
_TABLE: Final = np.dtype([("offset", "<u8"), ("length", "<u8"), ("kind", "<u4")])
"""A table of ranges, as _RANGE packs each."""
_THROUGH: Final = struct.Struct("<q")
PREFIX_BYTES: Final = _PREFIX.size + _CRC.size
RANGE_BYTES: Final = _RANGE.size
MAX_BODY_BYTES: Final = 1 << 31
"""No record is larger, so a reader never asks for more memory than that at once."""


class ReadAt(Protocol):
    """Reads a journal, as StateFile.pread does."""

    def __call__(self, *, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from byte `offset` on; fewer at the end of the journal."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalHeader:
    """What a journal is about.

    site, volume: the names. generation: of the volume. history_id: of the partition; None if it
    isn't known. secondary_id, epoch: those of the secondary's mark when the journal was begun.
    after: the position at which the secondary is consistent before the journal is applied.
    description: the bytes of the volume's description as of then. With it a site finds the
    secondary also while Kafka is away.
    group, commit_id: the volume's consistency group, and the UUID of the commit record without
    which the journal doesn't count (group_commit.py); None for a journal that counts by itself.

    Raise ValueError or BadUse for values that no journal has.
    """

    site: str
    volume: str
    generation: str
    history_id: str | None
    secondary_id: str
    epoch: int
    after: int
    description: bytes
    group: str | None = None
    commit_id: str | None = None

    def __post_init__(self) -> None:
        check_volume_name(self.volume)
        if (self.group is None) != (self.commit_id is None):
            raise ValueError("a group and the id of its commit belong together")
        if self.group is not None:
            check_group_name(self.group)
        ids = [self.generation, self.secondary_id, self.history_id, self.commit_id]
        for text in filter(None, ids):
            if str(UUID(text)) != text:
                raise ValueError(f"'{text}' isn't a UUID in canonical form")
        if self.epoch < 0 or self.after < BEFORE_FIRST:
            raise ValueError(f"epoch {self.epoch} or position {self.after} is impossible")


class StagedRange(NamedTuple):
    """A range of a secondary in a journal. data: None for zeros."""

    offset: int
    length: int
    data: Data | None


class StagedColumns(NamedTuple):
    """All ranges of a record. zeros: the ranges of zeros. written: those of data.

    data: the bytes of these, which their places count in.
    """

    zeros: RangeColumns
    written: RangeColumns
    data: memoryview


class EntriesPlace(NamedTuple):
    """Where a record of entries lies in its journal. round_number: see the format."""

    offset: int
    record_bytes: int
    number: int
    round_number: int


@dataclass(frozen=True, slots=True)
class SealedJournal:
    """A journal that is sealed.

    through: the position at which the secondary is consistent once all entries are applied.
    state: the bytes of the state to save then. entries: in the order in which they were written.
    """

    journal_id: UUID
    header: JournalHeader
    through: int
    state: bytes
    entries: tuple[EntriesPlace, ...]


class _Record(NamedTuple):
    kind: int
    journal_id: UUID
    number: int
    body: memoryview


def encode_header(journal_id: UUID, header: JournalHeader) -> bytes:
    """Return the record of a header."""
    fields = {
        **asdict(header),
        "description": b64encode(header.description).decode("ascii"),
        "format": FORMAT,
        "version": 1 if header.group is None else 2,
    }
    if header.group is None:
        del fields["group"], fields["commit_id"]
    body = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")
    return _encode(_HEADER, journal_id, 0, [body])


def encode_entries(
    journal_id: UUID, ranges: Sequence[StagedRange], *, number: int, round_number: int
) -> bytes:
    """Return a record of entries. Its length is entries_bytes(ranges)."""
    head = _ENTRIES_HEAD.pack(round_number, len(ranges))
    table = b"".join(
        _RANGE.pack(offset, length, data is not None) for offset, length, data in ranges
    )
    chunks = [data for _, _, data in ranges if data is not None]
    return _encode(_ENTRIES, journal_id, number, [head, table, *chunks])


def encode_columns(
    journal_id: UUID,
    ranges: RangeColumns,
    memory: memoryview,
    *,
    number: int,
    round_number: int,
) -> bytes:
    """Return the record of entries of ranges of data, which are at their places in `memory`."""
    table = np.empty(len(ranges), _TABLE)
    table["offset"], table["length"], table["kind"] = ranges.offsets, ranges.lengths, 1
    chunks = [memory[start:end] for start, end in ranges.pieces()]
    head = _ENTRIES_HEAD.pack(round_number, len(ranges))
    return _encode(_ENTRIES, journal_id, number, [head, table.tobytes(), *chunks])


def entries_bytes(ranges: int, data_bytes: int) -> int:
    """Return the length of a record of so many ranges with so many bytes of data."""
    return PREFIX_BYTES + _ENTRIES_HEAD.size + ranges * RANGE_BYTES + data_bytes


def encode_close(journal_id: UUID, *, number: int, through: int, state: bytes) -> bytes:
    """Return the closing record. number: how many records are before it."""
    return _encode(_CLOSE, journal_id, number, [_THROUGH.pack(through), state])


def read_journal(read_at: ReadAt) -> SealedJournal | None:
    """Return the journal that begins at offset 0, if it is sealed; otherwise None.

    All of it is read, and each checksum is checked.
    """
    first = _read_record(read_at, 0)
    if first is None or first.kind != _HEADER or first.number != 0:
        return None
    header = _decode_header(first.body)
    offset = PREFIX_BYTES + len(first.body)
    entries: list[EntriesPlace] = []
    while header is not None:
        record = _read_record(read_at, offset)
        expected = first.journal_id, len(entries) + 1
        if record is None or (record.journal_id, record.number) != expected:
            return None
        size = PREFIX_BYTES + len(record.body)
        if record.kind == _CLOSE and len(record.body) >= _THROUGH.size:
            (through,) = _THROUGH.unpack_from(record.body)
            state = bytes(record.body[_THROUGH.size :])
            return SealedJournal(first.journal_id, header, through, state, tuple(entries))
        if record.kind != _ENTRIES or (table := _Table.of(record.body)) is None:
            return None
        entries.append(EntriesPlace(offset, size, record.number, table.round_number))
        offset += size
    return None


def read_entries(
    read_at: ReadAt, journal_id: UUID, place: EntriesPlace
) -> Sequence[StagedRange] | None:
    """Return the ranges of a record of entries; None if it isn't what was written there."""
    body = _read_body(read_at, journal_id, place)
    return None if body is None else _decode_entries(body)


def read_columns(read_at: ReadAt, journal_id: UUID, place: EntriesPlace) -> StagedColumns | None:
    """Return the ranges of a record as read_entries does, in columns."""
    body = _read_body(read_at, journal_id, place)
    if body is None:
        return None
    table = _Table.of(body)
    assert table is not None
    rows = table.rows
    offsets, lengths = rows["offset"].astype(np.int64), rows["length"].astype(np.int64)
    has_data = rows["kind"] != 0
    return StagedColumns(
        RangeColumns.packed(offsets[~has_data], lengths[~has_data]),
        RangeColumns.packed(offsets[has_data], lengths[has_data]),
        body[table.data_start :],
    )


def _read_body(read_at: ReadAt, journal_id: UUID, place: EntriesPlace) -> memoryview | None:
    """Return the body of a record of entries; None if it isn't what was written there."""
    record = _read_record(read_at, place.offset)
    if (
        record is None
        or record.kind != _ENTRIES
        or (record.journal_id, record.number) != (journal_id, place.number)
        or PREFIX_BYTES + len(record.body) != place.record_bytes
    ):
        return None
    table = _Table.of(record.body)
    return None if table is None or table.round_number != place.round_number else record.body


def _encode(kind: int, journal_id: UUID, number: int, chunks: Sequence[Data]) -> bytes:
    body_bytes = crc = 0
    for chunk in chunks:
        body_bytes += len(chunk)
        crc = zlib.crc32(chunk, crc)
    if body_bytes > MAX_BODY_BYTES:
        raise ValueError(f"a record of {body_bytes} bytes is too large")
    prefix = _PREFIX.pack(_MAGIC, kind, journal_id.bytes, number, body_bytes, crc)
    return b"".join((prefix, _CRC.pack(zlib.crc32(prefix)), *chunks))


def _read_record(read_at: ReadAt, offset: int) -> _Record | None:
    """Return the record at `offset`; None if there is none that is intact."""
    prefix = read_at(offset=offset, length=PREFIX_BYTES)
    if len(prefix) != PREFIX_BYTES:
        return None
    magic, kind, journal_id, number, body_bytes, body_crc = _PREFIX.unpack_from(prefix)
    (prefix_crc,) = _CRC.unpack_from(prefix, _PREFIX.size)
    is_known = magic == _MAGIC and body_bytes <= MAX_BODY_BYTES
    if not is_known or zlib.crc32(prefix[: _PREFIX.size]) != prefix_crc:
        return None
    body = read_at(offset=offset + PREFIX_BYTES, length=body_bytes)
    if len(body) != body_bytes or zlib.crc32(body) != body_crc:
        return None
    return _Record(kind, UUID(bytes=journal_id), number, memoryview(body))


def _decode_header(body: memoryview) -> JournalHeader | None:
    try:
        fields = parse_json(bytes(body))
        version = 2 if "group" in fields else 1
        if (fields.pop("format"), fields.pop("version")) != (FORMAT, version):
            return None
        fields["description"] = b64decode(fields["description"], validate=True)
        return JournalHeader(**fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, BadUse):
        return None


def _decode_entries(body: memoryview) -> list[StagedRange]:
    """Return the ranges of the body of a record, which has a table."""
    table = _Table.of(body)
    assert table is not None
    start, ranges = table.data_start, []
    for offset, length, kind in table.rows.tolist():
        data = body[start : start + length] if kind else None
        ranges.append(StagedRange(offset, length, data))
        start += length if kind else 0
    return ranges


class _Table(NamedTuple):
    """The table of a record of entries. rows: of type _TABLE. data_start: behind it in the body."""

    round_number: int
    rows: npt.NDArray[np.void]
    data_start: int

    @classmethod
    def of(cls, body: memoryview) -> _Table | None:
        """Return the table; None unless the body is exactly as long as it says."""
        if len(body) < _ENTRIES_HEAD.size:
            return None
        round_number, count = _ENTRIES_HEAD.unpack_from(body)
        start = _ENTRIES_HEAD.size + count * RANGE_BYTES
        if start > len(body):
            return None
        rows = np.frombuffer(body[_ENTRIES_HEAD.size : start], _TABLE)
        data_bytes = sum(rows["length"][rows["kind"] != 0].tolist())
        return cls(round_number, rows, start) if start + data_bytes == len(body) else None
