"""Traces of a node: a span for each batch, linked to its commands."""

from __future__ import annotations

from typing import Final

from mirrorlog.ports.clock import Clock
from mirrorlog.ports.tracing import Tracer, latest_ids
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.batch_plan import PlannedFlush
from mirrorlog.streams.fold.fold_batch import BatchFolder


class TracedFolder:
    """A BatchFolder whose batches are traced. Methods without a docstring follow it.

    The node has it in front of its own only if traces are switched on.
    """

    def __init__(self, folder: BatchFolder, tracer: Tracer, clock: Clock) -> None:
        self._folder: Final = folder
        self._tracer: Final = tracer
        self._clock: Final = clock

    def recorded_end(self, partition: int) -> int:
        return self._folder.recorded_end(partition)

    async def pass_empty(self, partition: int, end: int) -> None:
        await self._folder.pass_empty(partition, end)

    async def maintain(self, partition: int) -> float:
        return await self._folder.maintain(partition)

    def plan_ahead(self, batch: EventBatch) -> PlannedFlush | None:
        return self._folder.plan_ahead(batch)

    async def record(self, batch: EventBatch, ahead: PlannedFlush | None = None) -> None:
        """Fold the batch, and record its span when the changelog has acknowledged it."""
        began_us = self._clock.now_us()
        await self._folder.record(batch, ahead)
        self._tracer.record(
            "node batch",
            began_us=began_us,
            ended_us=self._clock.now_us(),
            attributes={
                "partition": batch.partition,
                "first": batch.positions[0],
                "through": batch.positions[-1],
                "commands": len(batch.positions),
            },
            links=latest_ids(batch.topic, partition=batch.partition, positions=batch.positions),
        )
