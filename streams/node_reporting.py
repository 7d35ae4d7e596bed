"""The reports of a worker of the node on the topic `mirrorlog.reports`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from mirrorlog.codec.events import encode
from mirrorlog.domain.commands import StatusCode
from mirrorlog.domain.report_pacing import ReportPacing
from mirrorlog.domain.reports import NodePartitionState, NodeReport, PartitionReport
from mirrorlog.ports.reports import ReportSink
from mirrorlog.settings import Settings
from mirrorlog.streams.engine import TableRecovery
from mirrorlog.streams.node_figures import NodeFigures

_LOOK_S: Final = 0.02
_LOOKS: Final = 50
log = logging.getLogger("mirrorlog.node")


@dataclass(frozen=True, slots=True)
class ReportingWorker:
    """The worker that reports. started_at_us: microseconds since 1970 by the worker's clock."""

    node: str
    started_at_us: int
    http_url: str | None
    version: str


class WatchedRecovery:
    """A TableRecovery that knows which partitions catch up now: `recovering`."""

    def __init__(self, recovery: TableRecovery) -> None:
        self._recovery = recovery
        self.recovering: frozenset[int] = frozenset()

    async def catch_up(self, partitions: Sequence[int]) -> None:
        """Return when the tables of `partitions` hold all that the changelog held at the call."""
        self.recovering = frozenset(partitions)
        try:
            await self._recovery.catch_up(partitions)
        finally:
            self.recovering = frozenset()

    async def stand_by(self, partitions: Sequence[int]) -> None:
        """Let the tables of `partitions` follow the changelog, until cancelled."""
        await self._recovery.stand_by(partitions)


class NodeReporter:
    """Reports every few seconds, and once more when the worker stops (engine.EngineService).

    The worker is on the engine's event loop, and so are all calls. `sink` has a thread of its own.
    """

    def __init__(
        self,
        worker: ReportingWorker,
        figures: NodeFigures,
        recovery: WatchedRecovery,
        sink: ReportSink,
        settings: Settings,
    ) -> None:
        self._worker, self._figures, self._recovery = worker, figures, recovery
        self._sink, self._interval_s = sink, settings.report_s
        self._pacing = ReportPacing(interval_s=0.0, idle_s=settings.report_idle_s)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to report."""
        self._task = asyncio.create_task(self._run(), name="mirrorlog-reports")

    async def stop(self) -> None:
        """Report that the worker has stopped in good order."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        last = replace(self.report(), partitions=(), is_over=True)
        self._sink.publish(last.key, encode(last))
        await asyncio.to_thread(self._sink.close)

    def report_if_due(self) -> None:
        """Publish a report if it says something new, or if the last one is old."""
        report = self.report()
        now_s = self._figures.clock.monotonic_s()
        if self._pacing.is_due(report.key, replace(report, at_us=0), now_s=now_s):
            self._sink.publish(report.key, encode(report))

    def report(self) -> NodeReport:
        """Return the worker's report as of now."""
        worker, counters = self._worker, self._figures.counters
        refused = counters.statuses[StatusCode.REJECTED]
        return NodeReport(
            node=worker.node,
            started_at_us=worker.started_at_us,
            at_us=self._figures.clock.now_us(),
            http_url=worker.http_url,
            version=worker.version,
            partitions=self._partitions(),
            accepted=counters.statuses.total() - refused,
            refused=refused,
            quarantined=counters.quarantined,
        )

    def _partitions(self) -> tuple[PartitionReport, ...]:
        folded = self._figures.partitions()
        recovering = self._recovery.recovering - {report.partition for report in folded}
        state = NodePartitionState.RECOVERING
        reports = [
            *folded,
            *(PartitionReport(partition=partition, state=state) for partition in recovering),
        ]
        return tuple(sorted(reports, key=lambda report: report.partition))

    async def _run(self) -> None:
        """Report for ever. An error here is a defect, and costs no more than the report."""
        while True:
            try:
                await self._await_known_lags()
                self.report_if_due()
            except Exception:
                log.exception("the worker can't report what it does")
            await asyncio.sleep(self._interval_s)

    async def _await_known_lags(self) -> None:
        """Return when each partition's lag is known, or after a second.

        It isn't known for the moment between the fetch of a command, or of the partition's end, and
        its arrival at the fold. Whoever reads the report would take that for a fault.
        """
        for _ in range(_LOOKS):
            if all(report.lag_s is not None for report in self._figures.partitions()):
                return
            await asyncio.sleep(_LOOK_S)
