"""BatchPlanner: the plan of a batch's flush, also of a batch whose turn hasn't come yet.

A flush waits for two rounds of the changelog (LogTable.flush). The flush behind it is planned
meanwhile, from the rows that the log will have then. That changes when a plan is made, and nothing
of what is written: a plan that was made ahead is used only if it is what would be planned in its
turn (`BatchPlanner.is_current`). The simulated node compares both (NodeModel in
mirrorlog/simulation/world). docs/decisions/planning-ahead.md says what is planned ahead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from mirrorlog.codec.command_columns import CommandColumns, decode_columns
from mirrorlog.domain.commands import Refusal, TrackingCommand
from mirrorlog.domain.histories import History, anchor_of
from mirrorlog.domain.host_keys import NO_KEYS, HostKeys
from mirrorlog.domain.volumes import Volume, in_history, in_new_log
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message
from mirrorlog.reading.catalog import Catalog
from mirrorlog.streams.fold.authenticity import Authenticity, HostKeySource
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.batch_delays import batch_delays
from mirrorlog.streams.fold.bulk_fold import BulkFold, fold_in_bulk
from mirrorlog.streams.fold.flush_plan import (
    FlushPlan,
    FlushRange,
    crowded_sessions,
    plan_flush,
)
from mirrorlog.streams.fold.known_positions import knows_more
from mirrorlog.streams.fold.response import CommandResponse, check_command, read_command
from mirrorlog.tracking_log.heads import VolumeHead, Watermark
from mirrorlog.tracking_log.publication_delays import PublicationDelays


class LogRows(Protocol):
    """The rows of the log that plans are made of (LogTable in streams/table/log_table.py)."""

    def watermark(self, partition: int) -> Watermark | None:
        """Return the partition's watermark, None if the log has none."""

    def heads(self, partition: int, volumes: Sequence[str]) -> Mapping[str, VolumeHead]:
        """Return the heads of those volumes that have one, by name."""

    def beats(self, partition: int, sessions: Collection[str]) -> Mapping[str, int]:
        """Return the position of the last heartbeat of those sessions that have one, by name."""


@dataclass(frozen=True, slots=True)
class RowsAfter:
    """The rows of the log as they are when `plan` is written. Implements LogRows."""

    log: LogRows
    plan: FlushPlan

    def watermark(self, partition: int) -> Watermark | None:
        """Return the watermark of the plan, whose partition this must be."""
        assert partition == self.plan.flush_range.partition
        return self.plan.watermark

    def heads(self, partition: int, volumes: Sequence[str]) -> Mapping[str, VolumeHead]:
        """Return the heads of those volumes that have one then, by name."""
        wanted = set(volumes)
        written = {head.volume: head for head in self.plan.heads if head.volume in wanted}
        return {**self.log.heads(partition, sorted(wanted - written.keys())), **written}

    def beats(self, partition: int, sessions: Collection[str]) -> Mapping[str, int]:
        """Return the position of the last heartbeat of those sessions that have one then."""
        written = {beat.session: beat.position for beat in self.plan.beats}
        changed = written.keys() | set(self.plan.ended_sessions)
        beats = self.log.beats(partition, [name for name in sessions if name not in changed])
        return {**beats, **{name: written[name] for name in sessions if name in written}}


@dataclass(frozen=True, slots=True, eq=False)
class PlannedFlush:
    """The plan of a flush of `batch`.

    delays: of its commands; None if they aren't known.
    read: what the plan was made of, beside the batch.
    """

    batch: EventBatch
    plan: FlushPlan
    delays: PublicationDelays | None
    read: _PlanInputs


@dataclass(frozen=True, slots=True)
class _PlanInputs:
    """The rows, the descriptions and the keys of which a plan was made.

    volumes: the names that the batch's commands name. heads, descriptions: of those that have one.
    sessions: those whose heartbeats were looked up. beats: of those that have one.
    """

    watermark: Watermark | None
    volumes: Sequence[str]
    heads: Mapping[str, VolumeHead]
    descriptions: Mapping[str, Volume]
    sessions: Collection[str]
    beats: Mapping[str, int]
    keys: HostKeys


@dataclass(frozen=True, slots=True, eq=False)
class _ReadBatch:
    """A batch whose commands are decoded and folded in bulk as far as they qualify.

    volumes: that its commands name. heads: of those that have one in `rows`.
    descriptions: of those that have one, by name, as they were when the fold began.
    bulk_folds: the volumes whose commands were folded in bulk.
    commands: all other commands, in their order. They aren't checked yet.
    """

    batch: EventBatch
    columns: CommandColumns
    rows: LogRows
    before: Watermark | None
    authenticity: Authenticity
    volumes: Sequence[str]
    heads: Mapping[str, VolumeHead]
    descriptions: Mapping[str, Volume]
    bulk_folds: Sequence[BulkFold]
    commands: Sequence[tuple[Message, TrackingCommand | Refusal]]

    @property
    def history(self) -> History | None:
        """The history of the partition."""
        return self.before.history if self.before else None


class BatchPlanner:
    """Plans the flushes of the partitions that this worker has. It writes and sends nothing."""

    def __init__(
        self, log: LogRows, catalog: Catalog, clock: Clock, *, record_max_bytes: int
    ) -> None:
        self._host_keys: HostKeySource | None = None
        self._log, self._catalog, self._clock = log, catalog, clock
        self._record_max_bytes = record_max_bytes

    def judge_by(self, host_keys: HostKeySource | None) -> None:
        """Judge the codes of commands by these keys from now on. None: the node has no keys."""
        self._host_keys = host_keys

    async def plan(self, batch: EventBatch, before: Watermark | None) -> PlannedFlush | str:
        """Return the plan of the batch's flush. `LogTable.flush` makes it durable.

        before: the partition's watermark. A text is returned in the place of a plan if a command
        shows that the history ended (knows_more).

        A volume is described before its first command is sent. So if a newer description could
        change one of the responses, the catalog is read to the topic's end first. So it is if the
        node is about to publish a description: others publish some, too (`volume move`, `rejoin`),
        and what they said would be taken back.
        """
        read = self._read(batch, self._log, before)
        if self._needs_descriptions(read, self._catalog):
            await asyncio.to_thread(self._catalog.refresh)
        responses = self._check_commands(read, self._catalog)
        if (reason := knows_more(responses, read.history)) is not None:
            return reason
        return self._planned(read, responses)

    def plan_after(self, batch: EventBatch, plan: FlushPlan) -> PlannedFlush | None:
        """Plan the flush of the batch behind `plan`, which is being written.

        Return None if the batch doesn't begin right behind that flush or has a gap, if descriptions
        must be read first, or if a command shows that the history ended.
        """
        if not _continues(plan, batch):
            return None
        read = self._read(batch, RowsAfter(self._log, plan), plan.watermark)
        if self._needs_descriptions(read, read.descriptions):
            return None
        responses = self._check_commands(read, read.descriptions)
        if knows_more(responses, read.history) is not None:
            return None
        return self._planned(read, responses)

    def is_current(self, planned: PlannedFlush) -> bool:
        """Return whether everything that the plan was made of is still so: `plan` would plan it."""
        partition, read = planned.batch.partition, planned.read
        return (
            self._log.watermark(partition) == read.watermark
            and self._log.heads(partition, read.volumes) == read.heads
            and self._log.beats(partition, read.sessions) == read.beats
            and self._described(read.volumes) == read.descriptions
            and self._keys() is read.keys
        )

    def _planned(self, read: _ReadBatch, responses: Sequence[CommandResponse]) -> PlannedFlush:
        """Return the plan of a batch. responses: to the commands that weren't folded in bulk."""
        batch, history = read.batch, read.history
        sessions = crowded_sessions(responses, read.heads)
        beats = read.rows.beats(batch.partition, sessions)
        plan = plan_flush(
            FlushRange(
                partition=batch.partition,
                first=batch.positions[0],
                last=batch.positions[-1],
                anchor=anchor_of(batch.keys[-1], batch.values[-1]),
            ),
            responses,
            read.bulk_folds,
            read.heads,
            now_us=self._clock.now_us(),
            record_max_bytes=self._record_max_bytes,
            before=read.before,
            beats=beats,
        )
        inputs = _PlanInputs(
            read.before,
            read.volumes,
            read.heads,
            read.descriptions,
            sessions,
            beats,
            read.authenticity.keys,
        )
        delays = batch_delays(batch, read.columns, responses, history)
        return PlannedFlush(batch, plan, delays, inputs)

    def _read(self, batch: EventBatch, rows: LogRows, before: Watermark | None) -> _ReadBatch:
        """Decode the batch, and fold in bulk what qualifies. Every other command isn't checked yet.

        rows: of the log. before: its watermark.

        Those of a volume that doesn't name the partition's history yet don't qualify.
        """
        # The columns live until the plan is made: freed earlier, their pages go back to the system
        # and are faulted in again for the plan.
        columns = decode_columns(batch.values)
        single = _read_rows(batch, ~columns.plain)
        in_columns = {sender.volume for sender in columns.senders}
        alone = {
            command.volume for command in single.values() if isinstance(command, TrackingCommand)
        }
        volumes = sorted(alone | in_columns)
        descriptions = self._described(volumes)
        if before is not None and before.history is not None:
            alone |= {name for name, volume in descriptions.items() if volume.history_id is None}
        authenticity = Authenticity(self._keys())
        authenticated = {
            name: volume
            for name, volume in descriptions.items()
            if name in in_columns and volume.authenticated_after is not None
        }
        if authenticated:
            alone |= authenticity.unauthentic_volumes(batch, columns, authenticated)
        heads = rows.heads(batch.partition, volumes)
        bulk_folds, in_bulk = fold_in_bulk(
            columns,
            np.array(batch.positions, np.int64),
            batch.partition,
            descriptions,
            heads,
            alone,
        )
        single |= _read_rows(batch, columns.plain & ~in_bulk)
        commands = [(batch.message(row), single[row]) for row in sorted(single)]
        return _ReadBatch(
            batch,
            columns,
            rows,
            before,
            authenticity,
            volumes,
            heads,
            descriptions,
            bulk_folds,
            commands,
        )

    def _described(self, volumes: Iterable[str]) -> dict[str, Volume]:
        """Return the descriptions of those volumes that have one, by name."""
        described = ((name, self._catalog.get(name)) for name in volumes)
        return {name: volume for name, volume in described if volume is not None}

    def _keys(self) -> HostKeys:
        return NO_KEYS if self._host_keys is None else self._host_keys.current()

    def _needs_descriptions(self, read: _ReadBatch, volumes: Mapping[str, Volume]) -> bool:
        """Return whether the catalog must be read before the commands are checked (plan).

        volumes: the descriptions by which they are checked.
        """
        for message, command in read.commands:
            volume = _volume_of(command, volumes)
            if volume is not None and (
                adopted_description(volume, message, read.history) is not None
            ):
                return True
            objection = read.authenticity.objection(message, command, volume)
            response = check_command(message, command, volume, objection)
            if response.depends_on_description or response.new_description is not None:
                return True
        return False

    def _check_commands(
        self, read: _ReadBatch, volumes: Mapping[str, Volume]
    ) -> list[CommandResponse]:
        """Check the commands one at a time, each by the description of its volume in `volumes`.

        A command that changes its volume changes the catalog, and so the description by which the
        commands behind it are checked. The first command of a new volume does: it gives the volume
        the partition's history.
        """
        responses = []
        for message, command in read.commands:
            volume = _volume_of(command, volumes)
            adopted = None if volume is None else adopted_description(volume, message, read.history)
            objection = read.authenticity.objection(message, command, adopted or volume)
            response = check_command(message, command, adopted or volume, objection)
            if adopted is not None and response.new_description is None:
                response = replace(response, new_description=adopted)
            if response.new_description is not None:
                self._catalog.take(response.new_description)
            responses.append(response)
        return responses


def _continues(plan: FlushPlan, batch: EventBatch) -> bool:
    """Return whether the batch begins right behind the plan's flush, and has no gap."""
    positions, last = batch.positions, plan.flush_range.last
    return (
        plan.watermark.through == last
        and batch.partition == plan.flush_range.partition
        and positions[0] == last + 1
        and positions[-1] - positions[0] == len(positions) - 1
    )


def _volume_of(command: TrackingCommand | Refusal, volumes: Mapping[str, Volume]) -> Volume | None:
    return volumes.get(command.volume) if isinstance(command, TrackingCommand) else None


def _read_rows(
    batch: EventBatch, rows: npt.NDArray[np.bool_]
) -> dict[int, TrackingCommand | Refusal]:
    """Decode the events in the rows of the mask, one at a time."""
    return {row: read_command(batch.message(row)) for row in np.flatnonzero(rows).tolist()}


def adopted_description(volume: Volume, message: Message, history: History | None) -> Volume | None:
    """Return the description with the partition's history; None if it names one already.

    message: a command of the volume. If it lies at or below the volume's origin, the origin was
    taken in another history, which ended before the node met the volume: the log of the volume
    begins with the command, in a new generation.
    """
    if history is None or volume.history_id is not None or volume.partition != message.partition:
        return None
    adopted = in_history(volume, history)
    if message.position > volume.origin_position:
        return adopted
    return in_new_log(adopted, generation=str(uuid4()), origin_position=message.position - 1)
