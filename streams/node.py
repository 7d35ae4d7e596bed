"""The processing node's work on one batch: read, check, plan, flush. Faust brings the batches (app.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from mirrorlog.catalog import Catalog
from mirrorlog.commands import TrackingCommand
from mirrorlog.errors import OutOfRetention
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message
from mirrorlog.streams.commit_gate import CommitGate
from mirrorlog.streams.log import FlushPlan, plan_flush
from mirrorlog.streams.response import Answer, check, read_command
from mirrorlog.tracking_log import VolumeHead
from mirrorlog.volumes import Volume


class Log(Protocol):
    """Where flushes go, and what is there."""

    def heads(self, partition: int, volumes: Sequence[str]) -> Mapping[str, VolumeHead]:
        """The heads of those volumes that have one."""

    def complete_through(self, partition: int) -> int:
        """Up to which position the partition's log is complete."""

    async def flush(self, plan: FlushPlan) -> None:
        """Makes a plan durable, in its order."""


class Committed(Protocol):
    """Where the group begins."""

    def __call__(self, partition: int) -> int:
        """The first position of the partition that isn't committed."""


class Missed(Protocol):
    """Why positions don't follow each other."""

    def __call__(self, partition: int, first: int, end: int) -> str | None:
        """What became of the commands at `[first, end)`; None where there are none, as behind a transaction's marker."""


class Node:
    """Everything between a batch of events and a durable log."""

    def __init__(
        self,
        log: Log,
        gate: CommitGate,
        catalog: Catalog,
        committed: Committed,
        missed: Missed,
        clock: Clock,
        record_max_bytes: int,
    ) -> None:
        self._log, self._gate, self._catalog, self._committed, self._missed = log, gate, catalog, committed, missed
        self._clock, self._record_max_bytes = clock, record_max_bytes

    async def process(self, partition: int, messages: Sequence[Message]) -> None:
        """One batch of one partition, in order. Raises only what must stop the node."""
        if not self._gate.knows(partition):
            self._gate.begin(partition, await asyncio.to_thread(self._committed, partition))
        await self._check_follow(partition, [message.position for message in messages])
        answers = await self._answers(messages)
        volumes = sorted({answer.volume.volume for answer in answers if answer.volume})
        heads = self._log.heads(partition, volumes)
        complete = self._log.complete_through(partition)
        plan = plan_flush(partition, answers, heads, self._clock.now_us(), self._record_max_bytes, complete)
        await self._log.flush(plan)

    async def _check_follow(self, partition: int, positions: Sequence[int]) -> None:
        """OutOfRetention where commands lie between what the log has and these positions, or between two of them."""
        expected = self._gate.expects(partition)
        for position in positions:
            if position > expected and (why := await asyncio.to_thread(self._missed, partition, expected, position)):
                raise OutOfRetention(
                    f"commands at positions {expected} to {position - 1} {why}",
                    where=f"topic {self._gate.topic}, partition {partition}",
                    next="Nothing behind them is committed. Start the node again; if they were deleted it says what to do.",
                )
            expected = max(expected, position + 1)

    async def _answers(self, messages: Sequence[Message]) -> list[Answer]:
        commands = [(message, read_command(message)) for message in messages]
        answers = [check(message, command, self._described(command)) for message, command in commands]
        if not any(answer.by_description for answer in answers):
            return answers
        # A volume is described before its first command is sent: reading to the topic's end settles it.
        await asyncio.to_thread(self._catalog.refresh)
        return [check(message, command, self._described(command)) for message, command in commands]

    def _described(self, command: object) -> Volume | None:
        return self._catalog.get(command.volume) if isinstance(command, TrackingCommand) else None
