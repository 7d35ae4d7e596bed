"""What is known of a secondary now, by the reports of its site: never more than is proved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from notation import site_progress
from reports import LEASE

from mirrorlog.cli.support.plugin_line import plugin_lines
from mirrorlog.domain.site_leases import SiteLease
from mirrorlog.domain.site_progress import Rung, SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume, VolumeState
from mirrorlog.reading.present_state import PresentState, Reported
from mirrorlog.status.health import Health, Thresholds
from mirrorlog.status.overview import Overview, QuarantineNews, evaluate
from mirrorlog.status.replicas import ReplicaStatus

UUID = "11111111-1111-4111-8111-111111111111"
NOW_S = 1_000_000.0
BLOCK = 4096

VOLUME = Volume(
    volume="v",
    generation=UUID,
    size_bytes=100 * BLOCK,
    block_size=BLOCK,
    partition=0,
    origin_position=-1,
    initially_zeroed=True,
    primary="file:///v",
)
RUNNING = replace(LEASE, site="s", caught_up_age_s=0.1)
REPORT = site_progress(
    generation=UUID,
    state=SiteState.CONSISTENT,
    rung=Rung.CHANGED,
    applied_position=9,
    consistent_position=9,
    watermark=9,
)


def ago(event: Any, seconds: float) -> Reported[Any]:
    return Reported(event, int((NOW_S - seconds) * 1e6))


def overview(
    *,
    report: SiteProgress | None = REPORT,
    reported_s: float = 1.0,
    lease: SiteLease | None = RUNNING,
    heard_s: float = 1.0,
    volumes: Sequence[Volume] = (VOLUME,),
    **thresholds: Any,
) -> Overview:
    state = PresentState(
        volumes={volume.volume: volume for volume in volumes}, reports_error="no topic"
    )
    if report is not None:
        state.secondaries["s", report.volume] = ago(report, reported_s)
    if lease is not None:
        state.leases["s"] = ago(lease, heard_s)
    return evaluate(
        state,
        QuarantineNews(count=0),
        partition_count=1,
        now_us=int(NOW_S * 1e6),
        thresholds=Thresholds(**thresholds),
    )


def row(**arguments: Any) -> ReplicaStatus:
    (only,) = overview(**arguments).replicas
    return only


def test_an_idle_volume_is_up_to_date_however_old_its_report() -> None:
    idle = row(reported_s=86_400.0)
    assert (idle.health, idle.state, idle.lag.lag_s) == (Health.OK, "CONSISTENT", 0.0)
    assert (idle.behind_bytes, idle.in_sync_fraction, idle.reason) == (0, 1.0, None)


def test_a_dead_sites_report_is_not_shown_as_if_it_were_now() -> None:
    dead = row(reported_s=300.0, heard_s=200.0)
    assert dead.health is Health.WARNING
    assert (dead.state, dead.reported_state) == (None, "CONSISTENT")
    assert (dead.lag.lag_s, dead.behind_bytes, dead.in_sync_fraction) == (None, None, None)
    assert dead.lag.at_most_s == pytest.approx(200.1)
    assert "nothing was heard of the site for 3.3 min" in (dead.reason or "")
    assert row(reported_s=900.0, heard_s=900.0).health is Health.CRITICAL


def test_a_dead_site_lags_at_least_as_long_as_its_oldest_missed_write_is_old() -> None:
    syncing = replace(REPORT, state=SiteState.SYNCING, lag_s=5.0, behind_blocks=1)
    assert row(report=syncing, reported_s=100.0, heard_s=100.0).lag.at_least_s == 105.0


def test_a_lag_grows_with_the_age_of_the_report_while_the_site_copies() -> None:
    syncing = replace(REPORT, state=SiteState.SYNCING, lag_s=30.0, behind_blocks=50, behind_bytes=9)
    young, old = row(report=syncing), row(report=syncing, reported_s=40.0)
    assert (young.health, young.lag.lag_s, young.in_sync_fraction) == (Health.OK, 31.0, 0.5)
    assert (old.health, old.lag.lag_s) == (Health.WARNING, 70.0)
    assert row(report=syncing, crit_behind_bytes=9).health is Health.CRITICAL


def test_a_site_that_is_busy_with_another_volume_proves_nothing_of_this_one() -> None:
    busy = replace(RUNNING, caught_up_age_s=120.0)
    looked = row(lease=busy, reported_s=500.0)
    assert (looked.health, looked.lag.lag_s) == (Health.UNKNOWN, None)
    assert looked.lag.at_most_s == 121.0
    older_release = replace(RUNNING, caught_up_age_s=None)
    assert row(lease=older_release, reported_s=500.0).health is Health.UNKNOWN
    assert row(lease=older_release, reported_s=3.0).health is Health.OK


@pytest.mark.parametrize(
    ("changes", "health"),
    [
        ({"state": SiteState.STOPPED, "lag_s": None, "reason": "gone"}, Health.CRITICAL),
        ({"state": SiteState.WAITING, "lag_s": None}, Health.WARNING),
        ({"state": SiteState.SYNCING, "lag_s": None}, Health.WARNING),
        ({"state": SiteState.UNKNOWN, "lag_s": None}, Health.UNKNOWN),
        ({"generation": UUID.replace("1", "2")}, Health.UNKNOWN),
    ],
)
def test_what_is_not_proved_is_not_ok(changes: dict[str, Any], health: Health) -> None:
    judged = row(report=replace(REPORT, **changes))
    assert judged.health is health
    assert judged.lag.lag_s is None
    assert judged.reason


def test_volumes_without_a_site_or_a_report_and_reports_without_a_volume_are_shown() -> None:
    alone = row(report=None, lease=None)
    assert (alone.site, alone.health) == (None, Health.WARNING)
    assert "no site mirrors" in (alone.reason or "")
    unreported = row(report=None)
    assert (unreported.site, unreported.health, unreported.state) == ("s", Health.UNKNOWN, None)
    assert "isn't described" in (row(volumes=()).reason or "")
    retired = replace(VOLUME, state=VolumeState.RETIRED)
    assert row(volumes=[retired], report=replace(REPORT, state=SiteState.RETIRED)).health is (
        Health.OK
    )
    assert overview(volumes=[retired], report=None).replicas == []


def test_a_volume_is_expected_at_the_sites_that_its_description_names() -> None:
    of_s = replace(VOLUME, volume="w", secondaries={"s": "file:///w"})
    of_other = replace(VOLUME, volume="x", secondaries={"other": "file:///x"})
    rows = overview(report=REPORT, volumes=[VOLUME, of_s, of_other]).replicas
    assert {(shown.volume, shown.site, shown.health) for shown in rows} == {
        ("v", "s", Health.OK),
        ("w", "s", Health.UNKNOWN),
        ("x", None, Health.WARNING),
    }
    given_by_the_site = replace(of_other, volume="v")
    assert row(volumes=[given_by_the_site]).site == "s"
    detached = row(report=replace(REPORT, state=SiteState.DETACHED, lag_s=None, reason="primary"))
    assert (detached.health, detached.reason) == (Health.OK, "primary")


def test_a_site_that_was_stopped_says_so_and_how_to_remove_it() -> None:
    (site,) = overview(lease=replace(RUNNING, is_over=True), heard_s=30.0).sites
    assert (site.life, site.health) == ("STOPPED", Health.WARNING)
    assert "site remove s" in (site.next_action or "")


def test_the_line_of_a_plugin_has_the_worst_first_and_bars_only_before_the_data() -> None:
    stopped = replace(REPORT, state=SiteState.STOPPED, lag_s=None, behind_bytes=None, reason="a|b")
    lines = plugin_lines(overview(report=stopped), Thresholds())
    assert lines[0].startswith(
        "MIRRORLOG CRITICAL - 0 of 1 secondaries are up to date; CRITICAL: volume v at s: a/b"
    )
    assert lines[0].count("|") == 1
    assert "max_lag=U;60;600;0" in lines[0]
    assert "v@s_behind=U;;;0" in lines[0]
    assert lines[1] == "CRITICAL: volume v at s: a/b"


@pytest.mark.parametrize(
    ("caught_up_s", "health"),
    [(1.0, Health.OK), (70.0, Health.WARNING), (700.0, Health.CRITICAL), (None, Health.OK)],
)
def test_a_site_that_takes_no_log_for_long_is_told_of_although_it_runs(
    caught_up_s: float | None, health: Health
) -> None:
    """So is one of several workers, of which one hangs or has left a partition to nobody."""
    seen = overview(lease=replace(RUNNING, caught_up_age_s=caught_up_s))
    (site,) = seen.sites
    assert site.health is health
    assert ("a partition has no worker" in (site.reason or "")) == (health is not Health.OK)
    if health is not Health.OK:
        assert seen.health is health
        assert any("a partition has no worker" in line for line in plugin_lines(seen, Thresholds()))
