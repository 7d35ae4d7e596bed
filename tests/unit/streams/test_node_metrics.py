"""The metrics of a worker of the node."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError
from notation import GENERATION, backup_report, command, message, volume
from scraping import exported_names, scrape

from mirrorlog.codec.events import encode
from mirrorlog.domain.backup_reports import BackupReport
from mirrorlog.domain.commands import StatusCode, TrackingCommand
from mirrorlog.domain.reports import NodePartitionState
from mirrorlog.metric_samples import ExportingRole
from mirrorlog.metrics import METRICS
from mirrorlog.reading.present_state import Reported
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.status.backups import evaluate_backups
from mirrorlog.streams.engine import EngineHealth
from mirrorlog.streams.faust_worker.acknowledged_sends import SendReports
from mirrorlog.streams.fold.flush_plan import FlushPlan, FlushRange, plan_flush
from mirrorlog.streams.fold.response import check_command, read_command
from mirrorlog.streams.node_figures import NodeFigures
from mirrorlog.streams.node_metrics import node_samples
from mirrorlog.streams.table.flush_counters import FlushCounters

Page = Mapping[str, Mapping[tuple[str, ...], float]]


@dataclass
class Worker:
    """A worker with the partitions 0 and 1, whose log holds all commands.

    ends: where the log ends, and where the commands end, by partition.
    """

    ends: dict[int, tuple[int, int | None]] = field(default_factory=lambda: {0: (5, 5), 1: (7, 7)})
    waiting_us: dict[int, int] = field(default_factory=dict)
    health: EngineHealth = field(default_factory=lambda: EngineHealth({}, 0.0, None))
    is_settled: bool = True
    clock: ManualClock = field(default_factory=lambda: ManualClock(now_s=100.0))
    backups: list[BackupReport] = field(default_factory=lambda: [hourly_backup()])

    def __post_init__(self) -> None:
        self.counters, self.histories = FlushCounters(), SimpleNamespace(renewals=0)

    def figures(self) -> NodeFigures:
        store = SimpleNamespace(size_bytes={0: 4096}.get)
        engine: Any = SimpleNamespace(
            health=lambda: self.health, seen_end=lambda number: self.ends[number][1], store=store
        )
        loops: Any = SimpleNamespace(
            partitions=sorted(self.ends), oldest_waiting_us=self.waiting_us.get
        )
        gate: Any = SimpleNamespace(expected_position=lambda number: self.ends[number][0])
        histories: Any = self.histories
        heard = [Reported(report, self.clock.now_us()) for report in self.backups]
        return NodeFigures(
            engine,
            loops,
            gate,
            histories,
            self.counters,
            self.clock,
            lambda: self.is_settled,
            lambda: evaluate_backups(heard, {"v": volume()}, self.clock.now_us()),
        )

    def page(self, backup_limit: int = 10) -> Page:
        return scrape(ExportingRole.NODE, lambda: node_samples("n", self.figures(), backup_limit))


def hourly_backup(**more: object) -> BackupReport:
    """Return the report of a backup of the volume v that was made 10 s ago, each hour."""
    fields: dict[str, object] = {
        "at_us": 100_000_000,
        "point": "20261128T231501Z-00000000",
        "written_at_us": 90_000_000,
        "is_consistent": True,
        "every_s": 3600.0,
    }
    return backup_report(**(fields | more))


def flush_plan(*values: bytes) -> FlushPlan:
    """Return the plan of a flush of these events of the volume v."""
    messages = [message(position, value) for position, value in enumerate(values)]
    read = [read_command(message) for message in messages]
    responses = [
        check_command(message, one, volume() if isinstance(one, TrackingCommand) else None)
        for message, one in zip(messages, read, strict=True)
    ]
    flush_range = FlushRange(partition=0, first=0, last=len(values) - 1)
    return plan_flush(flush_range, responses, (), {}, now_us=9, record_max_bytes=900_000)


def test_every_metric_of_the_node_is_exported() -> None:
    roles = (ExportingRole.NODE, ExportingRole.EVERY)
    names = {metric.name for metric in METRICS if metric.role in roles}
    assert exported_names(Worker().page()) == names


def test_a_worker_that_has_recorded_everything_has_no_problem() -> None:
    page = Worker().page()
    for metric in METRICS:
        if metric.is_problem and metric.role is ExportingRole.NODE:
            assert set(page[metric.name].values()) == {0.0}, metric.name
    assert page["mirrorlog_node_partitions"] == {("n",): 2}
    assert page["mirrorlog_node_table_bytes"] == {("n", "0"): 4096}


def test_commands_that_wait_have_an_age() -> None:
    worker = Worker(ends={0: (5, 9), 1: (7, None)}, waiting_us={0: 97_000_000})
    page = worker.page()
    assert page["mirrorlog_node_partition_behind_commands"] == {("n", "0"): 4}
    assert page["mirrorlog_node_partition_lag_seconds"] == {("n", "0"): 3}
    # Nothing was fetched: how old the commands are isn't known.
    unknown = Worker(ends={0: (5, 9)}).figures().partitions()[0]
    assert (unknown.behind_commands, unknown.lag_s) == (4, None)


def test_trouble_of_the_engine_shows() -> None:
    health = EngineHealth({1: "no fetch has been answered"}, 12.0, "messages to x: away")
    worker = Worker(health=health, is_settled=False)
    page = worker.page()
    assert page["mirrorlog_node_partition_stuck"] == {("n", "0"): 0, ("n", "1"): 1}
    assert page["mirrorlog_node_holding_back_seconds"] == {("n",): 12}
    assert page["mirrorlog_node_recovering"] == {("n",): 1}
    reports = worker.figures().partitions()
    assert [report.state for report in reports] == [
        NodePartitionState.HOLDING_BACK,
        NodePartitionState.STUCK,
    ]
    assert [report.reason for report in reports] == [
        "messages to x: away",
        "no fetch has been answered",
    ]


def test_answers_records_and_refused_events_are_counted() -> None:
    worker = Worker()
    values = [encode(command("0+4096", sequence=number)) for number in (0, 1, 1)]
    worker.counters.note_flush(flush_plan(*values, b"no command"), 0.02)
    worker.counters.note_record(1)
    page = worker.page()
    codes = {labels[1]: value for labels, value in page["mirrorlog_node_commands_total"].items()}
    assert codes["ACCEPTED"] == 2
    assert codes["DUPLICATE"] == 1
    assert codes["REJECTED"] == 1
    assert set(codes) == {*StatusCode} - {StatusCode.UNKNOWN}
    assert page["mirrorlog_node_quarantined_total"] == {("n",): 1}
    tiers = page["mirrorlog_node_records_written_total"]
    assert (tiers["n", "second"], tiers["n", "minute"], tiers["n", "day"]) == (1, 1, 0)
    buckets = page["mirrorlog_node_flush_duration_seconds_bucket"]
    assert (buckets["n", "0.01"], buckets["n", "0.025"]) == (0, 1)


BACKUP = ("v", GENERATION, "/backups")
OTHER = "99999999-9999-4999-8999-999999999999"


def test_a_backup_has_its_time_and_what_was_promised() -> None:
    page = Worker().page()
    assert page["mirrorlog_backup_last_point_timestamp_seconds"] == {BACKUP: 90}
    assert page["mirrorlog_backup_interval_seconds"] == {BACKUP: 3600}


@pytest.mark.parametrize(
    ("report", "problem"),
    [
        (hourly_backup(at_us=100_000_000 + 7_251_000_000), "overdue"),
        (hourly_backup(failure="the disk is full"), "failed"),
        (hourly_backup(is_consistent=False), "inconsistent"),
    ],
)
def test_each_problem_of_a_backup_shows_alone(report: BackupReport, problem: str) -> None:
    page = Worker(backups=[report]).page()
    values = {name: page[f"mirrorlog_backup_{name}"][BACKUP] for name in PROBLEMS}
    assert values == {name: float(name == problem) for name in PROBLEMS}


PROBLEMS = ("overdue", "failed", "inconsistent")


def test_what_isnt_known_of_a_backup_has_no_series() -> None:
    never = hourly_backup(point=None, written_at_us=None, is_consistent=None, every_s=None)
    page = Worker(backups=[never]).page()
    assert {name for name in page if "_backup_" in name} == {
        "mirrorlog_backup_overdue",
        "mirrorlog_backup_failed",
    }
    assert page["mirrorlog_backup_overdue"] == {BACKUP: 0}


def test_beyond_the_limit_the_backups_with_problems_have_series() -> None:
    bad = hourly_backup(repository=OTHER, failure="the disk is full")
    page = Worker(backups=[hourly_backup(), bad]).page(backup_limit=1)
    assert page["mirrorlog_backup_failed"] == {("v", OTHER, "/backups"): 1}
    assert page["mirrorlog_backups_unlisted"] == {("n",): 1}


def test_messages_that_arent_acknowledged_hold_the_node_back() -> None:
    clock = ManualClock()
    reports = SendReports(clock)
    assert reports.held_back == (0.0, None)
    with reports.sending("b") as second_failed:
        with pytest.raises(asyncio.CancelledError), reports.sending("a") as first_failed:
            clock.now_s += 5
            assert reports.held_back == (0.0, None)
            first_failed(KafkaTimeoutError())
            held_back_s, reason = reports.held_back
            assert held_back_s == 5
            assert reason is not None
            assert "messages to a" in reason
            raise asyncio.CancelledError  # as when the partition goes to another worker
        assert reports.held_back == (0.0, None)
        second_failed(KafkaTimeoutError())
        assert reports.held_back[0] == 5
    assert reports.held_back == (0.0, None)
