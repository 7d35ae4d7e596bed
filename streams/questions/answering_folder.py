"""AnsweringFolder: answers questions in the log, between two flushes of a partition."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import Final, Protocol

from mirrorlog.codec.events import encode
from mirrorlog.domain.histories import NO_EPOCH
from mirrorlog.domain.log_questions import LogAnswer
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.batch_plan import PlannedFlush
from mirrorlog.streams.partitions.partition_loops import BatchProcessor
from mirrorlog.streams.questions.open_questions import OpenQuestion, OpenQuestions
from mirrorlog.streams.questions.table_census import TableCensus
from mirrorlog.streams.table.local_store import Row
from mirrorlog.tracking_log.breaks import CommandsNow
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import answer_key

log = logging.getLogger("mirrorlog.node")

_REPEAT_AFTER_S: Final = 30.0
"""The heads of a partition are written again at most this often."""


class AnsweredTable(Protocol):
    """The part of LogTable that answers need."""

    def watermark(self, partition: int) -> Watermark | None:
        """Return the partition's watermark, None if the log has none."""

    async def append(self, partition: int, rows: Sequence[Row]) -> None:
        """Write rows that belong to no flush to the log, acknowledged."""

    async def repeat_watermark(self, partition: int) -> None:
        """Append the partition's watermark again."""

    def take_strangers(self, partition: int) -> bool:
        """Return whether others appended rows to the partition since the last call."""


class AskedCommands(Protocol):
    """The part of SourceTopic that answers need."""

    def commands_now(self, partition: int, position: int) -> CommandsNow:
        """Return the partition's bounds, and the digest of the command at `position`. It blocks."""


class AnsweringFolder:
    """A BatchProcessor in front of another, which also answers. Other methods follow that one.

    It is a PartitionListener, too: it forgets what it knows of partitions that are taken away.
    """

    def __init__(
        self,
        inner: BatchProcessor,
        questions: OpenQuestions,
        census: TableCensus,
        table: AnsweredTable,
        source: AskedCommands,
        clock: Clock,
    ) -> None:
        self._inner: Final = inner
        self._questions: Final = questions
        self._census: Final = census
        self._table: Final = table
        self._source: Final = source
        self._clock: Final = clock
        self._repeated_at_s: Final[dict[int, float]] = {}

    def recorded_end(self, partition: int) -> int:
        """Return the first position of the partition that isn't in the log."""
        return self._inner.recorded_end(partition)

    async def pass_empty(self, partition: int, end: int) -> None:
        """Let the log be complete up to `end`, unless a command lies between."""
        await self._inner.pass_empty(partition, end)

    def plan_ahead(self, batch: EventBatch) -> PlannedFlush | None:
        """Plan the flush of a batch while the one before it is recorded (BatchFolder)."""
        return self._inner.plan_ahead(batch)

    async def record(self, batch: EventBatch, ahead: PlannedFlush | None = None) -> None:
        """Make the batch's commands durable in the log (BatchFolder)."""
        await self._inner.record(batch, ahead)

    async def maintain(self, partition: int) -> float:
        """Answer the questions that wait, then do a little work on the partition's log.

        Before that, write all heads again if others appended rows to the partition: heads of a
        worker that has lost it may have taken their place.
        """
        if self._table.take_strangers(partition):
            await self._repeat_heads(partition)
        for question in self._questions.of(partition):
            try:
                await self._answer(question)
            except KafkaFailed as error:
                log.warning("a site's question waits: %s", error)
                break
        return await self._inner.maintain(partition)

    def release(self, partitions: Collection[int]) -> None:
        """Forget the partitions: another worker may write to their tables."""
        self._census.forget(partitions)

    async def start(self, partitions: Sequence[int]) -> None:
        """Do nothing: what waits is answered when a partition is maintained first."""

    def stop(self) -> None:
        """Do nothing."""

    async def _answer(self, asked: OpenQuestion) -> None:
        """Answer one question. The order keeps the answer true:

        1. Ask where the commands end. The question was read before.
        2. If the asker lacks rows, write all heads again, and then the watermark.
        3. Take the watermark and the census. No flush of the partition runs meanwhile, so they
           stand for the log as it is right before the answer.
        4. Append the answer.
        """
        question, part = asked
        partition = part.partition
        now = await asyncio.to_thread(self._source.commands_now, partition, part.position)  # 1
        if part.repeat_heads and self._may_repeat(partition):
            await self._repeat_heads(partition)  # 2
        watermark, census = self._table.watermark(partition), self._census.of(partition)  # 3
        answer = LogAnswer(
            asker=question.asker,
            run=question.run,
            number=question.number,
            partition=partition,
            topic=now.topic,
            first_kept=now.first_kept,
            end=now.end,
            position=part.position,
            anchor=now.anchor,
            epoch=NO_EPOCH if watermark is None else watermark.epoch,
            through=BEFORE_FIRST if watermark is None else watermark.through,
            heads=len(census),
            heads_digest=census.digest,
        )
        await self._table.append(partition, [(answer_key(question.asker), encode(answer))])  # 4
        self._questions.note_answered(asked)

    async def _repeat_heads(self, partition: int) -> None:
        """Append all heads of the partition again, and then its watermark."""
        for rows in self._census.heads(partition):
            await self._table.append(partition, rows)
        await self._table.repeat_watermark(partition)

    def _may_repeat(self, partition: int) -> bool:
        now_s = self._clock.monotonic_s()
        before_s = self._repeated_at_s.get(partition)
        if before_s is not None and now_s - before_s < _REPEAT_AFTER_S:
            return False
        self._repeated_at_s[partition] = now_s
        return True
