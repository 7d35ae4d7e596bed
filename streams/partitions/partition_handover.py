"""What the node does when the engine gives partitions to this worker or takes them away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from mirrorlog.reading.catalog import Catalog
from mirrorlog.streams.compaction.compactor import LogCompactor
from mirrorlog.streams.engine import AbortProcess
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.history.partition_histories import PartitionHistories
from mirrorlog.streams.partitions.partition_loops import PartitionLoops
from mirrorlog.streams.partitions.source_topic import SourceTopic
from mirrorlog.streams.partitions.start_positions import PartitionBounds, plan_start_position
from mirrorlog.streams.table.log_table import LogTable

log = logging.getLogger("mirrorlog.node")


@dataclass(frozen=True, slots=True)
class PartitionHandover:
    """Starts and stops the work on partitions (engine.PartitionListener).

    on_ready: called with the worker's partitions each time that the work on them has started.
    """

    table: LogTable
    gate: CommitGate
    loops: PartitionLoops
    compactor: LogCompactor
    source: SourceTopic
    histories: PartitionHistories
    catalog: Catalog
    abort: AbortProcess
    on_ready: Callable[[Sequence[int]], None]

    def release(self, partitions: Collection[int]) -> None:
        """Forget everything about partitions that are being assigned or revoked."""
        self.loops.stop(partitions)
        self.gate.revoke(partitions)
        self.compactor.revoke(partitions)

    def stop(self) -> None:
        """Stop all work. Call it before the producer stops: a flush would fail without it."""
        self.loops.stop()

    async def start(self, partitions: Sequence[int]) -> None:
        """Start the work on the worker's partitions, once their tables are recovered.

        Aborts the process if a start position can't be found (KafkaFailed, ChangelogRefused).
        """
        try:
            # The previous worker of a partition may have changed the descriptions of its volumes.
            await asyncio.to_thread(self.catalog.refresh)
            bounds = await asyncio.to_thread(self.source.bounds, partitions)
            for partition in partitions:
                await self._open_gate(partition, bounds[partition])
        except Exception as error:  # noqa: BLE001
            self.abort(error)
        self.loops.start(partitions)
        self.on_ready(partitions)

    async def _open_gate(self, partition: int, bounds: PartitionBounds) -> None:
        """Tell the commit gate where the partition's commands begin.

        That is where its history begins, if it had to be renewed, or plan_start_position.
        """
        before = self.table.complete_through(partition)
        start = await self.histories.enter(partition)
        if start is not None:
            self.gate.assign(partition, position=start)
            return
        through = self.table.complete_through(partition)
        position = plan_start_position(bounds, through)
        if bounds.committed is None and before >= 0:
            log.warning(
                "partition %d: the group has no committed position: it was deleted, or no node ran "
                "for longer than Kafka keeps it; the commands from %d on are folded, where the log "
                "ends",
                partition,
                position,
            )
        elif bounds.committed is not None and position < bounds.committed:
            log.warning(
                "partition %d: the log ends at position %d, before the %d that was committed: "
                "the commands from %d on are folded again",
                partition,
                through,
                bounds.committed,
                position,
            )
        self.gate.assign(partition, position=position)
