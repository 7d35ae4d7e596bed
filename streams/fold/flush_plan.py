"""Log: answers of one partition are folded into records, heads and a watermark. Pure: planned here, executed elsewhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from mirrorlog.domain.bitmaps import BitMap64, touched, union, zeroed
from mirrorlog.domain.block_arrays import blocks_of
from mirrorlog.domain.commands import (
    AcceptedBatch,
    CommandKind,
    CommandStatus,
    Quarantined,
    StatusCode,
    TrackingCommand,
)
from mirrorlog.domain.extents import Extent, ExtentColumns
from mirrorlog.domain.extraction import MAX_FORKS
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.streams import Message
from mirrorlog.streams.fold.bulk_fold import Smooth, heads_after
from mirrorlog.streams.fold.response import CommandResponse, speaks_for_all
from mirrorlog.streams.fold.session_order import SessionOrder, session_order
from mirrorlog.tracking_log.heads import (
    ForkHead,
    SessionBeat,
    SessionHead,
    VolumeHead,
    Watermark,
    session_head,
    updates_session,
)
from mirrorlog.tracking_log.keys import missed_log
from mirrorlog.tracking_log.record_parts import PackedRecord, pack_record, split_record
from mirrorlog.tracking_log.records import LogRecord

_CLOSED_SESSIONS_KEPT: Final = 8


@dataclass(frozen=True, slots=True)
class FlushPlan:
    """Everything that one flush of one partition writes, in the order in which it must be acknowledged."""

    partition: int
    first: int
    last: int
    records: tuple[LogRecord, ...]
    heads: tuple[VolumeHead, ...]
    beats: tuple[SessionBeat, ...]
    ended_sessions: tuple[str, ...]
    quarantined: tuple[Quarantined, ...]
    forwarded: tuple[tuple[int, Message], ...]
    marks: tuple[TrackingCommand, ...]
    watermark: Watermark
    statuses: tuple[CommandStatus, ...]
    packed: tuple[PackedRecord, ...] = ()
    accepted: tuple[AcceptedBatch, ...] = ()
    descriptions: tuple[Volume, ...] = ()


@dataclass(frozen=True, slots=True)
class FlushRange:
    """The events of one partition that a flush holds: positions `first` to `last`, without a gap."""

    partition: int
    first: int
    last: int


def plan_flush(
    span: FlushRange,
    answers: Sequence[CommandResponse],
    smooth: Sequence[Smooth],
    heads: Mapping[str, VolumeHead],
    now_us: int,
    record_max_bytes: int,
    complete_through: int = BEFORE_FIRST,
) -> FlushPlan:
    """Folds the events of one partition: `answers`, those looked at one at a time, in order, and the `smooth` volumes.

    heads: those that the table holds; complete_through: the watermark that it holds. A replay takes neither back.
    """
    partition, first, last = span.partition, span.first, span.last
    by_volume: dict[str, list[CommandResponse]] = defaultdict(list)
    for answer in answers:
        if answer.volume is not None:
            by_volume[answer.volume.volume].append(answer)
    records: list[LogRecord] = []
    new_heads: list[VolumeHead] = []
    standings: dict[int, SessionOrder] = {}
    marks: list[TrackingCommand] = []
    for name, group in by_volume.items():
        known, volume = heads.get(name), _newest(group)
        after = _chained_after(volume, known, first)
        record = _fold(volume, group, [answer.extents for answer in group], after, last)
        if record is not None:
            records.extend(split_record(replace(record, zeroed=_zeroed(group)), record_max_bytes))
        missed, forks = _fold_missed(volume, group, known, after, span)
        records.extend(part for each in missed for part in split_record(each, record_max_bytes))
        sessions = {each.session: each for each in known.sessions} if known else {}
        for answer in group:
            found = standings[answer.message.position] = _take_part(sessions, answer)
            if found.missing:
                marks.append(_mark(answer, found.missing, now_us))
        new_heads.append(_advance(volume, known, last if record else None, sessions, forks))
    packed: list[PackedRecord] = []
    for way in smooth:
        known = heads.get(way.volume.volume)
        parts = _fold_smooth(way, _chained_after(way.volume, known, first), last, record_max_bytes)
        packed.extend(each for each in parts if isinstance(each, PackedRecord))
        records.extend(each for each in parts if isinstance(each, LogRecord))
        sessions = heads_after(known, way)
        new_heads.append(
            _advance(way.volume, known, last if parts else None, sessions, {})
        )  # it has no forks
    beats = _beats(answers)
    accepted = SessionOrder(StatusCode.ACCEPTED)
    return FlushPlan(
        partition=partition,
        first=first,
        last=last,
        records=tuple(records),
        heads=tuple(new_heads),
        beats=tuple(beat for beat in beats.values() if beat is not None),
        ended_sessions=tuple(session for session, beat in beats.items() if beat is None),
        quarantined=tuple(q for answer in answers if (q := answer.quarantined(now_us)) is not None),
        forwarded=tuple((a.forward_to, a.message) for a in answers if a.forward_to is not None),
        marks=tuple(marks),
        watermark=Watermark(partition, max(last, complete_through), now_us),
        statuses=tuple(
            a.status(now_us, standings.get(a.message.position, accepted)) for a in answers
        ),
        packed=tuple(packed),
        accepted=tuple(each for way in smooth for each in way.accepted(partition, now_us)),
        descriptions=tuple(answer.described for answer in answers if answer.described is not None),
    )


def _take_part(sessions: dict[str, SessionHead], answer: CommandResponse) -> SessionOrder:
    """How the command stands, and from then on its session with it."""
    command = answer.command
    assert command is not None
    found = session_order(sessions, command, answer.message.position)
    if updates_session(command):
        update = session_head(command, answer.message.position, answer.forks.open_sites)
        known = sessions.get(command.session)
        if (
            known is not None and found.code is StatusCode.DUPLICATE
        ):  # it tells of what was told since, again
            update = replace(
                update, open_forks=tuple(sorted({*known.open_forks, *update.open_forks}))
            )
        sessions[command.session] = update if known is None else known.merged(update)
    return found


def _mark(answer: CommandResponse, missing: int, now_us: int) -> TrackingCommand:
    """The node's own command: what the missing ones named isn't known, so all of the volume is dirty.

    It goes through the commands topic like any other, so that whoever replays the commands finds the same.
    """
    volume, command = answer.volume, answer.command
    assert volume is not None and command is not None
    return TrackingCommand(
        volume=volume.volume,
        generation=volume.generation,
        host=command.host,
        session=command.session,
        sequence=-1,
        kind=CommandKind.MARK_DIRTY,
        extents=ExtentColumns.of([Extent(0, volume.size_bytes)]),
        first_at_us=now_us,
        last_at_us=now_us,
        note=f"{missing} commands before position {answer.message.position} are missing",
    )


def _beats(answers: Sequence[CommandResponse]) -> dict[str, SessionBeat | None]:
    """The last heartbeat of each session that spoke for all its volumes; None where its last word was its end."""
    found: dict[str, SessionBeat | None] = {}
    for answer in answers:
        command = answer.command
        if command is None or not speaks_for_all(command):
            continue
        acknowledged = (
            BEFORE_FIRST if command.acknowledged_position is None else command.acknowledged_position
        )
        beat = SessionBeat(
            command.session, command.host, answer.message.position, acknowledged, command.last_at_us
        )
        found[command.session] = beat if command.kind is CommandKind.HEARTBEAT else None
    return found


def _newest(group: Sequence[CommandResponse]) -> Volume:
    volume = group[-1].volume
    assert volume is not None
    return volume


def _chained_after(volume: Volume, head: VolumeHead | None, first: int) -> int:
    """Where the volume's next record begins: where its last one ended, so that the chain has no hole (invariant 5).

    Nothing of the volume lies between the two: what did was recorded before its offset was committed (invariant 2).
    On a replay the table is ahead of the batch: then the record begins with the batch and overlaps, which is harmless.
    """
    return min(_chain_end(volume, head), first - 1)


def _chain_end(volume: Volume, head: VolumeHead | None) -> int:
    """Where the chain of the volume's records ends: at its origin where this generation has none."""
    return head.through if head and head.generation == volume.generation else volume.origin_position


def _fold(
    volume: Volume,
    group: Sequence[CommandResponse],
    parts: Sequence[ExtentColumns],
    after: int,
    through: int,
) -> LogRecord | None:
    """The record of one volume but for its zeros, `parts` being what each command names; None where that is nothing
    (heartbeats cost no record)."""
    extents = concatenate(parts)
    changed = touched(extents, volume.block_size)
    if not changed:
        return None
    commands = [
        answer.command
        for answer, part in zip(group, parts, strict=True)
        if answer.command and len(part)
    ]
    return LogRecord(
        volume=volume.volume,
        generation=volume.generation,
        tier=0,
        after=after,
        through=through,
        block_size=volume.block_size,
        changed=changed,
        zeroed=BitMap64(),
        first_at_us=min(command.first_at_us for command in commands),
        last_at_us=max(command.last_at_us for command in commands),
        commands=len(commands),
        writes=len(extents),
        bytes_written=int(extents.lengths.sum()),
        hosts=tuple(sorted({command.host for command in commands})),
    )


def _fold_missed(
    volume: Volume,
    group: Sequence[CommandResponse],
    head: VolumeHead | None,
    after: int,
    span: FlushRange,
) -> tuple[list[LogRecord], dict[str, ForkHead]]:
    """The records of what each site has missed, and the heads of these logs behind the batch.

    A log begins where the volume's own record does, in the batch that names its site first. Each is a chain of its own: a
    record begins where the last one of the same site ended. They say nothing of zeros: what was zeroed and missed may
    have been written since, and not missed.
    """
    records, forks = [], _forks_before(volume, group, head, after)
    for site, fork in forks.items():
        if span.last <= fork.after:
            continue  # read again, from before the site was named
        parts = [answer.missed_by(site) for answer in group]
        record = _fold(volume, group, parts, min(fork.through, span.first - 1), span.last)
        if record is not None:
            records.append(replace(record, volume=missed_log(volume.volume, site)))
            forks[site] = replace(fork, through=max(fork.through, span.last))
    return records, forks


def _forks_before(
    volume: Volume, group: Sequence[CommandResponse], head: VolumeHead | None, after: int
) -> dict[str, ForkHead]:
    """The sites that are known or named, the first MAX_FORKS of them: the others copy what the volume's log says."""
    forks = dict(head.forks) if head else {}
    if head and head.generation != volume.generation:
        forks = {
            site: replace(each, through=_chain_end(volume, head)) for site, each in forks.items()
        }
    for site in (site for answer in group for site in answer.forks.missed):
        if site not in forks and len(forks) < MAX_FORKS:
            forks[site] = ForkHead(after, after)
    return forks


def _zeroed(group: Sequence[CommandResponse]) -> BitMap64:
    """By the size that the volume had for each command: where a RESIZE came between, its last block grew."""
    by_size: dict[int, list[ExtentColumns]] = defaultdict(list)
    for answer in group:
        assert answer.volume is not None
        by_size[answer.volume.size_bytes].append(answer.extents)
    block_size = _newest(group).block_size
    return union(
        zeroed(concatenate(parts), block_size=block_size, size_bytes=size_bytes)
        for size_bytes, parts in by_size.items()
    )


def _fold_smooth(
    way: Smooth, after: int, through: int, max_bytes: int
) -> Sequence[PackedRecord | LogRecord]:
    """The parts of a smooth volume's record; none where its commands held no extent."""
    volume, extents = way.volume, way.extents
    blocks = blocks_of(extents, volume.block_size)
    nothing = BitMap64()
    header = LogRecord(
        volume=volume.volume,
        generation=volume.generation,
        tier=0,
        after=after,
        through=through,
        block_size=volume.block_size,
        changed=nothing,
        zeroed=nothing,
        first_at_us=way.first_at_us,
        last_at_us=way.last_at_us,
        commands=way.commands,
        writes=len(extents),
        bytes_written=int(extents.lengths.sum()),
        hosts=way.hosts,
    )
    zeros = zeroed(extents, block_size=volume.block_size, size_bytes=volume.size_bytes)
    if blocks is None:
        return split_record(
            replace(header, changed=touched(extents, volume.block_size), zeroed=zeros), max_bytes
        )
    return pack_record(header, blocks, zeros, max_bytes) if len(blocks) else ()


def concatenate(parts: Sequence[ExtentColumns]) -> ExtentColumns:
    """All extents in one set of columns."""
    kinds = None
    if any(part.kinds is not None for part in parts):
        kinds = np.concatenate(
            [np.zeros(len(p), np.uint8) if p.kinds is None else p.kinds for p in parts]
        )
    return ExtentColumns(
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        kinds,
    )


def _advance(
    volume: Volume,
    head: VolumeHead | None,
    record_through: int | None,
    sessions: Mapping[str, SessionHead],
    forks: Mapping[str, ForkHead],
) -> VolumeHead:
    """The volume's head after the batch. Its `through` moves only with a record: it is the end of the chain."""
    base = _chain_end(volume, head)
    through = base if record_through is None else max(base, record_through)
    kept = _worth_keeping(list(sessions.values()))
    return VolumeHead(
        volume.volume, volume.generation, through, kept, volume.described_position, forks
    )


def _worth_keeping(sessions: Sequence[SessionHead]) -> tuple[SessionHead, ...]:
    """All open sessions, and the last few closed ones: a host that restarts often mustn't grow the head."""
    closed = sorted((s for s in sessions if not s.is_open), key=lambda s: s.closed_position)
    dropped = {each.session for each in closed[:-_CLOSED_SESSIONS_KEPT]}
    return tuple(each for each in sessions if each.session not in dropped)
