"""A worker of the node reports what it does, and once more when it stops in good order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from deadlines import DEADLINE_S

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import StatusCode
from mirrorlog.domain.reports import NodePartitionState, NodeReport, PartitionReport
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.streams.node_reporting import NodeReporter, ReportingWorker, WatchedRecovery
from mirrorlog.streams.table.flush_counters import FlushCounters

RUNNING = PartitionReport(
    partition=1, state=NodePartitionState.RUNNING, recorded_through=4, lag_s=0.0
)


class RecordingSink:
    """A ReportSink that keeps every report."""

    def __init__(self) -> None:
        self.reports: list[NodeReport] = []
        self.is_closed = False
        self.arrived = asyncio.Event()

    def publish(self, key: bytes, value: bytes) -> None:
        report = decode(value, NodeReport)
        assert key == report.key
        self.reports.append(report)
        self.arrived.set()

    def close(self) -> None:
        self.is_closed = True


class Recovery:
    """A recovery that goes on until it is told to end."""

    def __init__(self) -> None:
        self.end = asyncio.Event()

    async def catch_up(self, partitions: Sequence[int]) -> None:
        del partitions
        await self.end.wait()

    async def stand_by(self, partitions: Sequence[int]) -> None:
        del partitions


class Worker:
    """A worker that folds partition 1."""

    def __init__(self) -> None:
        self.clock, self.counters, self.sink = ManualClock(), FlushCounters(), RecordingSink()
        self.partitions: tuple[PartitionReport, ...] = (RUNNING,)
        self.later: tuple[PartitionReport, ...] = ()
        self.recovery = Recovery()
        self.watched = WatchedRecovery(self.recovery)
        figures: Any = SimpleNamespace(
            clock=self.clock, counters=self.counters, partitions=self.read_partitions
        )
        worker = ReportingWorker("n", 3, "http://n:1", "9.9")
        settings = Settings(report_s=2.0, report_idle_s=10.0)
        self.reporter = NodeReporter(worker, figures, self.watched, self.sink, settings)

    def read_partitions(self) -> tuple[PartitionReport, ...]:
        read, self.partitions = self.partitions, self.later or self.partitions
        return read


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_a_report_says_what_the_worker_does(worker: Worker) -> None:
    worker.counters.statuses.update(
        {StatusCode.ACCEPTED: 5, StatusCode.DUPLICATE: 2, StatusCode.REJECTED: 1}
    )
    worker.counters.quarantined = 1
    worker.reporter.report_if_due()
    assert worker.sink.reports == [
        NodeReport(
            node="n",
            started_at_us=3,
            at_us=worker.clock.now_us(),
            http_url="http://n:1",
            version="9.9",
            partitions=(RUNNING,),
            accepted=7,
            refused=1,
            quarantined=1,
        )
    ]


def test_an_idle_worker_reports_now_and_then(worker: Worker) -> None:
    for _ in range(11):
        worker.reporter.report_if_due()
        worker.clock.now_s += 1.0
    assert len(worker.sink.reports) == 2
    worker.counters.quarantined = 1
    worker.reporter.report_if_due()
    assert len(worker.sink.reports) == 3


def test_partitions_whose_tables_are_read_are_recovering(worker: Worker) -> None:
    async def run() -> None:
        worker.partitions = ()
        catching_up = asyncio.create_task(worker.watched.catch_up([1, 2]))
        await asyncio.sleep(0)
        assert worker.reporter.report().partitions == (
            PartitionReport(partition=1, state=NodePartitionState.RECOVERING),
            PartitionReport(partition=2, state=NodePartitionState.RECOVERING),
        )
        worker.partitions = (RUNNING,)
        assert [partition.partition for partition in worker.reporter.report().partitions] == [1, 2]
        worker.recovery.end.set()
        await catching_up
        assert worker.reporter.report().partitions == (RUNNING,)

    asyncio.run(run())


def test_a_worker_reports_by_itself_and_says_when_it_stops(worker: Worker) -> None:
    async def run() -> None:
        await worker.reporter.start()
        await asyncio.wait_for(worker.sink.arrived.wait(), DEADLINE_S)
        await worker.reporter.stop()

    asyncio.run(run())
    first, last = worker.sink.reports
    assert (first.is_over, first.partitions) == (False, (RUNNING,))
    assert (last.is_over, last.partitions) == (True, ())
    assert worker.sink.is_closed


def test_an_error_while_reporting_harms_nothing(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> tuple[PartitionReport, ...]:
        raise KeyError(1)

    async def run() -> None:
        worker.reporter._figures.partitions = fail  # type: ignore[method-assign]
        await worker.reporter.start()
        await asyncio.sleep(0)
        worker.reporter._figures.partitions = worker.read_partitions  # type: ignore[method-assign]
        await worker.reporter.stop()

    asyncio.run(run())
    assert "can't report" in caplog.text
    assert [report.is_over for report in worker.sink.reports] == [True]


@pytest.mark.parametrize("later", [RUNNING, replace(RUNNING, lag_s=None)])
def test_a_lag_that_is_unknown_for_a_moment_is_waited_for(
    worker: Worker, later: PartitionReport
) -> None:
    worker.partitions, worker.later = (replace(RUNNING, lag_s=None),), (later,)

    async def run() -> None:
        await worker.reporter.start()
        await asyncio.wait_for(worker.sink.arrived.wait(), DEADLINE_S)
        await worker.reporter.stop()

    asyncio.run(run())
    assert worker.sink.reports[0].partitions == (later,)
