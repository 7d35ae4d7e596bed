"""Tracking commands become rows: whole batches of messages by numpy columns.

The extents are those that the node takes of a command (domain/extraction.py): raw commands are
interpreted, and an extent that reaches outside the volume is clipped. An extent that lies outside
it, whole, is a row of kind REFUSED with its address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mirrorlog.codec.command_columns import CommandColumns, decode_columns
from mirrorlog.codec.events import newest_contract
from mirrorlog.domain.commands import CommandKind, RejectReason, TrackingCommand
from mirrorlog.domain.extraction import begin_inside, lie_inside
from mirrorlog.domain.recorded_writes import RecordedWrites
from mirrorlog.domain.volumes import Volume
from mirrorlog.history.batches import (
    Column,
    DictionaryColumn,
    Forks,
    HistoryBatch,
    NumberColumn,
    empty_batch,
    encode_numbers,
    encode_values,
    join_batches,
)
from mirrorlog.history.definition import COLUMNS, RowClock, RowKind
from mirrorlog.history.row_parts import (
    EVENT_KINDS,
    KIND_CODES,
    KINDS,
    CommandRows,
    rows_of_message,
)
from mirrorlog.ports.streams import Message

I64: TypeAlias = npt.NDArray[np.int64]
_KIND_NAMES: Final = tuple(kind.value for kind in KINDS)


@dataclass(frozen=True, slots=True, eq=False)
class _Commands:
    """n commands, their m rows in the same order, and what the rows of a command share.

    messages: of the commands, n. counts: i64, n, the number of rows of each.
    offsets, lengths, has_extent, kinds: m, as in CommandRows. forks: m, null without an outcome.
    shared: the columns that all rows of a command share, each of length n.
    own_times: by name, columns of length m for the times of recorded writes, which each row has for
        itself; empty if no command is a recording's.
    """

    messages: Sequence[Message]
    counts: I64
    offsets: npt.NDArray[np.uint64]
    lengths: npt.NDArray[np.uint64]
    has_extent: npt.NDArray[np.bool_]
    kinds: npt.NDArray[np.int32]
    forks: DictionaryColumn[Forks]
    shared: Mapping[str, Column]
    own_times: Mapping[str, Column] = field(default_factory=dict)


def command_rows(messages: Sequence[Message], volume: Volume, *, through: int) -> HistoryBatch:
    """Return the volume's rows of these messages of its partition, in order.

    messages: by position. through: of the batch.

    Messages of other volumes have no rows, nor have the heartbeats that a session sends for all its
    volumes at once. The status of each row is null.
    """
    columns = decode_columns([message.value for message in messages])
    is_mine = np.array([sender.volume == volume.volume for sender in columns.senders], np.bool_)
    mine = np.flatnonzero(columns.plain)
    mine = mine[is_mine[columns.sender[mine]]] if len(mine) else mine
    single = np.flatnonzero(~columns.plain)
    batches = []
    try:
        if len(mine):
            plain = _plain_commands(columns, mine, [messages[row] for row in mine.tolist()])
            batches.append(_batch(plain, volume, through))
    except ValueError:  # an extent of one of them has an unknown kind
        single = np.union1d(single, mine)
    read = (rows_of_message(messages[row], volume) for row in single.tolist())
    if others := [rows for rows in read if rows is not None]:
        batches.append(_batch(_single_commands(others), volume, through))
    if len(batches) < 2:
        return batches[0] if batches else empty_batch(through)
    joined = join_batches(batches)
    return joined.take(np.argsort(joined.numbers("position").values, kind="stable"))


def _plain_commands(columns: CommandColumns, mine: I64, messages: Sequence[Message]) -> _Commands:
    """Return the plain commands in the rows `mine`, whose messages are given.

    Raise ValueError for an unknown kind of extent.
    """
    named = columns.extents[mine]
    counts = np.maximum(named, 1)
    extents = columns.extents_of(mine[named > 0])
    has_extent = np.repeat(named > 0, counts)
    kinds = np.repeat(_plain_kinds()[columns.numbers["kind"][mine]], counts)
    kinds[has_extent] = 0 if extents.kinds is None else extents.kinds
    offsets, lengths = np.zeros(len(kinds), np.uint64), np.zeros(len(kinds), np.uint64)
    offsets[has_extent], lengths[has_extent] = extents.offsets, extents.lengths
    sequence = columns.numbers["sequence"][mine]
    nothing: DictionaryColumn[str] = DictionaryColumn(np.full(len(mine), -1, np.int32), ())
    shared: dict[str, Column] = {
        name: encode_values([getattr(sender, name) for sender in columns.senders]).take(
            columns.sender[mine]
        )
        for name in ("host", "session", "generation")
    }
    shared |= dict.fromkeys(("note", "new_generation", "reason"), nothing)
    shared |= {
        "sequence": NumberColumn(np.maximum(sequence, 0), sequence >= 0),
        "first_at_us": NumberColumn(columns.numbers["first_at_us"][mine]),
        "last_at_us": NumberColumn(columns.numbers["last_at_us"][mine]),
        "size_bytes": encode_numbers("size_bytes", [None] * len(mine)),
        "clock": DictionaryColumn(np.zeros(len(mine), np.int32), (RowClock.HOST.value,)),
    }
    no_forks: DictionaryColumn[Forks] = DictionaryColumn(np.full(len(kinds), -1, np.int32), ())
    return _Commands(messages, counts, offsets, lengths, has_extent, kinds, no_forks, shared)


@cache
def _plain_kinds() -> npt.NDArray[np.int32]:
    """Return, by the number of a command's kind on the wire, the code of its row without an extent.

    Only those that a plain command may have count.
    """
    _, fields = newest_contract(TrackingCommand)
    (symbols,) = [field["type"]["symbols"] for field in fields if field["name"] == "kind"]
    kinds = [EVENT_KINDS.get(CommandKind(symbol), RowKind.EMPTY) for symbol in symbols]
    return np.array([KIND_CODES[kind] for kind in kinds], np.int32)


def _single_commands(rows: Sequence[CommandRows]) -> _Commands:
    """Return the commands that were decoded one by one; at least one."""
    commands = [one.command for one in rows]
    shared: dict[str, Column] = {
        name: encode_values([None if c is None else getattr(c, name) for c in commands])
        for name in ("host", "session", "generation", "note", "new_generation")
    }
    shared["reason"] = encode_values([one.reason and one.reason.value for one in rows])
    for name in ("first_at_us", "last_at_us"):
        times = [None if c is None else getattr(c, name) for c in commands]
        shared[name] = encode_numbers(name, times)
    sequences = [None if c is None or c.sequence < 0 else c.sequence for c in commands]
    shared["sequence"] = encode_numbers("sequence", sequences)
    shared["clock"] = encode_values([_clock(command) for command in commands])
    sizes = [c.size_bytes if c and c.kind is CommandKind.RESIZE else None for c in commands]
    shared["size_bytes"] = encode_numbers("size_bytes", sizes)
    return _Commands(
        [one.message for one in rows],
        np.array([one.rows for one in rows], np.int64),
        np.concatenate([one.offsets for one in rows]),
        np.concatenate([one.lengths for one in rows]),
        np.concatenate([one.has_extent for one in rows]),
        np.concatenate([one.kinds for one in rows]),
        _fork_column(rows),
        shared,
        _own_times(rows),
    )


def _clock(command: TrackingCommand | None) -> str | None:
    """Return whose clock a command's times are of; None if the event is no command."""
    if command is None:
        return None
    is_recorded = isinstance(command, RecordedWrites)
    return (RowClock.RECORDING if is_recorded else RowClock.HOST).value


def _own_times(rows: Sequence[CommandRows]) -> dict[str, Column]:
    """Return the times of each row, if a command among these has times of its own."""
    if not any(isinstance(one.command, RecordedWrites) for one in rows):
        return {}
    return {
        name: NumberColumn(
            np.concatenate([one.times_us(name) for one in rows]),
            _unless_all(np.repeat([one.command is not None for one in rows], counts)),
        )
        for counts in [[one.rows for one in rows]]
        for name in ("first_at_us", "last_at_us")
    }


def _fork_column(rows: Sequence[CommandRows]) -> DictionaryColumn[Forks]:
    """Return the outcomes of all rows of these commands."""
    if all(one.forks is None for one in rows):
        return DictionaryColumn(np.full(sum(one.rows for one in rows), -1, np.int32), ())
    forks: list[Forks | None] = []
    for one in rows:
        outcomes = iter(one.forks or ())
        forks += [next(outcomes, None) if has else None for has in one.has_extent.tolist()]
    return encode_values(forks)


def _batch(commands: _Commands, volume: Volume, through: int) -> HistoryBatch:
    """Return the rows of these commands, their extents clipped to the volume."""
    counts, rows = commands.counts, len(commands.kinds)
    command_of_row = np.repeat(np.arange(len(counts)), counts)
    positions = np.array([message.position for message in commands.messages], np.int64)
    appended = np.array([message.at_us for message in commands.messages], np.int64)
    by_broker = np.array([message.by_broker for message in commands.messages], np.bool_)
    begins = np.cumsum(counts) - counts
    lengths, is_outside = _clipped(commands, positions, volume)
    kinds = np.where(is_outside, KIND_CODES[RowKind.REFUSED], commands.kinds).astype(np.int32)
    shared = {name: column.take(command_of_row) for name, column in commands.shared.items()}
    columns: dict[str, Column] = {
        **shared,
        "volume": DictionaryColumn(np.zeros(rows, np.int32), (volume.volume,)),
        "partition": NumberColumn(np.full(rows, volume.partition, np.int32)),
        "position": NumberColumn(positions[command_of_row].astype(np.uint64)),
        "extent": NumberColumn((np.arange(rows) - begins[command_of_row]).astype(np.uint32)),
        "offset": NumberColumn(commands.offsets, _unless_all(commands.has_extent)),
        "length": NumberColumn(lengths, _unless_all(commands.has_extent)),
        "kind": DictionaryColumn(kinds, _KIND_NAMES),
        "appended_at_us": NumberColumn(
            np.where(by_broker, appended, 0)[command_of_row],
            _unless_all(by_broker[command_of_row]),
        ),
        "status": DictionaryColumn(np.full(rows, -1, np.int32), ()),
        "forks": commands.forks,
        **commands.own_times,
    }
    batch = HistoryBatch({column.name: columns[column.name] for column in COLUMNS}, through)
    return batch.with_column("reason", _row_reasons(kinds, is_outside, batch.texts("reason")))


def _clipped(
    commands: _Commands, positions: I64, volume: Volume
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Return the lengths inside the volume, and which extents are no addresses of it.

    The rules are those of domain.extraction.extract, which the node follows, by the size that the
    volume had at each command. An extent that is no address keeps its length.
    """
    offsets, lengths = commands.offsets, commands.lengths
    earlier = volume.earlier_sizes
    ends = np.array([size.before_position for size in earlier], np.int64)
    known = np.array([*(size.size_bytes for size in earlier), volume.size_bytes], np.uint64)
    # As Volume.size_at says, of all commands together.
    sizes = np.repeat(known[np.searchsorted(ends, positions, side="right")], commands.counts)
    inside = lie_inside(offsets, lengths, sizes)
    if inside.all():
        return lengths, ~inside
    is_clipped = ~inside & begin_inside(offsets, lengths, sizes)
    clipped = np.where(is_clipped, sizes - np.minimum(offsets, sizes), lengths)
    return clipped, ~inside & ~is_clipped


def _row_reasons(
    kinds: npt.NDArray[np.int32],
    is_outside: npt.NDArray[np.bool_],
    reasons: DictionaryColumn[str],
) -> DictionaryColumn[str]:
    """Return the reason of each row: of REFUSED rows, and of the commands that the node refuses."""
    without_extent = kinds >= KIND_CODES[RowKind.EMPTY]
    codes = np.where(without_extent & ~is_outside, reasons.codes, -1).astype(np.int32)
    dictionary = reasons.dictionary
    if is_outside.any():
        out_of_range = RejectReason.OUT_OF_RANGE.value
        if out_of_range not in dictionary:
            dictionary = (*dictionary, out_of_range)
        codes[is_outside] = dictionary.index(out_of_range)
    return DictionaryColumn(codes, dictionary)


def _unless_all(known: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_] | None:
    """Return the mask; None if it is True everywhere."""
    return None if known.all() else known
