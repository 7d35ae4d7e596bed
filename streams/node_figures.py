"""What a worker of the node is doing now, as numbers for metrics and reports.

Everything is read on the event loop from what the worker knows anyway; nothing is asked of Kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mirrorlog.domain.reports import NodePartitionState, PartitionReport
from mirrorlog.ports.clock import Clock
from mirrorlog.status.backups import BackupStatus
from mirrorlog.streams.engine import Engine, EngineHealth
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.history.partition_histories import PartitionHistories
from mirrorlog.streams.partitions.partition_loops import PartitionLoops
from mirrorlog.streams.table.flush_counters import FlushCounters


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """The numbers of one worker. Call it on the event loop.

    counters: what it has written since its start. is_settled: asks whether the worker has its place
    in the group, and its tables are complete. backups: returns the registered backups of the
    volumes in the worker's partitions.
    """

    engine: Engine
    loops: PartitionLoops
    gate: CommitGate
    histories: PartitionHistories
    counters: FlushCounters
    clock: Clock
    is_settled: Callable[[], bool] = lambda: True
    backups: Callable[[], Sequence[BackupStatus]] = tuple

    def partitions(self) -> tuple[PartitionReport, ...]:
        """Return a report of each partition whose commands the worker folds."""
        health = self.engine.health()
        return tuple(self._partition(number, health) for number in self.loops.partitions)

    def _partition(self, partition: int, health: EngineHealth) -> PartitionReport:
        recorded_end = self.gate.expected_position(partition)
        end = self.engine.seen_end(partition)
        behind = None if end is None else max(0, end - recorded_end)
        state, reason = _state(health, partition)
        return PartitionReport(
            partition=partition,
            state=state,
            recorded_through=recorded_end - 1,
            commands_end=end,
            behind_commands=behind,
            lag_s=0.0 if behind == 0 else self._lag_s(partition),
            table_bytes=self.engine.store.size_bytes(partition),
            reason=reason,
        )

    def _lag_s(self, partition: int) -> float | None:
        """Return the age of the oldest command that was fetched and isn't recorded, if known."""
        appended_us = self.loops.oldest_waiting_us(partition)
        return None if appended_us is None else max(0.0, (self.clock.now_us() - appended_us) / 1e6)


def _state(health: EngineHealth, partition: int) -> tuple[NodePartitionState, str | None]:
    """Return the state of a partition, and the reason for it."""
    if partition in health.stuck:
        return NodePartitionState.STUCK, health.stuck[partition]
    if health.held_back_reason is not None:
        return NodePartitionState.HOLDING_BACK, health.held_back_reason
    return NodePartitionState.RUNNING, None
