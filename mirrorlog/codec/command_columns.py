"""Many tracking commands decoded together: one numpy step a field for all of them instead of one Python step a field for each.

Avro's binary encoding (Avro 1.11, "Binary Encoding") is read in lockstep: `at` holds for each event where it is read next,
and every field moves all of them. An event that isn't *plain* (another version of the contract, a note, raw commands,
anything damaged) is left to mirrorlog.codec: here it is only marked. What is plain decodes to exactly what the codec
gives (tests/property/test_columnar.py).
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
    """Who speaks of what: the names that a session's commands for a volume share."""

    volume: str
    generation: str
    host: str
    session: str


@dataclass(frozen=True, slots=True, eq=False)
class CommandColumns:
    """n events as columns; a row counts only where `plain` says so.

    plain: WRITES of the newest contract with nothing but extents; SESSION_OPEN and HEARTBEAT with none.
    sender: index into `senders`; -1 where not plain.
    numbers: the contract's number fields by name (acknowledged_position is -1 for none).
    extents: how many each event has.
    """

    values: Sequence[bytes | None]
    plain: Mask
    senders: tuple[Sender, ...]
    sender: I64
    numbers: dict[str, I64]
    extents: I64
    _ranges: dict[str, tuple[I64, I64]]

    def extents_of(self, rows: I64) -> ExtentColumns:
        """The extents of those rows, one event after the other. ValueError for a kind that isn't one."""
        offsets, lengths = self._joined("offsets", rows), self._joined("lengths", rows)
        return ExtentColumns.unpack(offsets, lengths, self._kinds(rows))

    def _joined(self, name: str, rows: I64) -> bytes:
        starts, ends = self._ranges[name]
        picked = zip(rows.tolist(), starts[rows].tolist(), ends[rows].tolist(), strict=True)
        values: Any = self.values
        return b"".join([values[row][start:end] for row, start, end in picked])

    def _kinds(self, rows: I64) -> bytes:
        starts, ends = self._ranges["kinds"]
        given = ends[rows] > starts[rows]
        if not given.any():
            return b""
        if given.all():
            return self._joined("kinds", rows)
        writes = bytes([ExtentKind.WRITE])
        return b"".join(
            self._joined("kinds", rows[index : index + 1]) or writes * int(self.extents[row])
            for index, row in enumerate(rows.tolist())
        )


class _Lockstep:
    """n byte strings read at once. `sound`: rows of which everything read so far was in order.

    Of long values (500 extents are 8 KB) only windows are joined, each where the next fields are.
    """

    def __init__(self, values: Sequence[bytes | None]) -> None:
        self._values = [value or b"" for value in values]
        self.sizes = np.fromiter(map(len, self._values), np.int64, len(values))
        self.at = np.zeros(len(values), np.int64)
        self.sound = np.ones(len(values), np.bool_)
        self._whole = int(self.sizes.sum()) <= _WINDOW_BYTES * len(values)
        self._look()

    def _look(self) -> None:
        """Joins what is read next: whole values, or a window of each from where it is."""
        if self._whole:
            pieces = self._values
        else:
            places = zip(self._values, self.at.tolist(), strict=True)
            pieces = [value[at : at + _WINDOW_BYTES] for value, at in places]
        # A row that runs over its end reads its neighbour or the padding, and is found out by `sound`.
        joined = b"".join([*pieces, bytes(2 * _VARINT_BYTES)])
        self._bytes = np.frombuffer(joined, np.uint8)
        self._last = len(joined) - _VARINT_BYTES - 1
        held = self.sizes if self._whole else np.fromiter(map(len, pieces), np.int64, len(pieces))
        begin = np.zeros(len(held), np.int64) if self._whole else self.at
        self._shift = np.cumsum(held) - held - begin
        self._seen = begin + held

    def _places(self) -> I64:
        """Where each row is read next, in the joined bytes."""
        if (
            not self._whole
            and ((self.at + _VARINT_BYTES > self._seen) & (self._seen < self.sizes)).any()
        ):
            self._look()
        return np.minimum(self.at + self._shift, self._last)

    def header(self, expected: bytes) -> None:
        """Every row must begin with those bytes."""
        self.sound &= self.sizes >= len(expected)
        places = self._places()
        for index, byte in enumerate(expected):
            self.sound &= self._bytes[np.minimum(places + index, self._last)] == byte
        self._move(self.at + len(expected))

    def long(self, where: Mask | None = None) -> I64:
        """A zig-zag varint of each row (of those `where`; 0 elsewhere)."""
        places = self._places()
        rows = None if where is None else np.flatnonzero(where)
        at = places if rows is None else places[rows]
        taken = self._bytes[at]
        raw = (taken & 0x7F).astype(np.uint64)
        size = np.ones(len(at), np.int64)
        more = np.flatnonzero(taken & 0x80)
        for index in range(1, _VARINT_BYTES):
            if not len(more):
                break
            taken = self._bytes[at[more] + index]
            raw[more] |= (taken & 0x7F).astype(np.uint64) << np.uint64(7 * index)
            size[more] += 1
            more = more[(taken & 0x80) != 0]
        found = (raw >> np.uint64(1)).astype(np.int64) ^ -(raw & np.uint64(1)).astype(np.int64)
        # The tenth byte holds one bit of 64: what is longer or greater is left to the codec.
        bad = size == _VARINT_BYTES
        if rows is None:
            self.sound &= ~bad
            self._move(self.at + size)
            return found
        self.sound[rows[bad]] = False
        whole, moved = np.zeros(len(self.at), np.int64), self.at.copy()
        whole[rows], moved[rows] = found, self.at[rows] + size
        self._move(moved)
        return whole

    def span(self) -> tuple[I64, I64]:
        """A string or bytes of each row: where it begins and ends in its value."""
        length = self.long()
        self.sound &= (length >= 0) & (length <= self.sizes - self.at)
        begin = self.at
        self._move(begin + np.where(self.sound, length, 0))
        return begin, self.at

    def finish(self) -> None:
        """Every row must end where its value ends."""
        self.sound &= self.at == self.sizes

    def _move(self, at: I64) -> None:
        self.sound &= at <= self.sizes
        self.at = np.minimum(at, self.sizes)


def decode_columns(values: Sequence[bytes | None]) -> CommandColumns:
    """All events at once; those that aren't plain are marked and not looked at any further."""
    header, fields = newest_contract(TrackingCommand)
    step = _Lockstep(values)
    step.sound &= np.fromiter((value is not None for value in values), np.bool_, len(values))
    step.header(header)
    numbers: dict[str, I64] = {}
    ranges: dict[str, tuple[I64, I64]] = {}
    for field in fields:
        _read(step, field["name"], field["type"], numbers, ranges)
    step.finish()
    counts = _count_extents(step, ranges)
    # Of the other kinds extents aren't writes.
    step.sound &= (counts == 0) | (numbers["kind"] == _symbol(fields, CommandKind.WRITES))
    senders, sender = _senders(values, step, ranges["session"][1])
    return CommandColumns(values, step.sound, senders, sender, numbers, counts, ranges)


def _read(
    step: _Lockstep,
    name: str,
    kind: Any,
    numbers: dict[str, I64],
    ranges: dict[str, tuple[I64, I64]],
) -> None:
    """One field of every row. What a plain command doesn't have must be empty: null, or no items."""
    match kind:
        case "string" | "bytes":
            ranges[name] = step.span()
        case "long" | "int":
            numbers[name] = step.long()
        case {"type": "enum", "symbols": symbols}:
            numbers[name] = step.long()
            step.sound &= np.isin(numbers[name], [symbols.index(each.value) for each in _PLAIN])
        case ["null", "long"]:
            given = step.long()
            step.sound &= (given == 0) | (given == 1)
            some = given == 1
            numbers[name] = np.where(some, step.long(some), -1)
        case ["null", _] | {"type": "array"}:
            step.sound &= step.long() == 0
        case _:
            step.sound[:] = False


def _symbol(fields: Sequence[dict[str, Any]], kind: CommandKind) -> int:
    (symbols,) = [field["type"]["symbols"] for field in fields if field["name"] == "kind"]
    return int(symbols.index(kind.value))


def _count_extents(step: _Lockstep, ranges: dict[str, tuple[I64, I64]]) -> I64:
    sizes = {name: ranges[name][1] - ranges[name][0] for name in _COLUMNS}
    counts = sizes["offsets"] // 8
    step.sound &= (sizes["offsets"] % 8 == 0) & (sizes["lengths"] == sizes["offsets"])
    step.sound &= (sizes["kinds"] == 0) | (sizes["kinds"] == counts)
    return np.asarray(counts, np.int64)


def _senders(
    values: Sequence[bytes | None], step: _Lockstep, ends: I64
) -> tuple[tuple[Sender, ...], I64]:
    """The names are the first fields of the contract: rows whose first bytes are alike have one sender."""
    found: dict[bytes, int] = {}
    senders: list[Sender] = []
    sender = np.full(len(values), -1, np.int64)
    rows = np.flatnonzero(step.sound)
    numbers = []
    for row, end in zip(rows.tolist(), ends[rows].tolist(), strict=True):
        prefix = values[row][_HEADER_BYTES:end]  # type: ignore[index]
        number = found.get(prefix)
        if number is None:
            number = found[prefix] = _name(prefix, senders)
        numbers.append(number)
    sender[rows] = numbers
    step.sound &= sender >= 0
    return tuple(senders), sender


def _name(prefix: bytes, senders: list[Sender]) -> int:
    """The index of a new sender; -1 where a name isn't UTF-8."""
    step = _Lockstep([prefix])
    try:
        names = [
            prefix[int(begin[0]) : int(end[0])].decode()
            for begin, end in (step.span() for _ in _NAMES)
        ]
    except UnicodeDecodeError:
        return -1
    senders.append(Sender(*names))
    return len(senders) - 1
