"""The smooth way: of a volume whose commands are all plain, in sequence and inside, no command is looked at alone.

What it plans is what the way one at a time plans (tests/property/streams/test_bulk_fold.py). A volume takes
it as a whole or not at all: where anything of it has something to say, every command of it goes the other way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mirrorlog.codec.command_columns import I64, CommandColumns
from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import AcceptedBatch, StatusCode, TrackingCommand
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.volumes import Volume, VolumeState
from mirrorlog.streams.fold.session_order import SessionOrder, session_order
from mirrorlog.tracking_log.heads import SessionHead, VolumeHead

_NAME_AT_MOST = 255
_ANSWERED_AT_MOST = 10_000
"""Commands that one event answers: 160 KB, far below a message of 1 MiB."""


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """What one session said of the volume: n commands, by column. head: what the log knows of it then."""

    head: SessionHead
    positions: I64
    sequences: I64


@dataclass(frozen=True, slots=True, eq=False)
class Smooth:
    """The commands of one volume, folded together. sessions: those that spoke, in the order of their first command.

    commands, hosts, first_at_us and last_at_us are of the commands with extents.
    """

    volume: Volume
    extents: ExtentColumns
    sessions: tuple[Spoken, ...]
    commands: int
    hosts: tuple[str, ...]
    first_at_us: int
    last_at_us: int

    def accepted(self, partition: int, now_us: int) -> list[AcceptedBatch]:
        """The replies: events of bounded size."""
        return [
            AcceptedBatch(
                partition=partition,
                at_us=now_us,
                volume=self.volume.volume,
                host=each.head.host,
                session=each.head.session,
                positions=each.positions[start : start + _ANSWERED_AT_MOST],
                sequences=each.sequences[start : start + _ANSWERED_AT_MOST],
            )
            for each in self.sessions
            for start in range(0, len(each.positions), _ANSWERED_AT_MOST)
        ]


def smooth_volumes(
    columns: CommandColumns,
    positions: I64,
    partition: int,
    described: Mapping[str, Volume],
    heads: Mapping[str, VolumeHead],
    spoken_of: Iterable[str],
) -> tuple[list[Smooth], npt.NDArray[np.bool_]]:
    """The volumes that can take the smooth way, and which rows are theirs. spoken_of: those that other commands name."""
    by_volume: dict[str, list[int]] = {}
    for number, sender in enumerate(columns.senders):
        by_volume.setdefault(sender.volume, []).append(number)
    for name in spoken_of:
        by_volume.pop(name, None)
    ways: list[Smooth] = []
    taken = np.zeros(len(positions), np.bool_)
    rows_of = _rows_by_sender(columns)
    for name, numbers in by_volume.items():
        volume = described.get(name)
        if (
            volume is None
            or volume.partition != partition
            or volume.state is not VolumeState.ACTIVE
        ):
            continue
        if (
            name in heads and heads[name].forks
        ):  # what each site has missed is folded one command at a time
            continue
        if (
            positions[0] <= volume.described_position
        ):  # read again: each is judged by the volume as it was then
            continue
        rows = np.sort(np.concatenate([rows_of[number] for number in numbers]))
        way = _way(
            columns,
            positions,
            volume,
            heads.get(name),
            [rows_of[number] for number in numbers],
            rows,
        )
        if way is not None:
            ways.append(way)
            taken[rows] = True
    return ways, taken


def _rows_by_sender(columns: CommandColumns) -> list[I64]:
    """The rows of each sender, ascending."""
    rows = np.flatnonzero(columns.plain)
    order = rows[np.argsort(columns.sender[rows], kind="stable")]
    counts = np.bincount(columns.sender[rows], minlength=len(columns.senders))
    return np.split(order, np.cumsum(counts)[:-1]) if len(columns.senders) else []


def _way(
    columns: CommandColumns,
    positions: I64,
    volume: Volume,
    head: VolumeHead | None,
    rows_of_sessions: list[I64],
    rows: I64,
) -> Smooth | None:
    """The volume's commands folded together; None where one of them has something to say."""
    sessions = _sessions(columns, positions, volume, head, rows_of_sessions)
    if sessions is None:
        return None
    try:
        extents = columns.extents_of(rows)
    except ValueError:
        return None
    size = np.uint64(volume.size_bytes)
    if not (
        (extents.offsets <= size) & (extents.lengths <= size - np.minimum(extents.offsets, size))
    ).all():
        return None
    named = rows[columns.extents[rows] > 0]
    numbers = columns.numbers
    return Smooth(
        volume,
        extents,
        sessions,
        commands=len(named),
        hosts=tuple(
            sorted({columns.senders[each].host for each in set(columns.sender[named].tolist())})
        ),
        first_at_us=int(numbers["first_at_us"][named].min()) if len(named) else 0,
        last_at_us=int(numbers["last_at_us"][named].max()) if len(named) else 0,
    )


def _sessions(
    columns: CommandColumns,
    positions: I64,
    volume: Volume,
    head: VolumeHead | None,
    rows_of_sessions: list[I64],
) -> tuple[Spoken, ...] | None:
    """What each session said; None where one isn't simply going on, or two are of one host."""
    known = {each.session: each for each in head.sessions} if head else {}
    found: list[Spoken] = []
    for rows in sorted(rows_of_sessions, key=lambda each: int(each[0])):
        sender = columns.senders[int(columns.sender[rows[0]])]
        sequences = columns.numbers["sequence"][rows]
        names = (sender.host, sender.session)
        if (
            sender.generation != volume.generation
            or max(map(len, names)) > _NAME_AT_MOST
            or any(
                sender.host == each.head.host or sender.session == each.head.session
                for each in found
            )
            or sequences[0] < 0
            or (len(sequences) > 1 and not (np.diff(sequences) == 1).all())
        ):
            return None
        first = decode(columns.values[int(rows[0])] or b"", TrackingCommand)
        if session_order(known, first, int(positions[rows[0]])) != SessionOrder(
            StatusCode.ACCEPTED
        ) or _replayed(known, sender.session, int(positions[rows[0]])):
            return None
        said = SessionHead(
            session=sender.session,
            host=sender.host,
            opened_position=int(positions[rows[0]]),
            last_position=int(positions[rows[-1]]),
            acknowledged_position=int(columns.numbers["acknowledged_position"][rows].max()),
            last_sequence=int(sequences[-1]),
            last_at_us=int(columns.numbers["last_at_us"][rows].max()),
        )
        before = known.get(sender.session)
        if before is not None and before.closed_position > int(
            columns.numbers["acknowledged_position"][rows].min()
        ):
            return None  # some of them may not know of the close
        found.append(
            Spoken(said if before is None else before.merged(said), positions[rows], sequences)
        )
    return tuple(found)


def _replayed(known: Mapping[str, SessionHead], session: str, position: int) -> bool:
    """Whether the table knows the command already: then each is looked at alone."""
    mine = known.get(session)
    return mine is not None and position <= max(mine.last_position, mine.closed_position)


def heads_after(known: VolumeHead | None, way: Smooth) -> dict[str, SessionHead]:
    """The volume's sessions after the batch."""
    sessions = {each.session: each for each in known.sessions} if known else {}
    return sessions | {each.head.session: each.head for each in way.sessions}
