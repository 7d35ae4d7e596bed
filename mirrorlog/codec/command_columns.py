"""Tracking commands decoded together: one numpy reader a field for all of them.

Avro's binary encoding (Avro 1.11, "Binary Encoding") is read in lockstep: `at` holds the next
offset to read in each event, and reading a field advances all of them. An event that isn't *plain*
(another version of the contract, a note, raw commands, or damaged bytes) is only marked here, and
events.decode decodes it. A plain event decodes to exactly what events.decode returns
(tests/property/codec/test_command_columns.py).
"""

from __future__ import annotations

from collections.abc import Sequence
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
_WINDOW_BYTES: Final = 512
_NAMES: Final = ("volume", "generation", "host", "session")
_COLUMNS: Final = ("offsets", "lengths", "kinds")
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

    def extents_of(self, rows: I64) -> ExtentColumns:
        """Return the extents of those rows, event by event.

        Raise ValueError for an unknown kind.
        """
        offsets, lengths = self._joined("offsets", rows), self._joined("lengths", rows)
        return ExtentColumns.unpack(offsets, lengths, self._kinds(rows))

    def _joined(self, name: str, rows: I64) -> bytes:
        starts, ends = self._ranges[name]
        spans = zip(rows.tolist(), starts[rows].tolist(), ends[rows].tolist(), strict=True)
        values: Any = self.values
        return b"".join([values[row][start:end] for row, start, end in spans])

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


def rows_by_sender(columns: CommandColumns) -> list[I64]:
    """Return the plain rows of each sender, ascending."""
    rows = np.flatnonzero(columns.plain)
    order = rows[np.argsort(columns.sender[rows], kind="stable")]
    counts = np.bincount(columns.sender[rows], minlength=len(columns.senders))
    return np.split(order, np.cumsum(counts)[:-1]) if len(columns.senders) else []


class _LockstepReader:
    """Reads n byte strings at once.

    valid: the rows in which every field so far was well-formed.

    The strings are joined so that numpy can index them. Of long strings (500 extents are 8 KB) only
    windows are joined, around the next offsets.
    """

    def __init__(self, values: Sequence[bytes | None]) -> None:
        self._values = [value or b"" for value in values]
        self.sizes = np.fromiter(map(len, self._values), np.int64, len(values))
        self.at = np.zeros(len(values), np.int64)
        self.valid = np.ones(len(values), np.bool_)
        self._whole = int(self.sizes.sum()) <= _WINDOW_BYTES * len(values)
        self._load()

    def _load(self) -> None:
        """Join the bytes to read next: whole values, or a window of each from its offset on."""
        if self._whole:
            pieces = self._values
        else:
            offsets = zip(self._values, self.at.tolist(), strict=True)
            pieces = [value[at : at + _WINDOW_BYTES] for value, at in offsets]
        # A row that runs over its end reads its neighbour or the padding, and becomes invalid.
        joined = b"".join([*pieces, bytes(2 * _VARINT_BYTES)])
        self._bytes = np.frombuffer(joined, np.uint8)
        self._last = len(joined) - _VARINT_BYTES - 1
        loaded = self.sizes if self._whole else np.fromiter(map(len, pieces), np.int64, len(pieces))
        begin = np.zeros(len(loaded), np.int64) if self._whole else self.at
        self._shift = np.cumsum(loaded) - loaded - begin
        self._loaded_to = begin + loaded

    def _indexes(self) -> I64:
        """Return the index of each row's next byte in the joined bytes."""
        if (
            not self._whole
            and ((self.at + _VARINT_BYTES > self._loaded_to) & (self._loaded_to < self.sizes)).any()
        ):
            self._load()
        return np.minimum(self.at + self._shift, self._last)

    def header(self, expected: bytes) -> None:
        """Read those bytes in every row. A row without them becomes invalid."""
        self.valid &= self.sizes >= len(expected)
        indexes = self._indexes()
        for index, byte in enumerate(expected):
            self.valid &= self._bytes[np.minimum(indexes + index, self._last)] == byte
        self._move(self.at + len(expected))

    def long(self, where: Mask | None = None) -> I64:
        """Read a zig-zag varint of each row, or of the rows `where`. Return it, or 0 for other
        rows."""
        indexes = self._indexes()
        rows = None if where is None else np.flatnonzero(where)
        at = indexes if rows is None else indexes[rows]
        byte = self._bytes[at]
        raw = (byte & 0x7F).astype(np.uint64)
        size = np.ones(len(at), np.int64)
        more = np.flatnonzero(byte & 0x80)
        for index in range(1, _VARINT_BYTES):
            if not len(more):
                break
            byte = self._bytes[at[more] + index]
            raw[more] |= (byte & 0x7F).astype(np.uint64) << np.uint64(7 * index)
            size[more] += 1
            more = more[(byte & 0x80) != 0]
        numbers = (raw >> np.uint64(1)).astype(np.int64) ^ -(raw & np.uint64(1)).astype(np.int64)
        # The tenth byte holds one bit of 64. events.decode judges a varint that is longer or
        # greater.
        is_bad = size == _VARINT_BYTES
        if rows is None:
            self.valid &= ~is_bad
            self._move(self.at + size)
            return numbers
        self.valid[rows[is_bad]] = False
        all_numbers, moved = np.zeros(len(self.at), np.int64), self.at.copy()
        all_numbers[rows], moved[rows] = numbers, self.at[rows] + size
        self._move(moved)
        return all_numbers

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


def decode_columns(values: Sequence[bytes | None]) -> CommandColumns:
    """Decode all events at once. Mark those that aren't plain, and None, without decoding them."""
    header, fields = newest_contract(TrackingCommand)
    reader = _LockstepReader(values)
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
    return CommandColumns(values, reader.valid, senders, sender, numbers, counts, ranges)


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
            reader.valid &= reader.long() == 0
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
    by_prefix: dict[bytes, int] = {}
    senders: list[Sender] = []
    sender = np.full(len(values), -1, np.int64)
    rows = np.flatnonzero(reader.valid)
    numbers = []
    for row, end in zip(rows.tolist(), ends[rows].tolist(), strict=True):
        prefix = values[row][_HEADER_BYTES:end]  # type: ignore[index]
        number = by_prefix.get(prefix)
        if number is None:
            number = by_prefix[prefix] = _add_sender(prefix, senders)
        numbers.append(number)
    sender[rows] = numbers
    reader.valid &= sender >= 0
    return tuple(senders), sender


def _add_sender(prefix: bytes, senders: list[Sender]) -> int:
    """Add the sender in `prefix` and return its index; -1 if a name isn't UTF-8."""
    reader = _LockstepReader([prefix])
    try:
        names = [
            prefix[int(begin[0]) : int(end[0])].decode()
            for begin, end in (reader.span() for _ in _NAMES)
        ]
    except UnicodeDecodeError:
        return -1
    senders.append(Sender(*names))
    return len(senders) - 1
