"""The metrics of a site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from notation import GENERATION, record, site_progress, volume
from scraping import exported_names, scrape

from mirrorlog.consumers.resync.cycle_steps import CycleInput, Idle
from mirrorlog.consumers.resync.known_group import GroupFigures
from mirrorlog.consumers.resync.reporting import ProgressReporter, ReportedReplica
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.site_metrics import site_samples
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.metric_samples import ExportingRole
from mirrorlog.metrics import METRICS, REPLICA_STATE_NUMBERS
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.site_log import SiteLog

NOW_S = 1_000_000
OF_WORKERS = {
    "mirrorlog_site_workers",
    "mirrorlog_site_partitions",
    "mirrorlog_site_partitions_without_worker",
    *(metric.name for metric in METRICS if "worker" in metric.labels),
}
REPORT = site_progress(
    site="a",
    state=SiteState.CONSISTENT,
    rung=Rung.CHANGED,
    applied_position=4,
    consistent_position=4,
    watermark=4,
    blocks_copied=2,
    bytes_copied=8192,
    last_applied_at_us=5_000_000,
)


def replica(**changes: object) -> ReportedReplica:
    return ReportedReplica(
        replace(REPORT, **changes),  # type: ignore[arg-type]
        at_s=0.0,
        size_bytes=1 << 20,
        partition=3,
        consistent_at_us=6_000_000,
    )


@dataclass
class Site:
    replicas: list[ReportedReplica]
    name: str = "a"
    worked_at_us: int = NOW_S * 10**6
    complete_us: int | None = (NOW_S - 10) * 10**6

    def now_us(self) -> int:
        return NOW_S * 10**6

    def log_complete_us(self, partition: int) -> int | None:
        assert partition == 3
        return self.complete_us

    groups: Sequence[GroupFigures] = ()

    def reported(self) -> list[ReportedReplica]:
        return self.replicas

    def group_figures(self) -> Sequence[GroupFigures]:
        return self.groups


GROUP = GroupFigures(
    name="db",
    members=["v", "w"],
    is_at_point=True,
    common_point_at_us=7_000_000,
    common_points=3,
    unproved_cycles=0,
)


def page_of(
    *replicas: ReportedReplica, limit: int = 10, groups: Sequence[GroupFigures] = ()
) -> dict[str, dict[tuple[str, ...], float]]:
    site = Site(list(replicas), groups=groups)
    return scrape(ExportingRole.SITE, lambda: site_samples(site, limit))


def test_every_metric_of_a_site_is_exported() -> None:
    roles = (ExportingRole.SITE, ExportingRole.EVERY)
    names = {metric.name for metric in METRICS if metric.role in roles}
    page = page_of(replica(eta_s=9.0), groups=[GROUP])
    assert exported_names(page) == names - OF_WORKERS


def test_a_consistent_secondary_has_no_problem() -> None:
    page = page_of(replica(), groups=[GROUP])
    for metric in METRICS:
        is_of_site = metric.role is ExportingRole.SITE and metric.name not in OF_WORKERS
        if metric.is_problem and is_of_site:
            assert set(page[metric.name].values()) == {0.0}, metric.name
    assert page["mirrorlog_replica_may_promote"] == {("a", "v"): 1}
    assert page["mirrorlog_replica_last_applied_timestamp_seconds"] == {("a", "v"): 5}
    # It equalled the primary when the log was complete: an idle volume is up to date, not stale.
    assert page["mirrorlog_replica_last_consistent_timestamp_seconds"] == {("a", "v"): NOW_S - 10}


def test_the_common_point_of_a_group_ages_from_the_first_member_that_lacks_something() -> None:
    def time_of(*replicas: ReportedReplica, group: GroupFigures = GROUP) -> float | None:
        page = page_of(*replicas, groups=[group])
        times = page.get("mirrorlog_group_common_point_timestamp_seconds", {})
        assert page["mirrorlog_group_without_common_point"] == {
            ("a", "db"): float(not group.is_at_point)
        }
        return times.get(("a", "db"))

    idle, behind = replica(volume="v"), replica(volume="w", behind_blocks=1, lag_s=2.0)
    assert time_of(idle, replica(volume="w")) == NOW_S - 10
    assert time_of(idle, behind) == 7
    assert time_of(idle, replica(volume="w", state=SiteState.STOPPED)) == 7
    assert time_of(idle) == 7  # nothing is known of the other member
    untimed = replace(GROUP, common_point_at_us=None)
    assert time_of(idle, behind, group=untimed) is None
    assert time_of(idle, replica(volume="w"), group=untimed) == NOW_S - 10
    assert time_of(idle, replica(volume="w"), group=replace(GROUP, is_at_point=False)) is None


def test_the_cycles_of_a_group_are_counted_and_groups_without_a_point_come_first() -> None:
    apart = replace(GROUP, name="other", is_at_point=False, unproved_cycles=2)
    page = page_of(groups=[GROUP, apart])
    assert page["mirrorlog_group_common_points_total"] == {("a", "db"): 3, ("a", "other"): 3}
    assert page["mirrorlog_group_unproved_cycles_total"] == {("a", "db"): 0, ("a", "other"): 2}
    page = page_of(groups=[GROUP, apart], limit=1)
    assert page["mirrorlog_group_without_common_point"] == {("a", "other"): 1}


def test_what_a_comparison_found_equal_is_counted() -> None:
    page = page_of(replace(replica(), compared_bytes=8192, equal_bytes=4096))
    assert page["mirrorlog_replica_compared_bytes_total"] == {("a", "v"): 8192}
    assert page["mirrorlog_replica_equal_bytes_total"] == {("a", "v"): 4096}


@pytest.mark.parametrize("complete_us", [None, (NOW_S - 61) * 10**6])
def test_nothing_is_known_while_kafka_is_away(complete_us: int | None) -> None:
    site = Site([replica(volume="v"), replica(volume="w")], complete_us=complete_us)
    page = scrape(ExportingRole.SITE, lambda: site_samples(site, 10))
    assert "mirrorlog_replica_lag_seconds" not in page
    assert "mirrorlog_replica_behind_bytes" not in page
    assert page["mirrorlog_replica_lag_unknown"] == {("a", "v"): 1, ("a", "w"): 1}
    assert page["mirrorlog_site_lag_unknown_volumes"] == {("a",): 2}
    since_s = 6 if complete_us is None else NOW_S - 61
    times = page["mirrorlog_replica_last_consistent_timestamp_seconds"]
    assert set(times.values()) == {since_s}


def test_what_is_unknown_has_no_sample() -> None:
    unknown = dict.fromkeys(("lag_s", "behind_blocks", "behind_bytes", "consistent_position"))
    page = page_of(replica(state=SiteState.STOPPED, rung=Rung.FULL, **unknown))
    assert "mirrorlog_replica_lag_seconds" not in page
    assert "mirrorlog_replica_behind_bytes" not in page
    assert page["mirrorlog_replica_lag_unknown"] == {("a", "v"): 1}
    assert page["mirrorlog_site_lag_unknown_volumes"] == {("a",): 1}
    assert page["mirrorlog_replica_may_promote"] == {("a", "v"): 0}
    assert page["mirrorlog_replica_last_consistent_timestamp_seconds"] == {("a", "v"): 6}
    assert page["mirrorlog_replica_resync"] == {
        ("a", "v", "changed"): 0,
        ("a", "v", "allocated"): 0,
        ("a", "v", "full"): 1,
    }


@pytest.mark.parametrize("state", list(SiteState)[:-1])
def test_a_state_is_a_label_and_a_number(state: SiteState) -> None:
    page = page_of(replica(state=state))
    states = page["mirrorlog_replica_state"]
    assert [labels[-1] for labels, value in states.items() if value] == [state]
    assert page["mirrorlog_replica_state_number"] == {
        ("a", "v"): REPLICA_STATE_NUMBERS.index(state)
    }
    assert page["mirrorlog_site_volumes"]["a", state] == 1


def test_beyond_the_limit_volumes_with_problems_come_first_and_sums_cover_all() -> None:
    replicas = [replica(volume=f"v{n}") for n in range(9)]
    replicas[7] = replica(volume="v7", state=SiteState.SYNCING, behind_bytes=4096, lag_s=3.0)
    page = page_of(*replicas, limit=2)
    assert list(page["mirrorlog_replica_lag_unknown"]) == [("a", "v7"), ("a", "v0")]
    assert page["mirrorlog_site_volumes_unlisted"] == {("a",): 7}
    assert page["mirrorlog_site_volumes"]["a", "CONSISTENT"] == 8
    assert page["mirrorlog_site_behind_bytes"] == {("a",): 4096}
    assert page["mirrorlog_site_max_lag_seconds"] == {("a",): 3}


@dataclass
class Reporting:
    """The reports of one secondary, whose log grows."""

    clock: ManualClock = field(default_factory=ManualClock)
    secondary: Secondary = field(default_factory=lambda: Secondary(volume()))
    log: VolumeLog = field(default_factory=VolumeLog)

    def __post_init__(self) -> None:
        publisher = MemoryBroker().publisher()
        self.reporter = ProgressReporter("a", publisher, Topics().progress, self.clock, 1.0)

    def save(self, consistent: int | None, at_us: int, applied: int = 4) -> None:
        self.secondary.note_saved(
            SecondaryState(
                volume="v",
                generation=GENERATION,
                applied_position=applied,
                consistent_position=consistent,
                updated_at_us=at_us,
            )
        )

    def report(self, state: SiteState, watermark: int) -> ReportedReplica:
        self.secondary.go_idle(Idle(state))
        site_log = SiteLog(self.log, VolumeLog(), "a")
        self.reporter.report(self.secondary, CycleInput(volume(), site_log, watermark, None, False))
        return self.reporter.reported()[0]


def test_the_last_consistent_point_is_that_of_the_oldest_write_that_is_missing() -> None:
    reporting = Reporting()
    start_us = reporting.clock.now_us()
    reporting.save(consistent=4, at_us=start_us)
    assert reporting.report(SiteState.CONSISTENT, 4).consistent_at_us == start_us
    # An hour later a host writes, 2 s before the site reports it: it was consistent until then.
    reporting.clock.now_s += 3600
    written_us = reporting.clock.now_us()
    reporting.log.add(replace(record("4..9", "1 2"), first_at_us=written_us))
    reporting.clock.now_s += 2
    reporting.save(consistent=None, at_us=reporting.clock.now_us())
    assert reporting.report(SiteState.SYNCING, 9).consistent_at_us == written_us
    reporting.clock.now_s += 60
    assert reporting.report(SiteState.SETTLING, 9).consistent_at_us == written_us


def test_a_position_is_applied_when_a_new_one_is_saved() -> None:
    reporting = Reporting()
    reporting.save(consistent=4, at_us=7)
    reporting.save(consistent=None, at_us=8)  # a cycle begins
    assert reporting.report(SiteState.SYNCING, 9).progress.last_applied_at_us == 7
    reporting.clock.now_s += 1
    reporting.save(consistent=9, at_us=9, applied=9)
    assert reporting.report(SiteState.CONSISTENT, 9).progress.last_applied_at_us == 9


def test_the_last_consistent_point_is_unknown_after_a_start_without_a_proof() -> None:
    reporting = Reporting()
    reporting.save(consistent=None, at_us=7)
    assert reporting.report(SiteState.SYNCING, 9).consistent_at_us is None
    reporting = Reporting()
    reporting.save(consistent=4, at_us=7)
    assert reporting.report(SiteState.STOPPED, 4).consistent_at_us == 7
