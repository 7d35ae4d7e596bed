"""Tracking commands decoded together: one numpy reader a field for all of them.

Avro's binary encoding (Avro 1.11, "Binary Encoding") is read in lockstep: `at` holds the next
offset to read in each event, and reading a field advances all of them. An event that isn't *plain*
(another version of the contract, a note, raw commands, or damaged bytes) is only marked here, and
events.decode decodes it. A plain event decodes to exactly what events.decode returns
(tests/property/codec/test_command_columns.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mirrorlog.codec.events import newest_contract
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import ExtentColumns, ExtentKind

I64: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

_HEADER_BYTES: Final = 10
_VARINT_BYTES: Final = 10
_JOINED_BYTES: Final = 512
"""Events of at most so many bytes on average are joined whole."""
_FIRST_WINDOW_BYTES: Final = 256
_WINDOW_BYTES: Final = 64
"""What is joined of longer events: their names and numbers, and then what stands between columns.
Python's own allocator serves up to 512 bytes, the object's head included."""
_NAMES: Final = ("volume", "generation", "host", "session")
_COLUMNS: Final = ("offsets", "lengths", "kinds")
_MORE: Final = 0x80
"""The bit of a byte that says that a further byte of the varint follows."""
_ONE: Final = np.uint64(1)
_EACH_ONE: Final = np.uint64(0x0101_0101_0101_0101)
_EACH_MORE: Final = np.uint64(0x8080_8080_8080_8080)
_EACH_GROUP: Final = np.uint64(0x7F7F_7F7F_7F7F_7F7F)
_GROUP_STEPS: Final = (
    (np.uint64(0x007F_007F_007F_007F), np.uint64(0x7F00_7F00_7F00_7F00), np.uint64(1)),
    (np.uint64(0x0000_3FFF_0000_3FFF), np.uint64(0x3FFF_0000_3FFF_0000), np.uint64(2)),
    (np.uint64(0x0000_0000_0FFF_FFFF), np.uint64(0x0FFF_FFFF_0000_0000), np.uint64(4)),
)
_SMALL_NUMBERS: Final = np.array([(n >> 1) ^ -(n & 1) for n in range(256)], np.int64)
"""By its only byte, the number that a zig-zag varint stands for."""
_PLAIN: Final = (CommandKind.WRITES, CommandKind.SESSION_OPEN, CommandKind.HEARTBEAT)


@dataclass(frozen=True, slots=True)
class Sender:
    """The names that all commands of one session for one volume share."""

    volume: str
    generation: str
    host: str
    session: str


@dataclass(frozen=True, slots=True, eq=False)
class CommandColumns:
    """n events as columns of length n. Only the rows with `plain` are valid.

    plain: the event has the newest contract, and is a WRITES with nothing but extents, or a
    SESSION_OPEN or HEARTBEAT without extents. Whether its extents have known kinds isn't looked at
    (extents_of).
    sender: an index into `senders`; -1 if not plain.
    numbers: by name, the contract's fields that are numbers. An acknowledged_position of -1 is
    null.
    extents: the number of extents.
    """

    values: Sequence[bytes | None]
    plain: Mask
    senders: tuple[Sender, ...]
    sender: I64
    numbers: dict[str, I64]
    extents: I64
    _ranges: dict[str, tuple[I64, I64]]
    _together: _JoinedValues | None

    def extents_of(self, rows: I64) -> ExtentColumns:
        """Return the extents of those rows, event by event.

        Raise ValueError for an unknown kind.
        """
        kinds = self._kinds(rows)
        if self._together is not None and not kinds:
            words = self._together.words(rows, self.extents[rows])
            return ExtentColumns(
                words(self._ranges["offsets"][0]), words(self._ranges["lengths"][0])
            )
        offsets, lengths = self._joined("offsets", rows), self._joined("lengths", rows)
        return ExtentColumns.unpack(offsets, lengths, kinds)

    def _joined(self, name: str, rows: I64) -> bytes:
        starts, ends = self._ranges[name]
        spans = zip(rows.tolist(), starts[rows].tolist(), ends[rows].tolist(), strict=True)
        values: Any = self.values
        # A slice of bytes is a copy, and long ones come from memory that isn't in the cache.
        return b"".join([memoryview(values[row])[start:end] for row, start, end in spans])

    def _kinds(self, rows: I64) -> bytes:
        starts, ends = self._ranges["kinds"]
        has_kinds = ends[rows] > starts[rows]
        if not has_kinds.any():
            return b""
        if has_kinds.all():
            return self._joined("kinds", rows)
        writes = bytes([ExtentKind.WRITE])
        return b"".join(
            self._joined("kinds", rows[index : index + 1]) or writes * int(self.extents[row])
            for index, row in enumerate(rows.tolist())
        )


@dataclass(frozen=True, slots=True, eq=False)
class _JoinedValues:
    """All values in one string.

    string: with padding behind the last one. begins: of each value in it.
    """

    string: bytes
    begins: I64

    @classmethod
    def of(cls, parts: Sequence[_JoinedValues]) -> _JoinedValues:
        """Return the values of all parts, one behind the other."""
        sizes = np.fromiter((len(part.string) for part in parts), np.int64, len(parts))
        begins = [
            part.begins + shift for part, shift in zip(parts, np.cumsum(sizes) - sizes, strict=True)
        ]
        return cls(b"".join([part.string for part in parts]), np.concatenate(begins))

    def words(self, rows: I64, counts: I64) -> Callable[[I64], npt.NDArray[np.uint64]]:
        """Return a function that reads `counts` integers of 64 bits in each of the rows.

        It takes, for every row of the batch, the offset of the first one in its value.
        """
        begins = self.begins[rows]
        words = _words(self.string)
        within: I64 | None = None
        if len(counts) and (int(counts.min()) != 1 or int(counts.max()) != 1):
            ends = np.cumsum(counts)
            within = np.arange(int(ends[-1])) - np.repeat(ends - counts, counts)

        def read(offsets: I64) -> npt.NDArray[np.uint64]:
            at = begins + offsets[rows]
            if within is not None:
                at = np.repeat(at, counts) + 8 * within
            numbers: npt.NDArray[np.uint64] = words[at]
            return numbers

        return read


def _words(string: bytes) -> npt.NDArray[np.uint64]:
    """Return the integers of 64 bits, little-endian, that begin at each byte of a string."""
    return np.ndarray((max(len(string) - 7, 0),), "<u8", string, strides=(1,))


def rows_by_sender(columns: CommandColumns) -> list[I64]:
    """Return the plain rows of each sender, ascending."""
    rows = np.flatnonzero(columns.plain)
    order = rows[np.argsort(columns.sender[rows], kind="stable")]
    counts = np.bincount(columns.sender[rows], minlength=len(columns.senders))
    return np.split(order, np.cumsum(counts)[:-1]) if len(columns.senders) else []


class _LockstepReader:
    """Reads n byte strings at once.

    valid: the rows in which every field so far was well-formed.
    together: the strings as they are joined, None if only windows of them are.
    heads: the first bytes of each string, as they were joined first.

    The strings are joined so that numpy can index them. Of long strings (500 extents are 8 KB) only
    windows are joined, around the next offsets.
    """

    def __init__(self, values: Sequence[bytes | None]) -> None:
        self._values = [value or b"" for value in values]
        self.sizes = np.fromiter(map(len, self._values), np.int64, len(values))
        self.at = np.zeros(len(values), np.int64)
        self.valid = np.ones(len(values), np.bool_)
        self.together: _JoinedValues | None = None
        self._whole = int(self.sizes.sum()) <= _JOINED_BYTES * len(values)
        self.heads: Sequence[bytes] = self._values
        if not self._whole:
            self.heads = [value[:_FIRST_WINDOW_BYTES] for value in self._values]
        self._load(self.heads)

    def _window(self) -> Sequence[bytes]:
        """Return the bytes of each row from its next one on."""
        offsets = zip(self._values, self.at.tolist(), strict=True)
        return [value[at : at + _WINDOW_BYTES] for value, at in offsets]

    def _load(self, pieces: Sequence[bytes]) -> None:
        """Join the bytes to read next: whole values, or a window of each from its offset on."""
        # A row that runs over its end reads its neighbour or the padding, and becomes invalid.
        joined = b"".join([*pieces, bytes(2 * _VARINT_BYTES)])
        self._bytes, self._words = np.frombuffer(joined, np.uint8), _words(joined)
        self._last = len(joined) - _VARINT_BYTES - 1
        loaded = self.sizes if self._whole else np.fromiter(map(len, pieces), np.int64, len(pieces))
        begin = np.zeros(len(loaded), np.int64) if self._whole else self.at
        self._shift = np.cumsum(loaded) - loaded - begin
        if self._whole:
            self.together = _JoinedValues(joined, self._shift)
        self._loaded_to = begin + loaded

    def _indexes(self) -> I64:
        """Return the index of each row's next byte in the joined bytes."""
        if (
            not self._whole
            and ((self.at + _VARINT_BYTES > self._loaded_to) & (self._loaded_to < self.sizes)).any()
        ):
            self._load(self._window())
        return np.minimum(self.at + self._shift, self._last)

    def header(self, expected: bytes) -> None:
        """Read those bytes, 8 at least, in every row. A row without them becomes invalid."""
        self.valid &= self.sizes >= len(expected)
        indexes = self._indexes()
        for offset in {*range(0, len(expected) - 7, 8), len(expected) - 8}:
            word = np.uint64(int.from_bytes(expected[offset : offset + 8], "little"))
            self.valid &= self._words[np.minimum(indexes + offset, self._last)] == word
        self._move(self.at + len(expected))

    def long(self, where: Mask | None = None) -> I64:
        """Read a zig-zag varint of each row, or of the rows `where`. Return it, or 0 for other
        rows."""
        indexes = self._indexes()
        if where is None or where.all():
            numbers, sizes, is_bad = self._varints(indexes)
            self.valid &= ~is_bad
            self._move(self.at + sizes)
            return numbers
        rows = np.flatnonzero(where)
        all_numbers, moved = np.zeros(len(self.at), np.int64), self.at.copy()
        all_numbers[rows], sizes, is_bad = self._varints(indexes[rows])
        self.valid[rows] &= ~is_bad
        moved[rows] += sizes
        self._move(moved)
        return all_numbers

    def zero(self) -> None:
        """Read a zig-zag varint of each row. A row becomes invalid unless it is 0, in one byte."""
        self.valid &= self._bytes[self._indexes()] == 0
        self._move(self.at + 1)

    def _varints(self, at: I64) -> tuple[I64, I64 | int, Mask | np.bool_]:
        """Return the zig-zag varints at these indexes, their sizes in bytes, and which are bad.

        The tenth byte holds one bit of 64. So those of ten bytes count as bad: events.decode judges
        a varint that is longer or greater.

        Of eight bytes read together, the first one without the continuation bit is the last one of
        the varint. Its bits and all below are kept, and the groups of seven bits moved together:
        two bytes at a time, then four, then eight (Warren, Hacker's Delight, 2nd edition, 7-4).
        """
        first = self._bytes[at]
        if not len(at) or int(first.max()) < _MORE:
            return _SMALL_NUMBERS[first], 1, np.False_
        words = self._words[at]
        ends = ~words & _EACH_MORE
        kept = ends ^ (ends - _ONE)
        raw = words & kept & _EACH_GROUP
        sizes = (((kept & _EACH_ONE) * _EACH_ONE) >> np.uint64(56)).astype(np.int64)
        for low, high, shift in _GROUP_STEPS:
            raw = (raw & low) | ((raw & high) >> shift)
        is_bad = np.zeros(len(at), np.bool_)
        if len(longer := np.flatnonzero(ends == 0)):
            ninth = self._bytes[at[longer] + 8]
            raw[longer] |= (ninth & np.uint8(_MORE - 1)).astype(np.uint64) << np.uint64(56)
            is_bad[longer] = ninth >= _MORE
            sizes[longer] = np.where(ninth >= _MORE, _VARINT_BYTES, _VARINT_BYTES - 1)
        numbers = (raw >> _ONE).view(np.int64) ^ -(raw & _ONE).view(np.int64)
        return numbers, sizes, is_bad

    def span(self) -> tuple[I64, I64]:
        """Read a string or bytes of each row. Return its first and its end offset in the value."""
        length = self.long()
        self.valid &= (length >= 0) & (length <= self.sizes - self.at)
        begin = self.at
        self._move(begin + np.where(self.valid, length, 0))
        return begin, self.at

    def finish(self) -> None:
        """Mark a row invalid unless all of its bytes have been read."""
        self.valid &= self.at == self.sizes

    def _move(self, at: I64) -> None:
        self.valid &= at <= self.sizes
        self.at = np.minimum(at, self.sizes)


def decode_columns(values: Sequence[bytes | None], rows_at_once: int = 8192) -> CommandColumns:
    """Decode all events. Mark those that aren't plain, and None, without decoding them.

    rows_at_once: how many events are read in lockstep. With more of them the columns that a step
    reads and writes don't stay in the processor's cache (docs/performance.md, "The node").
    """
    parts = [
        _decode_rows(values[first : first + rows_at_once])
        for first in range(0, max(len(values), 1), rows_at_once)
    ]
    return parts[0] if len(parts) == 1 else _joined_columns(values, parts)


def _joined_columns(
    values: Sequence[bytes | None], parts: Sequence[CommandColumns]
) -> CommandColumns:
    """Return the columns of `values`, of which the parts are the columns, one behind the other."""
    senders: dict[Sender, int] = {}
    # The last index stays -1, for rows that aren't plain.
    indexes = [
        np.array(
            [*(senders.setdefault(sender, len(senders)) for sender in part.senders), -1], np.int64
        )
        for part in parts
    ]
    together = [part._together for part in parts if part._together is not None]
    return CommandColumns(
        values,
        np.concatenate([part.plain for part in parts]),
        tuple(senders),
        np.concatenate([index[part.sender] for index, part in zip(indexes, parts, strict=True)]),
        {name: np.concatenate([part.numbers[name] for part in parts]) for name in parts[0].numbers},
        np.concatenate([part.extents for part in parts]),
        {
            name: (
                np.concatenate([part._ranges[name][0] for part in parts]),
                np.concatenate([part._ranges[name][1] for part in parts]),
            )
            for name in parts[0]._ranges
        },
        _JoinedValues.of(together) if len(together) == len(parts) else None,
    )


def _decode_rows(values: Sequence[bytes | None]) -> CommandColumns:
    """Decode all events in lockstep."""
    header, fields = newest_contract(TrackingCommand)
    reader = _LockstepReader(values)
    if None in values:
        reader.valid &= np.fromiter((value is not None for value in values), np.bool_, len(values))
    reader.header(header)
    numbers: dict[str, I64] = {}
    ranges: dict[str, tuple[I64, I64]] = {}
    for field in fields:
        _read(reader, field["name"], field["type"], numbers, ranges)
    reader.finish()
    counts = _count_extents(reader, ranges)
    # The extents of the other kinds aren't writes.
    reader.valid &= (counts == 0) | (numbers["kind"] == _symbol(fields, CommandKind.WRITES))
    senders, sender = _senders(values, reader, ranges["session"][1])
    columns = {name: ranges[name] for name in _COLUMNS}
    return CommandColumns(
        values, reader.valid, senders, sender, numbers, counts, columns, reader.together
    )


def _read(
    reader: _LockstepReader,
    name: str,
    kind: Any,
    numbers: dict[str, I64],
    ranges: dict[str, tuple[I64, I64]],
) -> None:
    """Read one field of every row. A row with a field that plain commands lack becomes invalid."""
    match kind:
        case "string" | "bytes":
            ranges[name] = reader.span()
        case "long" | "int":
            numbers[name] = reader.long()
        case {"type": "enum", "symbols": symbols}:
            numbers[name] = reader.long()
            reader.valid &= np.isin(numbers[name], [symbols.index(plain.value) for plain in _PLAIN])
        case ["null", "long"]:
            branch = reader.long()
            reader.valid &= (branch == 0) | (branch == 1)
            has_value = branch == 1
            numbers[name] = np.where(has_value, reader.long(has_value), -1)
        case ["null", _] | {"type": "array"}:
            reader.zero()
        case _:
            reader.valid[:] = False


def _symbol(fields: Sequence[dict[str, Any]], kind: CommandKind) -> int:
    (symbols,) = [field["type"]["symbols"] for field in fields if field["name"] == "kind"]
    return int(symbols.index(kind.value))


def _count_extents(reader: _LockstepReader, ranges: dict[str, tuple[I64, I64]]) -> I64:
    sizes = {name: ranges[name][1] - ranges[name][0] for name in _COLUMNS}
    counts = sizes["offsets"] // 8
    reader.valid &= (sizes["offsets"] % 8 == 0) & (sizes["lengths"] == sizes["offsets"])
    reader.valid &= (sizes["kinds"] == 0) | (sizes["kinds"] == counts)
    return np.asarray(counts, np.int64)


def _senders(
    values: Sequence[bytes | None], reader: _LockstepReader, ends: I64
) -> tuple[tuple[Sender, ...], I64]:
    """Return the senders, and each row's index into them (-1 if not plain).

    The names are the first fields of the contract, so rows with the same first bytes share a
    sender.
    """
    senders: list[Sender] = []
    sender = np.full(len(values), -1, np.int64)
    rows = np.flatnonzero(reader.valid)
    # The heads were read just now. Long values may have left the processor's cache.
    are_in_heads = not len(rows) or int(ends[rows].max()) <= _FIRST_WINDOW_BYTES
    strings: Any = reader.heads if are_in_heads else values
    spans = zip(rows.tolist(), ends[rows].tolist(), strict=True)
    prefixes = [strings[row][_HEADER_BYTES:end] for row, end in spans]
    by_prefix = {prefix: _add_sender(prefix, senders) for prefix in dict.fromkeys(prefixes)}
    sender[rows] = list(map(by_prefix.__getitem__, prefixes))
    reader.valid &= sender >= 0
    return tuple(senders), sender


def _add_sender(prefix: bytes, senders: list[Sender]) -> int:
    """Add the sender in `prefix` and return its index; -1 if a name isn't UTF-8.

    prefix: the names of a valid row.
    """
    names, at = [], 0
    for _ in _NAMES:
        size, at = _long(prefix, at)
        names.append(prefix[at : at + size])
        at += size
    try:
        senders.append(Sender(*(name.decode() for name in names)))
    except UnicodeDecodeError:
        return -1
    return len(senders) - 1


def _long(data: bytes, at: int) -> tuple[int, int]:
    """Return the zig-zag varint at an offset, which must be whole, and the offset behind it."""
    raw = shift = 0
    while True:
        raw |= (data[at] & (_MORE - 1)) << shift
        shift += 7
        at += 1
        if data[at - 1] < _MORE:
            return (raw >> 1) ^ -(raw & 1), at
