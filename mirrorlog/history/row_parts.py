"""The rows of one command: of those that the columns of codec/command_columns.py don't hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import (
    CommandKind,
    ForkOutcome,
    RejectReason,
    TrackingCommand,
)
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.extraction import KINDS_WITH_OUTCOMES, command_extents, command_forks
from mirrorlog.domain.recorded_writes import RecordedWrites
from mirrorlog.domain.volume_states import transition
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput
from mirrorlog.history.batches import Forks
from mirrorlog.history.definition import FORK_OUTCOMES, RowKind
from mirrorlog.ports.streams import Message

KINDS: Final = tuple(RowKind)
"""The dictionary of the column `kind`. The first three are numbered as ExtentKind is."""
KIND_CODES: Final[Mapping[RowKind, int]] = {kind: code for code, kind in enumerate(KINDS)}
EVENT_KINDS: Final[Mapping[CommandKind, RowKind]] = {
    CommandKind.BARRIER: RowKind.BARRIER,
    CommandKind.HEARTBEAT: RowKind.HEARTBEAT,
    CommandKind.SESSION_OPEN: RowKind.SESSION_OPEN,
    CommandKind.SESSION_CLOSE: RowKind.SESSION_CLOSE,
    CommandKind.RESIZE: RowKind.RESIZE,
    CommandKind.RETIRE: RowKind.RETIRE,
    CommandKind.NEW_GENERATION: RowKind.NEW_GENERATION,
    CommandKind.PROMOTE: RowKind.PROMOTE,
    CommandKind.UNKNOWN: RowKind.UNKNOWN,
}
"""The kinds of command that have a row of their own, before the rows of their extents."""


@dataclass(frozen=True, slots=True, eq=False)
class CommandRows:
    """The m rows of one event, at least one.

    command: None if the event is no command; only its bytes are in the topic then.
    has_extent: bool, m; offsets, lengths: u64, m, not clipped to the volume, 0 without an extent.
    kinds: i32, m, codes of KINDS.
    forks: of the rows with an extent, in their order; None if the command names no outcome.
    reason: why the command, or a part of it, is refused, as far as the command itself says so.
    """

    message: Message
    command: TrackingCommand | None
    has_extent: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.uint64]
    lengths: npt.NDArray[np.uint64]
    kinds: npt.NDArray[np.int32]
    forks: tuple[Forks, ...] | None = None
    reason: RejectReason | None = None

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.kinds)

    def times_us(self, name: str) -> npt.NDArray[np.int64]:
        """Return the column `first_at_us` or `last_at_us` of the rows, i64; 0 without a command.

        Of recorded writes each row has its own time. The rows of other commands share theirs.
        """
        if isinstance(self.command, RecordedWrites):
            return self.command.times_us
        at_us = 0 if self.command is None else getattr(self.command, name)
        return np.full(self.rows, at_us, np.int64)


def rows_of_message(message: Message, volume: Volume) -> CommandRows | None:
    """Return the rows of one event of the volume's partition; None if it is of another volume.

    An event that is no command is the volume's if its key names the volume.
    """
    command = None
    if message.value is not None:
        try:
            command = decode(message.value, TrackingCommand)
        except BadInput:
            command = None
    if command is None:
        if message.key != volume.volume.encode():
            return None
        return _undecodable(message)
    if command.volume != volume.volume:
        return None
    return _rows_of_command(message, command, volume)


def _rows_of_command(message: Message, command: TrackingCommand, volume: Volume) -> CommandRows:
    """Return the row of the command's own kind, those of its extents, and one of what is refused.

    A command without any of them has one row, EMPTY.
    """
    named = command_extents(command, volume.as_of(message.position), message.position)
    before = [EVENT_KINDS[command.kind]] if command.kind in EVENT_KINDS else []
    behind = [RowKind.REFUSED] if named.malformed else []
    if not before and not behind and not len(named.extents):
        behind = [RowKind.EMPTY]
    count, first = len(named.extents), len(before)
    total = first + count + len(behind)
    offsets, lengths = np.zeros(total, np.uint64), np.zeros(total, np.uint64)
    offsets[first : first + count] = named.extents.offsets
    lengths[first : first + count] = named.extents.lengths
    kinds = np.zeros(total, np.int32)
    kinds[:first] = [KIND_CODES[kind] for kind in before]
    kinds[first : first + count] = _extent_kinds(command, named.extents)
    kinds[first + count :] = [KIND_CODES[kind] for kind in behind]
    has_extent = np.zeros(total, np.bool_)
    has_extent[first : first + count] = True
    forks = _forks(command, count)
    reason = (
        RejectReason.MALFORMED_COMMAND if named.malformed else _refused(message, command, volume)
    )
    return CommandRows(message, command, has_extent, offsets, lengths, kinds, forks, reason)


def _undecodable(message: Message) -> CommandRows:
    nothing = np.zeros(1, np.uint64)
    kinds = np.array([KIND_CODES[RowKind.REFUSED]], np.int32)
    reason = RejectReason.UNDECODABLE
    return CommandRows(message, None, np.zeros(1, np.bool_), nothing, nothing, kinds, reason=reason)


def _extent_kinds(
    command: TrackingCommand, extents: ExtentColumns
) -> npt.NDArray[np.int32] | npt.NDArray[np.uint8] | int:
    """Return the codes of the extents' kinds. Of writes alone it is known what they did."""
    if command.kind not in (CommandKind.WRITES, CommandKind.RAW):
        return KIND_CODES[RowKind.DIRTY]
    return KIND_CODES[RowKind.WRITE] if extents.kinds is None else extents.kinds


def _forks(command: TrackingCommand, extents: int) -> tuple[Forks, ...] | None:
    """Return the outcomes that the host named of each extent; None if they mean nothing."""
    if not command.forks or command.raw or command.kind not in KINDS_WITH_OUTCOMES:
        return None
    if len(command.extents) != extents or command_forks(command, is_whole=True).malformed:
        return None
    has_all = bytes([ForkOutcome.HAS]) * extents
    by_site = [
        [(fork.site, _outcome_name(outcome)) for outcome in fork.outcomes or has_all]
        for fork in command.forks
    ]
    return tuple(zip(*by_site, strict=True))


def _outcome_name(outcome: int) -> str:
    """Return the name of an outcome; a number that nobody knows counts as missed."""
    return FORK_OUTCOMES[outcome if outcome < len(FORK_OUTCOMES) else ForkOutcome.MISSED]


def _refused(message: Message, command: TrackingCommand, volume: Volume) -> RejectReason | None:
    """Return why the volume's state refuses the command; None if it doesn't, or nobody knows.

    The description says nothing of what it was before its log began.
    """
    if message.position <= volume.origin_position or command.kind not in EVENT_KINDS:
        return None
    refusal = transition(volume, command, message.position).refusal
    return None if refusal is None else refusal.reason
