"""BatchFolder: the way of one batch of events to the durable log. Faust brings the batches."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mirrorlog.codec.command_columns import CommandColumns, decode_columns
from mirrorlog.domain.commands import Refusal, TrackingCommand
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import OutOfRetention
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message
from mirrorlog.reading.catalog import Catalog
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.bulk_fold import BulkFold, fold_in_bulk
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.fold.flush_plan import FlushPlan, FlushRange, plan_flush
from mirrorlog.streams.fold.response import CommandResponse, check_command, read_command
from mirrorlog.tracking_log.heads import VolumeHead


class DurableLog(Protocol):
    """The part of LogTable that the fold needs (streams/table/log_table.py)."""

    def heads(self, partition: int, volumes: Sequence[str]) -> Mapping[str, VolumeHead]:
        """Return the heads of those volumes that have one, by name."""

    def complete_through(self, partition: int) -> int:
        """Return the position through which the partition's log is complete."""

    async def complete_empty(self, partition: int, *, through: int, now_us: int) -> None:
        """Move the watermark to `through`, behind which no command is missing."""

    async def flush(self, plan: FlushPlan) -> None:
        """Make the plan durable. Raise ChangelogRefused if the broker doesn't take it."""


class CommandsSource(Protocol):
    """The part of SourceTopic that the fold needs (streams/faust_worker/source_topic.py)."""

    def gap_reason(self, partition: int, *, first: int, end: int) -> str | None:
        """Return what happened to the commands in [first, end).

        None: there are none, as behind the marker of a transaction. The call blocks: it asks the
        broker.
        """


class LogMaintenance(Protocol):
    """The part of LogCompactor that the fold needs (streams/compaction/compactor.py)."""

    async def work(self, partition: int) -> float:
        """Do a little work; return in how many seconds at the latest there is more."""


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
    ) -> None:
        self._log, self._gate, self._catalog, self._source = log, gate, catalog, source
        self._clock, self._record_max_bytes, self._compactor = clock, record_max_bytes, compactor

    async def record(self, batch: EventBatch) -> None:
        """Make one batch durable in the log. Every exception must stop the node.

        1. `_check_continues`: no command lies unread before the batch or inside it (invariant 7).
        2. `_plan` decodes the commands. `_respond` checks and answers each of them (response) and
           turns its extents into addresses inside its volume (extraction). `plan_flush` makes them
           records, heads and a watermark (log, planned).
        3. `LogTable.flush`: the plan is written, and the gate advances (log, durable).

        What the log holds already is flushed by itself (a replay): folded together with new
        commands it would make a site copy again what it has.

        The gate must have been told where the partition begins (`CommitGate.assign`).
        """
        await self._check_continues(batch.partition, batch.positions)
        for part in batch.split_after(self._log.complete_through(batch.partition)):
            await self._log.flush(await self._plan(part))

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

    async def _plan(self, batch: EventBatch) -> FlushPlan:
        """Return the plan of the batch's flush. `LogTable.flush` makes it durable."""
        # The columns live until the plan is made: freed earlier, their pages go back to the system
        # and are faulted in again for the plan.
        columns = decode_columns(batch.values)
        answered = await self._respond(batch, columns)
        return plan_flush(
            FlushRange(
                partition=batch.partition, first=batch.positions[0], last=batch.positions[-1]
            ),
            answered.responses,
            answered.bulk_folds,
            answered.heads,
            now_us=self._clock.now_us(),
            record_max_bytes=self._record_max_bytes,
            complete_through=self._log.complete_through(batch.partition),
        )

    async def _respond(self, batch: EventBatch, columns: CommandColumns) -> _BatchResponses:
        """Check and answer every command of the batch. `plan_flush` makes records of the result.

        columns: the batch, decoded.

        Volumes that qualify are folded in bulk. All other commands are decoded and checked one at a
        time (`check_command`). Both clip extents to the volume (`extract`) or find them inside it.
        """
        single = _read_rows(batch, ~columns.plain)
        not_plain = {
            command.volume for command in single.values() if isinstance(command, TrackingCommand)
        }
        heads = self._log.heads(batch.partition, sorted(not_plain | _volumes_of(columns)))
        bulk_folds, in_bulk = fold_in_bulk(
            columns,
            np.array(batch.positions, np.int64),
            batch.partition,
            self._catalog,
            heads,
            not_plain,
        )
        single |= _read_rows(batch, columns.plain & ~in_bulk)
        commands = [(batch.message(row), single[row]) for row in sorted(single)]
        return _BatchResponses(heads, bulk_folds, await self._check_commands(commands))

    async def _check_commands(
        self, commands: Sequence[tuple[Message, TrackingCommand | Refusal]]
    ) -> list[CommandResponse]:
        """Check the commands one at a time, each by the newest description of its volume.

        A volume is described before its first command is sent. So if a newer description could
        change one of the responses, the catalog is read to the topic's end first. A command that
        changes its volume changes the description by which the commands behind it are checked.
        """
        if any(
            check_command(message, command, self._described(command)).depends_on_description
            for message, command in commands
        ):
            await asyncio.to_thread(self._catalog.refresh)
        responses = []
        for message, command in commands:
            response = check_command(message, command, self._described(command))
            if response.new_description is not None:
                self._catalog.take(response.new_description)
            responses.append(response)
        return responses

    def _described(self, command: TrackingCommand | Refusal) -> Volume | None:
        return self._catalog.get(command.volume) if isinstance(command, TrackingCommand) else None


def _read_rows(
    batch: EventBatch, rows: npt.NDArray[np.bool_]
) -> dict[int, TrackingCommand | Refusal]:
    """Decode the events in the rows of the mask, one at a time."""
    return {row: read_command(batch.message(row)) for row in np.flatnonzero(rows).tolist()}


def _volumes_of(columns: CommandColumns) -> set[str]:
    return {sender.volume for sender in columns.senders}
