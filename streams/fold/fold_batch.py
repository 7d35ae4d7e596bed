"""The processing node's work on one batch: read, check, plan, flush. Faust brings the batches (app.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from mirrorlog.codec.command_columns import decode_columns
from mirrorlog.domain.commands import Refusal, TrackingCommand
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import OutOfRetention
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message
from mirrorlog.reading.catalog import Catalog
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.bulk_fold import smooth_volumes
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.fold.flush_plan import FlushPlan, FlushRange, plan_flush
from mirrorlog.streams.fold.response import CommandResponse, check_command, read_command
from mirrorlog.tracking_log.heads import VolumeHead


class DurableLog(Protocol):
    """Where flushes go, and what is there."""

    def heads(self, partition: int, volumes: Sequence[str]) -> Mapping[str, VolumeHead]:
        """The heads of those volumes that have one."""

    def complete_through(self, partition: int) -> int:
        """Up to which position the partition's log is complete."""

    async def flush(self, plan: FlushPlan) -> None:
        """Makes a plan durable, in its order."""


class CommittedPosition(Protocol):
    """Where the group begins."""

    def __call__(self, partition: int) -> int:
        """The first position of the partition that isn't committed."""


class GapReason(Protocol):
    """Why positions don't follow each other."""

    def __call__(self, partition: int, first: int, end: int) -> str | None:
        """What became of the commands at `[first, end)`; None where there are none, as behind a transaction's marker."""


class LogMaintenance(Protocol):
    """What is done with the log between two flushes."""

    async def work(self, partition: int) -> float:
        """A little work, durable when it returns; in how many seconds at the latest there is more."""


class BatchFolder:
    """Everything between a batch of events and a durable log."""

    def __init__(
        self,
        log: DurableLog,
        gate: CommitGate,
        catalog: Catalog,
        committed: CommittedPosition,
        missed: GapReason,
        clock: Clock,
        record_max_bytes: int,
        compactor: LogMaintenance,
    ) -> None:
        self._log, self._gate, self._catalog, self._committed, self._missed = (
            log,
            gate,
            catalog,
            committed,
            missed,
        )
        self._clock, self._record_max_bytes, self._compactor = clock, record_max_bytes, compactor

    async def record(self, batch: EventBatch) -> None:
        """One batch of one partition, in order. Raises only what must stop the node."""
        partition = batch.partition
        if not self._gate.is_assigned(partition):
            self._gate.assign(partition, await asyncio.to_thread(self._committed, partition))
            # Whoever had the partition before may have described its volumes anew.
            await asyncio.to_thread(self._catalog.refresh)
        await self._check_follow(partition, batch.positions)
        # What the log holds already isn't folded together with what is new: a site that has the one would be told to copy
        # it again for the other.
        for part in batch.split_after(self._log.complete_through(partition)):
            await self._log.flush(await self._plan(part))

    async def maintain(self, partition: int) -> float:
        """A little work on the partition's log, between two batches; in how many seconds at the latest there is more."""
        return await self._compactor.work(partition)

    async def _plan(self, batch: EventBatch) -> FlushPlan:
        """What is plain is folded a volume at a time; everything else is answered one command at a time."""
        partition, columns = batch.partition, decode_columns(batch.values)
        odd = {
            row: read_command(batch.message(row)) for row in np.flatnonzero(~columns.plain).tolist()
        }
        spoken_of = {
            command.volume for command in odd.values() if isinstance(command, TrackingCommand)
        }
        heads = self._log.heads(
            partition, sorted(spoken_of | {sender.volume for sender in columns.senders})
        )
        positions = np.array(batch.positions, np.int64)
        smooth, taken = smooth_volumes(
            columns, positions, partition, self._catalog, heads, spoken_of
        )
        odd |= {
            row: read_command(batch.message(row))
            for row in np.flatnonzero(columns.plain & ~taken).tolist()
        }
        answers = await self._answers([(batch.message(row), odd[row]) for row in sorted(odd)])
        return plan_flush(
            FlushRange(partition, batch.positions[0], batch.positions[-1]),
            answers,
            smooth,
            heads,
            self._clock.now_us(),
            self._record_max_bytes,
            self._log.complete_through(partition),
        )

    async def _check_follow(self, partition: int, positions: Sequence[int]) -> None:
        """OutOfRetention where commands lie between what the log has and these positions, or between two of them."""
        expected = self._gate.expected_position(partition)
        if positions[0] <= expected and positions[-1] - positions[0] == len(positions) - 1:
            return
        for position in positions:
            if position > expected and (
                why := await asyncio.to_thread(self._missed, partition, expected, position)
            ):
                raise OutOfRetention(
                    f"commands at positions {expected} to {position - 1} {why}",
                    where=f"topic {self._gate.topic}, partition {partition}",
                    next="Nothing behind them is committed. Start the node again; if they were deleted it says what to do.",
                )
            expected = max(expected, position + 1)

    async def _answers(
        self, commands: Sequence[tuple[Message, TrackingCommand | Refusal]]
    ) -> list[CommandResponse]:
        if any(
            check_command(message, command, self._described(command)).by_description
            for message, command in commands
        ):
            # A volume is described before its first command is sent: reading to the topic's end settles it.
            await asyncio.to_thread(self._catalog.refresh)
        answers = []
        for message, command in commands:
            answer = check_command(message, command, self._described(command))
            if answer.described is not None:
                self._catalog.take(answer.described)  # those behind it meet the volume as it is now
            answers.append(answer)
        return answers

    def _described(self, command: object) -> Volume | None:
        return self._catalog.get(command.volume) if isinstance(command, TrackingCommand) else None
