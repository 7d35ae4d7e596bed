"""Bulk fold: a volume's plain commands are folded together, without looking at each of them.

The commands of a volume qualify if all of them are plain (`CommandColumns.plain`), inside the
volume, of its generation, and continue their sessions without a gap. A volume is folded in bulk as
a whole or not at all: if one of its commands in the batch doesn't qualify, every one is checked
alone (`response.py`). Both ways plan the same rows and statuses
(tests/property/streams/test_bulk_fold.py).

This is the hot path of the node: what it does is per volume or a numpy step over all extents, never
per command or per extent (docs/decisions/batches-and-columns.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mirrorlog.codec.command_columns import I64, CommandColumns, rows_by_sender
from mirrorlog.domain.commands import LEFT_OUT_SESSIONS, AcceptedBatch, StatusCode
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.volumes import Volume, VolumeState
from mirrorlog.streams.fold.named_sessions import FEW_SESSIONS
from mirrorlog.streams.fold.response import NAME_MAX_CHARACTERS
from mirrorlog.streams.fold.session_order import SessionOrder, session_order
from mirrorlog.tracking_log.heads import SessionHead, VolumeHead

_ANSWERED_COMMANDS_MAX: Final = 10_000
"""Commands that one AcceptedBatch answers: 160 KB, far below the limit of 1 MiB for a message."""
_ACCEPTED: Final = SessionOrder(StatusCode.ACCEPTED)


@dataclass(frozen=True, slots=True, eq=False)
class SessionRun:
    """The commands of one session for one volume in a batch, by column.

    head: the session's head after them.
    positions, sequences: i64, one for each command, ascending.
    """

    head: SessionHead
    positions: I64
    sequences: I64


class _FirstCommand(NamedTuple):
    """What decides how a session's first command in a batch continues it (SessionCommand).

    acknowledged_position: -1, the position before the first, if it knew of none.
    """

    host: str
    session: str
    sequence: int
    acknowledged_position: int


@dataclass(frozen=True, slots=True, eq=False)
class BulkFold:
    """The commands of one volume in a batch, folded together.

    extents: of all commands, not clipped: they lie inside the volume.
    sessions: in the order of their first command.
    commands, hosts, first_at_us, last_at_us: of the commands that have extents.
    """

    volume: Volume
    extents: ExtentColumns
    sessions: tuple[SessionRun, ...]
    commands: int
    hosts: tuple[str, ...]
    first_at_us: int
    last_at_us: int

    def accepted(self, partition: int, *, now_us: int) -> list[AcceptedBatch]:
        """Return the replies to all commands, in events of bounded size."""
        return [
            AcceptedBatch(
                partition=partition,
                at_us=now_us,
                volume=self.volume.volume,
                host=run.head.host,
                session=run.head.session,
                positions=run.positions[start : start + _ANSWERED_COMMANDS_MAX],
                sequences=run.sequences[start : start + _ANSWERED_COMMANDS_MAX],
            )
            for run in self.sessions
            for start in range(0, len(run.positions), _ANSWERED_COMMANDS_MAX)
        ]

    def session_heads(self, before: VolumeHead | None) -> dict[str, SessionHead]:
        """Return the heads of the volume's sessions after the batch, by name.

        before: the volume's head before the batch.
        """
        heads = {head.session: head for head in before.sessions} if before else {}
        return heads | {run.head.session: run.head for run in self.sessions}


def fold_in_bulk(
    columns: CommandColumns,
    positions: I64,
    partition: int,
    volumes: Mapping[str, Volume],
    heads: Mapping[str, VolumeHead],
    alone: Iterable[str],
) -> tuple[list[BulkFold], npt.NDArray[np.bool_]]:
    """Fold the volumes of a batch that qualify; return their folds and a mask of their rows.

    columns, positions: of the batch's events, row by row.
    volumes: the known descriptions. heads: those that the table holds.
    alone: volumes that don't qualify, as those that a command names which isn't plain.
    """
    senders_of: dict[str, list[int]] = {}
    for number, sender in enumerate(columns.senders):
        senders_of.setdefault(sender.volume, []).append(number)
    for name in alone:
        senders_of.pop(name, None)
    folds: list[BulkFold] = []
    folded = np.zeros(len(positions), np.bool_)
    rows_of = rows_by_sender(columns)
    first_position = int(positions[0])
    for name, senders in senders_of.items():
        volume, head = volumes.get(name), heads.get(name)
        if volume is None or not _qualifies(
            volume, head, partition=partition, first_position=first_position
        ):
            continue
        session_rows = [rows_of[sender] for sender in senders]
        rows = np.sort(np.concatenate(session_rows))
        fold = _fold_volume(columns, positions, volume, head, session_rows, rows)
        if fold is not None:
            folds.append(fold)
            folded[rows] = True
    return folds, folded


def _qualifies(
    volume: Volume, head: VolumeHead | None, *, partition: int, first_position: int
) -> bool:
    """Return whether the volume's commands in a batch from `first_position` on may qualify.

    A volume with forks doesn't: what each site has missed is folded one command at a time. Nor does
    one that was described in the batch or later (a replay): each of its commands is judged by the
    volume as it was at the command.
    """
    return (
        volume.partition == partition
        and volume.state is VolumeState.ACTIVE
        and not (head is not None and head.forks)
        and first_position > volume.described_position
    )


def _fold_volume(
    columns: CommandColumns,
    positions: I64,
    volume: Volume,
    head: VolumeHead | None,
    session_rows: Sequence[I64],
    rows: I64,
) -> BulkFold | None:
    """Return the fold of the commands in `rows`, None if one of them doesn't qualify.

    session_rows: the same rows by session.
    """
    sessions = _session_runs(columns, positions, volume, head, session_rows)
    if sessions is None:
        return None
    try:
        extents = columns.extents_of(rows)
    except ValueError:
        return None
    if not _are_inside(extents, volume.size_bytes):
        return None
    with_extents = rows[columns.extents[rows] > 0]
    numbers = columns.numbers
    senders = set(columns.sender[with_extents].tolist())
    return BulkFold(
        volume,
        extents,
        sessions,
        commands=len(with_extents),
        hosts=tuple(sorted({columns.senders[sender].host for sender in senders})),
        first_at_us=int(numbers["first_at_us"][with_extents].min()) if len(with_extents) else 0,
        last_at_us=int(numbers["last_at_us"][with_extents].max()) if len(with_extents) else 0,
    )


def _are_inside(extents: ExtentColumns, size_bytes: int) -> bool:
    """Return whether each extent lies inside a volume of that size."""
    offsets, lengths = extents.offsets, extents.lengths
    if not len(offsets) or int(offsets.max()) + int(lengths.max()) <= size_bytes:
        return True  # The usual case: two steps over all extents instead of five.
    size = np.uint64(size_bytes)
    return bool(((offsets <= size) & (lengths <= size - np.minimum(offsets, size))).all())


def _session_runs(
    columns: CommandColumns,
    positions: I64,
    volume: Volume,
    head: VolumeHead | None,
    session_rows: Sequence[I64],
) -> tuple[SessionRun, ...] | None:
    """Return each session's run, in the order of their first command.

    Return None if a session doesn't simply continue, if two sessions share a host or a name, if two
    hosts write to a volume that isn't shared: one of them has taken it over (session_order), or if
    there may be too many sessions for the head.
    """
    if len(session_rows) > 1 and not volume.shared:
        return None
    known = {session.session: session for session in head.sessions} if head else {}
    if len(known) + len(session_rows) > FEW_SESSIONS and any(
        columns.senders[int(columns.sender[rows[0]])].session not in known for rows in session_rows
    ):
        return None
    runs: list[SessionRun] = []
    hosts: set[str] = set()
    names: set[str] = set()
    for rows in sorted(session_rows, key=lambda rows: int(rows[0])):
        sender = columns.senders[int(columns.sender[rows[0]])]
        if (
            sender.generation != volume.generation
            or max(len(sender.host), len(sender.session)) > NAME_MAX_CHARACTERS
            or sender.host in hosts
            or sender.session in names
            or sender.session == LEFT_OUT_SESSIONS
        ):
            return None
        run = _session_run(columns, positions, known, rows, volume)
        if run is None:
            return None
        runs.append(run)
        hosts.add(run.head.host)
        names.add(sender.session)
    return tuple(runs)


def _session_run(
    columns: CommandColumns,
    positions: I64,
    known: Mapping[str, SessionHead],
    rows: I64,
    volume: Volume,
) -> SessionRun | None:
    """Return the run of one session's commands, None if they don't simply continue the session.

    They do if the first one is accepted, each further one has the next sequence, and each knew of
    the session's close if there was one. If the volume is authenticated, its head must know the
    session, and each command an acknowledged position: other commands may be bytes that were sent
    before (authenticity.repeat_reason).
    """
    sequences = columns.numbers["sequence"][rows]
    if sequences[0] < 0 or (len(sequences) > 1 and not (np.diff(sequences) == 1).all()):
        return None
    acknowledged = columns.numbers["acknowledged_position"][rows]
    if (acknowledged >= positions[rows]).any():
        return None  # the history broke: known_positions.knows_more says how
    first_position = int(positions[rows[0]])
    sender = columns.senders[int(columns.sender[rows[0]])]
    first = _FirstCommand(sender.host, sender.session, int(sequences[0]), int(acknowledged[0]))
    if session_order(known, first, first_position, shared=volume.shared) != _ACCEPTED:
        return None
    before = known.get(sender.session)
    if volume.is_authenticated and (before is None or (acknowledged < 0).any()):
        return None
    if before is not None and (
        # The table holds the command already (a replay), or one of them didn't know of the close.
        first_position <= max(before.last_position, before.closed_position)
        or before.closed_position > int(acknowledged.min())
    ):
        return None
    head = SessionHead(
        session=sender.session,
        host=sender.host,
        opened_position=first_position,
        last_position=int(positions[rows[-1]]),
        acknowledged_position=int(acknowledged.max()),
        last_sequence=int(sequences[-1]),
        last_at_us=int(columns.numbers["last_at_us"][rows].max()),
    )
    return SessionRun(head if before is None else before.merged(head), positions[rows], sequences)
