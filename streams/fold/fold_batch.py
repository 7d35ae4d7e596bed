"""BatchFolder: the way of one batch of events to the durable log. Faust brings the batches."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from mirrorlog.codec.command_columns import CommandColumns, decode_columns
from mirrorlog.domain.commands import Refusal, TrackingCommand
from mirrorlog.domain.histories import History, anchor_of
from mirrorlog.domain.host_keys import NO_KEYS
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import Volume, in_history, in_new_log
from mirrorlog.errors import OutOfRetention
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message
from mirrorlog.reading.catalog import Catalog
from mirrorlog.streams.fold.authenticity import Authenticity, HostKeySource
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.batch_delays import batch_delays
from mirrorlog.streams.fold.bulk_fold import BulkFold, fold_in_bulk
from mirrorlog.streams.fold.commit_gate import CommitGate
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

_PAUSE_S: Final = 2.0
"""After a pause of the stream that is longer, the broker may have gone back in time: it takes a
restart, or the election of a leader that lagged behind."""


class DurableLog(Protocol):
    """The part of LogTable that the fold needs (streams/table/log_table.py)."""

    def heads(self, partition: int, volumes: Sequence[str]) -> Mapping[str, VolumeHead]:
        """Return the heads of those volumes that have one, by name."""

    def watermark(self, partition: int) -> Watermark | None:
        """Return the partition's watermark, None if the log has none."""

    def take_doubt(self, partition: int) -> bool:
        """Return whether others appended rows to the partition since the last call."""

    async def complete_empty(self, partition: int, *, through: int, now_us: int) -> None:
        """Move the watermark to `through`, behind which no command is missing."""

    def beats(self, partition: int, sessions: Collection[str]) -> Mapping[str, int]:
        """Return the position of the last heartbeat of those sessions that have one, by name."""

    async def flush(self, plan: FlushPlan) -> None:
        """Make the plan durable. Raise ChangelogRefused if the broker doesn't take it."""


class CommandsSource(Protocol):
    """The part of SourceTopic that the fold needs (streams/partitions/source_topic.py)."""

    def gap_reason(self, partition: int, *, first: int, end: int) -> str | None:
        """Return what happened to the commands in [first, end).

        None: there are none, as behind the marker of a transaction. The call blocks: it asks the
        broker.
        """

    def batches(self, partition: int, *, first: int, end: int) -> Iterator[EventBatch]:
        """Yield the commands in [first, end) that are kept. Each step blocks."""


class LogMaintenance(Protocol):
    """The part of LogCompactor that the fold needs (streams/compaction/compactor.py)."""

    def note_appended(self, partition: int, *, through: int, at_us: int | None) -> None:
        """Note when the broker appended the command at `through`; None if nobody knows."""

    def note_delays(self, delays: PublicationDelays) -> None:
        """Note the delays of commands that the log has recorded."""

    async def work(self, partition: int) -> float:
        """Do a little work; return in how many seconds at the latest there is more."""

    def revoke(self, partitions: Iterable[int]) -> None:
        """Forget what is known of the partitions' records."""


class Histories(Protocol):
    """The part of PartitionHistories that the fold needs (streams/history/)."""

    async def doubt(self, partition: int) -> str | None:
        """Return what shows that the history ended since the last flush; None if nothing does.

        Raise as check_not_renewed().
        """

    async def check_not_renewed(self, partition: int) -> None:
        """Raise OutOfRetention if another worker has renewed the history."""

    async def renew(self, partition: int, reason: str) -> int:
        """Renew the history; return the position from which the commands are folded again."""


@dataclass(frozen=True, slots=True, eq=False)
class _BatchResponses:
    """The results of the stages response and extraction for a batch.

    heads: of the volumes that its commands name, from the table.
    bulk_folds: the volumes whose commands were folded in bulk.
    responses: to all other commands, in their order.
    """

    heads: Mapping[str, VolumeHead]
    bulk_folds: Sequence[BulkFold]
    responses: Sequence[CommandResponse]


@dataclass(frozen=True, slots=True, eq=False)
class _PlannedFlush:
    """The plan of a flush, and the delays of its commands; None if they aren't known."""

    plan: FlushPlan
    delays: PublicationDelays | None


class BatchFolder:
    """Makes batches of commands durable in the log, and maintains the log between two batches.

    Call `record` and `maintain` for one partition one after the other, never at the same time.
    """

    def __init__(
        self,
        log: DurableLog,
        gate: CommitGate,
        catalog: Catalog,
        source: CommandsSource,
        *,
        clock: Clock,
        record_max_bytes: int,
        compactor: LogMaintenance,
        histories: Histories,
    ) -> None:
        self._host_keys: HostKeySource | None = None
        self._log, self._gate, self._catalog, self._source = log, gate, catalog, source
        self._clock, self._record_max_bytes, self._compactor = clock, record_max_bytes, compactor
        self._histories = histories
        self._recorded_at_s: dict[int, float] = {}

    def judge_by(self, host_keys: HostKeySource | None) -> None:
        """Judge the codes of commands by these keys from now on. None: the node has no keys."""
        self._host_keys = host_keys

    async def record(self, batch: EventBatch) -> None:
        """Make one batch durable in the log. Every exception must stop the node.

        1. `_check_continues`: no command lies unread before the batch or inside it (invariant 7).
        2. `_ended_reason`: the commands that the log holds are still the ones that it recorded.
        3. `_plan` decodes the commands. `_respond` checks and answers each of them (response) and
           turns its extents into addresses inside its volume (extraction). `plan_flush` makes them
           records, heads and a watermark (log, planned).
        4. `LogTable.flush`: the plan is written, and the gate advances (log, durable).

        What the log holds already is flushed by itself (a replay): folded together with new
        commands it would make a site copy again what it has.

        If step 2 or a command of step 3 shows that the history of the partition ended, it is
        renewed, and what the topic holds now is folded in the place of the batch.

        The gate must have been told where the partition begins (`CommitGate.assign`).
        """
        await self._check_continues(batch.partition, batch.positions)
        reason = await self._ended_reason(batch)
        if reason is None:
            reason = await self._fold(batch)
        if reason is not None:
            await self._fold_again(batch, reason)
        self._recorded_at_s[batch.partition] = self._clock.monotonic_s()

    async def _fold(self, batch: EventBatch) -> str | None:
        """Flush the batch. Return what shows that the history ended, with nothing flushed then."""
        watermark = self._log.watermark(batch.partition)
        through = BEFORE_FIRST if watermark is None else watermark.through
        for part in batch.split_after(through):
            planned = await self._plan(part, self._log.watermark(batch.partition))
            if isinstance(planned, str):
                return planned
            await self._log.flush(planned.plan)
            if planned.delays is not None:
                self._compactor.note_delays(planned.delays)
        self._compactor.note_appended(
            batch.partition, through=batch.positions[-1], at_us=batch.appended_us
        )
        return None

    async def _ended_reason(self, batch: EventBatch) -> str | None:
        """Return what shows that the history ended before the batch; None if nothing does.

        The command at the watermark tells (its anchor). A replay brings it. Otherwise it is read
        from the topic, but only after a pause: a broker can't go back in time while it delivers.
        Or if others appended rows to the log: another worker may have renewed the history.
        """
        watermark = self._log.watermark(batch.partition)
        if watermark is None:
            return None
        row = bisect_left(batch.positions, watermark.through)
        if row < len(batch.positions) and batch.positions[row] == watermark.through:
            anchor = anchor_of(batch.keys[row], batch.values[row])
            if watermark.anchor in (None, anchor):
                return None
            return f"the command at position {watermark.through} was read again, and is another one"
        paused_s = self._clock.monotonic_s() - self._recorded_at_s.get(batch.partition, 0.0)
        if self._log.take_doubt(batch.partition) or paused_s > _PAUSE_S:
            return await self._histories.doubt(batch.partition)
        return None

    async def _fold_again(self, batch: EventBatch, reason: str) -> None:
        """Renew the history, and fold what the topic holds now up to the end of the batch.

        The batch itself may come from before the broker went back in time. It isn't folded: what
        follows it in the stream is a replay then, or the consumer begins anew.
        """
        partition = batch.partition
        await self._histories.check_not_renewed(partition)
        start = await self._histories.renew(partition, reason)
        self._gate.assign(partition, position=start)
        self._compactor.revoke([partition])
        batches = self._source.batches(partition, first=start, end=batch.positions[-1] + 1)
        while (again := await asyncio.to_thread(next, batches, None)) is not None:
            if (reason_again := await self._fold(again)) is not None:
                raise OutOfRetention(
                    f"the history of the partition ended again at once: {reason_again}",
                    where=f"topic {self._gate.topic}, partition {partition}",
                    next="Start the node again when the broker runs steadily.",
                )

    def recorded_end(self, partition: int) -> int:
        """Return the first position of the partition that isn't in the log."""
        return self._gate.expected_position(partition)

    async def pass_empty(self, partition: int, end: int) -> None:
        """Let the log be complete up to `end` if no command lies between the log and `end`.

        Positions without a command are those of a transaction's markers. If there is a command,
        nothing happens: it is on its way here.
        """
        first = self._gate.expected_position(partition)
        if first < end and not await self._reason_of_gap(partition, first=first, end=end):
            await self._log.complete_empty(partition, through=end - 1, now_us=self._clock.now_us())

    async def maintain(self, partition: int) -> float:
        """Do a little work on the partition's log between two batches.

        Return in how many seconds at the latest there is more work.
        """
        return await self._compactor.work(partition)

    async def _check_continues(self, partition: int, positions: Sequence[int]) -> None:
        """Raise OutOfRetention if commands lie between the log and the batch, or inside the batch.

        positions: of the batch, ascending. A jump over positions that hold no command is allowed.
        """
        expected = self._gate.expected_position(partition)
        if positions[0] <= expected and positions[-1] - positions[0] == len(positions) - 1:
            return
        for position in positions:
            if position > expected and (
                reason := await self._reason_of_gap(partition, first=expected, end=position)
            ):
                raise OutOfRetention(
                    f"commands at positions {expected} to {position - 1} {reason}",
                    where=f"topic {self._gate.topic}, partition {partition}",
                    next="Nothing behind them is committed. Start the node again; if they were "
                    "deleted it says what to do.",
                )
            expected = max(expected, position + 1)

    async def _reason_of_gap(self, partition: int, *, first: int, end: int) -> str | None:
        return await asyncio.to_thread(self._source.gap_reason, partition, first=first, end=end)

    async def _plan(self, batch: EventBatch, before: Watermark | None) -> _PlannedFlush | str:
        """Return the plan of the batch's flush. `LogTable.flush` makes it durable.

        before: the partition's watermark. A text is returned in the place of a plan if a command
        shows that the history ended (knows_more).
        """
        history = before.history if before else None
        # The columns live until the plan is made: freed earlier, their pages go back to the system
        # and are faulted in again for the plan.
        columns = decode_columns(batch.values)
        answered = await self._respond(batch, columns, history)
        if (reason := knows_more(answered.responses, history)) is not None:
            return reason
        plan = plan_flush(
            FlushRange(
                partition=batch.partition,
                first=batch.positions[0],
                last=batch.positions[-1],
                anchor=anchor_of(batch.keys[-1], batch.values[-1]),
            ),
            answered.responses,
            answered.bulk_folds,
            answered.heads,
            now_us=self._clock.now_us(),
            record_max_bytes=self._record_max_bytes,
            before=before,
            beats=self._log.beats(
                batch.partition, crowded_sessions(answered.responses, answered.heads)
            ),
        )
        return _PlannedFlush(plan, batch_delays(batch, columns, answered.responses, history))

    async def _respond(
        self, batch: EventBatch, columns: CommandColumns, history: History | None
    ) -> _BatchResponses:
        """Check and answer every command of the batch. `plan_flush` makes records of the result.

        columns: the batch, decoded. history: of the partition.

        Volumes that qualify are folded in bulk. All other commands are decoded and checked one at a
        time (`check_command`): so are those of a volume that doesn't name the partition's history
        yet. Both clip extents to the volume (`extract`) or find them inside it.
        """
        single = _read_rows(batch, ~columns.plain)
        in_columns = _volumes_of(columns)
        alone = {
            command.volume for command in single.values() if isinstance(command, TrackingCommand)
        }
        if history is not None:
            alone |= {name for name in in_columns if self._names_no_history(name)}
        alone |= self._unauthentic_volumes(batch, columns, in_columns)
        heads = self._log.heads(batch.partition, sorted(alone | in_columns))
        bulk_folds, in_bulk = fold_in_bulk(
            columns,
            np.array(batch.positions, np.int64),
            batch.partition,
            self._catalog,
            heads,
            alone,
        )
        single |= _read_rows(batch, columns.plain & ~in_bulk)
        commands = [(batch.message(row), single[row]) for row in sorted(single)]
        return _BatchResponses(heads, bulk_folds, await self._check_commands(commands, history))

    def _unauthentic_volumes(
        self, batch: EventBatch, columns: CommandColumns, names: Iterable[str]
    ) -> set[str]:
        """Return those of the volumes with a plain command that isn't authentic.

        Codes are looked at only if one of the volumes is authenticated.
        """
        described = ((name, self._catalog.get(name)) for name in names)
        authenticated = {
            name: volume
            for name, volume in described
            if volume is not None and volume.authenticated_after is not None
        }
        if not authenticated:
            return set()
        return self._authenticity().unauthentic_volumes(batch, columns, authenticated)

    def _authenticity(self) -> Authenticity:
        return Authenticity(NO_KEYS if self._host_keys is None else self._host_keys.current())

    async def _check_commands(
        self,
        commands: Sequence[tuple[Message, TrackingCommand | Refusal]],
        history: History | None,
    ) -> list[CommandResponse]:
        """Check the commands one at a time, each by the newest description of its volume.

        A volume is described before its first command is sent. So if a newer description could
        change one of the responses, the catalog is read to the topic's end first. So it is if the
        node is about to publish a description: others publish some, too (`volume move`, `rejoin`),
        and what they said would be taken back. A command that changes its volume changes the
        description by which the commands behind it are checked. The first command of a new volume
        does: it gives the volume the partition's history.
        """
        authenticity = self._authenticity() if commands else Authenticity(NO_KEYS)
        if any(
            self._depends_on_description(*command, history, authenticity) for command in commands
        ):
            await asyncio.to_thread(self._catalog.refresh)
        responses = []
        for message, command in commands:
            volume = self._described(command)
            adopted = None if volume is None else adopted_description(volume, message, history)
            objection = authenticity.objection(message, command, adopted or volume)
            response = check_command(message, command, adopted or volume, objection)
            if adopted is not None and response.new_description is None:
                response = replace(response, new_description=adopted)
            if response.new_description is not None:
                self._catalog.take(response.new_description)
            responses.append(response)
        return responses

    def _depends_on_description(
        self,
        message: Message,
        command: TrackingCommand | Refusal,
        history: History | None,
        authenticity: Authenticity,
    ) -> bool:
        volume = self._described(command)
        if volume is not None and adopted_description(volume, message, history) is not None:
            return True
        objection = authenticity.objection(message, command, volume)
        return check_command(message, command, volume, objection).depends_on_description

    def _names_no_history(self, volume: str) -> bool:
        described = self._catalog.get(volume)
        return described is not None and described.history_id is None

    def _described(self, command: TrackingCommand | Refusal) -> Volume | None:
        return self._catalog.get(command.volume) if isinstance(command, TrackingCommand) else None


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


def _read_rows(
    batch: EventBatch, rows: npt.NDArray[np.bool_]
) -> dict[int, TrackingCommand | Refusal]:
    """Decode the events in the rows of the mask, one at a time."""
    return {row: read_command(batch.message(row)) for row in np.flatnonzero(rows).tolist()}


def _volumes_of(columns: CommandColumns) -> set[str]:
    return {sender.volume for sender in columns.senders}
