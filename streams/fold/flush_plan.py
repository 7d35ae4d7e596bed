"""Log: the responses of one batch become records, heads and a watermark. Pure.

plan_flush plans; `LogTable.flush` (streams/table/log_table.py) executes the plan in the order that
keeps the data safe.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from mirrorlog.domain.commands import (
    LEFT_OUT_SESSIONS,
    AcceptedBatch,
    CommandKind,
    CommandStatus,
    Quarantined,
    StatusCode,
    TrackingCommand,
)
from mirrorlog.domain.extents import Extent, ExtentColumns
from mirrorlog.domain.histories import History, epoch_of
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.streams import Message
from mirrorlog.streams.fold.bulk_fold import BulkFold
from mirrorlog.streams.fold.known_positions import names_history
from mirrorlog.streams.fold.missed_fold import fold_missed
from mirrorlog.streams.fold.named_sessions import FEW_SESSIONS, named_sessions
from mirrorlog.streams.fold.response import CommandResponse, is_session_wide
from mirrorlog.streams.fold.session_order import SessionOrder
from mirrorlog.streams.fold.volume_fold import (
    bulk_record,
    fold_changed,
    head_after,
    newest_volume,
    record_start,
    update_session,
    zeroed_blocks,
)
from mirrorlog.tracking_log.heads import SessionBeat, SessionHead, VolumeHead, Watermark
from mirrorlog.tracking_log.record_parts import PackedRecord, split_record
from mirrorlog.tracking_log.records import LogRecord

_ACCEPTED: Final = SessionOrder(StatusCode.ACCEPTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushRange:
    """The positions of one flush of one partition: `first` to `last`, without a gap.

    anchor: the digest of the command at `last`; None if it isn't known.
    """

    partition: int
    first: int
    last: int
    anchor: bytes | None = None


@dataclass(frozen=True, slots=True)
class FlushPlan:
    """Everything that one flush of one partition writes.

    records, packed: log records, the packed ones of volumes that were folded in bulk.
    heads: of every volume with a command in the flush.
    beats: the last heartbeats of sessions. ended_sessions: sessions whose heartbeat is removed.
    quarantined: refused events. forwarded: events for another partition, which is named first.
    mark_dirty: commands of the node for volumes of which commands are missing.
    watermark: through which position the log is complete after the flush.
    statuses, accepted: the replies; accepted: those of volumes that were folded in bulk.
    descriptions: volumes as commands of the flush changed them.
    """

    flush_range: FlushRange
    records: tuple[LogRecord, ...]
    heads: tuple[VolumeHead, ...]
    beats: tuple[SessionBeat, ...]
    ended_sessions: tuple[str, ...]
    quarantined: tuple[Quarantined, ...]
    forwarded: tuple[tuple[int, Message], ...]
    mark_dirty: tuple[TrackingCommand, ...]
    watermark: Watermark
    statuses: tuple[CommandStatus, ...]
    packed: tuple[PackedRecord, ...] = ()
    accepted: tuple[AcceptedBatch, ...] = ()
    descriptions: tuple[Volume, ...] = ()


def plan_flush(
    flush_range: FlushRange,
    responses: Sequence[CommandResponse],
    bulk_folds: Sequence[BulkFold],
    heads: Mapping[str, VolumeHead],
    *,
    now_us: int,
    record_max_bytes: int,
    before: Watermark | None = None,
    beats: Mapping[str, int] = MappingProxyType({}),
) -> FlushPlan:
    """Plan the flush of the events of one partition. `LogTable.flush` executes the plan.

    responses: to the events that were checked one at a time, in their order.
    bulk_folds: of the volumes whose events were folded in bulk. No volume is in both.
    heads: those that the table holds. before: the watermark that it holds. A replay takes neither
    back, and all that is planned belongs to the history of `before`.
    record_max_bytes: the limit for the bitmaps of one record or part of one.
    beats: by session, the position of its last heartbeat that the table holds (crowded_sessions).
    """
    partition = flush_range.partition
    history = before.history if before else None
    new_beats = _last_beats(responses, history)
    known_beats = {**beats, **{name: beat.position for name, beat in new_beats.items() if beat}}
    volumes = _FoldedVolumes(
        flush_range,
        heads,
        now_us=now_us,
        record_max_bytes=record_max_bytes,
        epoch=epoch_of(history),
        beats=known_beats,
    )
    for group in _by_volume(responses):
        volumes.add_responses(group)
    for fold in bulk_folds:
        volumes.add_bulk_fold(fold)
    quarantined = (response.quarantined(now_us) for response in responses)
    forwarded = (response.forwarded() for response in responses)
    return FlushPlan(
        flush_range,
        records=tuple(volumes.records),
        heads=tuple(volumes.heads_after),
        beats=tuple(beat for beat in new_beats.values() if beat is not None),
        ended_sessions=tuple(session for session, beat in new_beats.items() if beat is None),
        quarantined=tuple(event for event in quarantined if event is not None),
        forwarded=tuple(event for event in forwarded if event is not None),
        mark_dirty=tuple(volumes.mark_dirty),
        watermark=_watermark_after(flush_range, before, now_us),
        statuses=tuple(
            response.status(now_us, volumes.order_of(response)) for response in responses
        ),
        packed=tuple(volumes.packed),
        accepted=tuple(
            batch for fold in bulk_folds for batch in fold.accepted(partition, now_us=now_us)
        ),
        descriptions=tuple(
            response.new_description
            for response in responses
            if response.new_description is not None
        ),
    )


def crowded_sessions(
    responses: Iterable[CommandResponse], heads: Mapping[str, VolumeHead]
) -> set[str]:
    """Return the sessions of volumes that may have too many of them for one head.

    plan_flush needs their heartbeats to tell which ones are left out.
    """
    crowded: set[str] = set()
    for group in _by_volume(responses):
        names = {response.command.session for response in group if response.command}
        head = heads.get(newest_volume(group).volume)
        names |= {session.session for session in head.sessions} if head else set()
        if len(names) > FEW_SESSIONS:
            crowded |= names
    return crowded


def _by_volume(responses: Iterable[CommandResponse]) -> Iterable[list[CommandResponse]]:
    """Group the responses that record something by their volume."""
    groups: dict[str, list[CommandResponse]] = defaultdict(list)
    for response in responses:
        if response.volume is not None:
            groups[response.volume.volume].append(response)
    return groups.values()


@dataclass(slots=True)
class _FoldedVolumes:
    """The part of a plan that is made one volume at a time.

    heads: those before the flush. record_max_bytes, beats: as for plan_flush.
    epoch: of the history.
    """

    flush_range: FlushRange
    heads: Mapping[str, VolumeHead]
    now_us: int
    record_max_bytes: int
    epoch: int
    beats: Mapping[str, int]
    records: list[LogRecord] = field(default_factory=list)
    packed: list[PackedRecord] = field(default_factory=list)
    heads_after: list[VolumeHead] = field(default_factory=list)
    mark_dirty: list[TrackingCommand] = field(default_factory=list)
    _orders: dict[int, SessionOrder] = field(default_factory=dict)

    def add_responses(self, responses: Sequence[CommandResponse]) -> None:
        """Fold the commands of one volume that were checked one at a time."""
        first, last = self.flush_range.first, self.flush_range.last
        volume = newest_volume(responses)
        head = self.heads.get(volume.volume)
        after = record_start(volume, head, first=first)
        extents = [response.extents for response in responses]
        sessions = {session.session: session for session in head.sessions} if head else {}
        orders = [update_session(sessions, response) for response in responses]
        record = fold_changed(responses, extents, after=after, through=last)
        if record is not None:
            self._add_record(replace(record, zeroed=zeroed_blocks(responses, orders)))
        missed, forks = fold_missed(responses, head, after=after, first=first, through=last)
        for missed_record in missed:
            self._add_record(missed_record)
        for response, order in zip(responses, orders, strict=True):
            self._orders[response.message.position] = order
            if order.missing:
                self.mark_dirty.append(_mark_dirty_command(response, order, self.now_us))
        named = named_sessions(sessions, through=last, beats=self.beats)
        if named.left_out:
            last_order = _with_left_out(orders[-1], named.left_out)
            self._orders[responses[-1].message.position] = last_order
        self.heads_after.append(
            head_after(
                volume,
                head,
                record_through=last if record else None,
                sessions=named.named,
                forks=forks,
                epoch=self.epoch,
            )
        )

    def add_bulk_fold(self, fold: BulkFold) -> None:
        """Add a volume whose commands were folded in bulk. It has no forks."""
        first, last = self.flush_range.first, self.flush_range.last
        head = self.heads.get(fold.volume.volume)
        parts = bulk_record(
            fold,
            after=record_start(fold.volume, head, first=first),
            through=last,
            max_bytes=self.record_max_bytes,
        )
        self.packed.extend(part for part in parts if isinstance(part, PackedRecord))
        self.records.extend(part for part in parts if isinstance(part, LogRecord))
        self.heads_after.append(
            head_after(
                fold.volume,
                head,
                record_through=last if parts else None,
                sessions=named_sessions(
                    fold.session_heads(head), through=last, beats=self.beats
                ).named,
                forks={},
                epoch=self.epoch,
            )
        )

    def order_of(self, response: CommandResponse) -> SessionOrder:
        """Return how the command continues its session; ACCEPTED if it is of no volume."""
        return self._orders.get(response.message.position, _ACCEPTED)

    def _add_record(self, record: LogRecord) -> None:
        self.records.extend(split_record(record, self.record_max_bytes))


def _with_left_out(order: SessionOrder, sessions: Sequence[SessionHead]) -> SessionOrder:
    """Return the order with a text that says that the head leaves sessions out from now on."""
    text = (
        f"{len(sessions)} open sessions aren't named in the volume's head any more, and sites wait "
        f"for them, the first is session {sessions[0].session} of host '{sessions[0].host}': close "
        f"those that are dead, and then session '{LEFT_OUT_SESSIONS}'"
    )
    return replace(order, text="; ".join(filter(None, (order.text, text))))


def _mark_dirty_command(
    response: CommandResponse, order: SessionOrder, now_us: int
) -> TrackingCommand:
    """Return the node's own command for a gap: the volume is dirty as a whole.

    Nobody knows which extents the missing commands named. The node's command goes through the
    commands topic like every other, so a replay of the commands gives the same log.
    """
    volume, command = response.volume, response.command
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
        note=f"{order.missing} commands before position {response.message.position} are missing",
    )


def _watermark_after(flush_range: FlushRange, before: Watermark | None, now_us: int) -> Watermark:
    """Return the watermark after the flush. A replay repeats the one before it."""
    if before is not None and before.through >= flush_range.last:
        return replace(before, at_us=now_us)
    return Watermark(
        partition=flush_range.partition,
        through=flush_range.last,
        at_us=now_us,
        history=before.history if before else None,
        anchor=flush_range.anchor,
    )


def _last_beats(
    responses: Sequence[CommandResponse], history: History | None
) -> dict[str, SessionBeat | None]:
    """Return the last heartbeat of each session that sent a session-wide command.

    None: the last one was a SESSION_CLOSE, and the session's heartbeat is removed.
    A heartbeat that names another history than the partition has settles nothing: the position that
    it knows as acknowledged is one of that history. One that names none belongs to the first
    history, because an older host sent it.
    """
    beats: dict[str, SessionBeat | None] = {}
    for response in responses:
        command = response.command
        if command is None or not response.is_authentic or not is_session_wide(command):
            continue
        is_known = names_history(command, history)
        acknowledged = command.acknowledged_position if is_known else None
        beat = SessionBeat(
            session=command.session,
            host=command.host,
            position=response.message.position,
            acknowledged_position=BEFORE_FIRST if acknowledged is None else acknowledged,
            at_us=command.last_at_us,
            epoch=epoch_of(history),
        )
        beats[command.session] = beat if command.kind is CommandKind.HEARTBEAT else None
    return beats
