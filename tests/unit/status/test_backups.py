"""How old the last points of backups are: an old one, and one that isn't proved, are told."""

from __future__ import annotations

import pytest
from notation import GENERATION, backup_report, volume

from mirrorlog.cli.support.plugin_line import plugin_lines
from mirrorlog.cli.support.status_view import overview_fields, summary_lines
from mirrorlog.domain.backup_reports import BackupReport
from mirrorlog.reading.present_state import PresentState, Reported
from mirrorlog.status.backups import BackupStatus, evaluate_backups
from mirrorlog.status.health import Health, Thresholds
from mirrorlog.status.overview import QuarantineNews, evaluate

NOW_US = 10_000_000_000
DAY_S = 86_400.0


def _report(**more: object) -> BackupReport:
    fields: dict[str, object] = {
        "point": "20261128T231501Z-00000000",
        "written_at_us": 20_000_000,
        "is_consistent": True,
        "every_s": DAY_S,
    }
    return backup_report(**(fields | more))


def _status(report: BackupReport, heard_s: float | None) -> BackupStatus:
    at_us = None if heard_s is None else NOW_US - int(heard_s * 1e6)
    (row,) = evaluate_backups([Reported(report, at_us)], {"v": volume()}, NOW_US)
    return row


NO_POINT = {"point": None, "written_at_us": None, "is_consistent": None}


@pytest.mark.parametrize(
    ("report", "heard_s", "health", "reason"),
    [
        (_report(), 10.0, Health.OK, None),
        (_report(), 2 * DAY_S + 29, Health.OK, None),
        (_report(), 2 * DAY_S + 31, Health.WARNING, "no new point for 2 d"),
        (_report(every_s=None), 100 * DAY_S, Health.OK, None),
        (_report(), None, Health.UNKNOWN, "nobody knows how old"),
        (_report(failure="the disk is full"), 1.0, Health.WARNING, "failed: the disk is full"),
        (_report(is_consistent=False, reason="busy"), 1.0, Health.WARNING, "consistent: busy"),
        (_report(volume="w"), 1.0, Health.WARNING, "no such volume"),
        (_report(**NO_POINT), 1.0, Health.OK, None),
        (_report(**NO_POINT), 3 * DAY_S, Health.WARNING, "no new point"),
    ],
)
def test_a_backup_is_as_well_as_its_last_point(
    report: BackupReport, heard_s: float | None, health: Health, reason: str | None
) -> None:
    row = _status(report, heard_s)
    assert row.health is health
    assert row.reason is None if reason is None else reason in (row.reason or "")


def test_the_age_of_a_point_goes_by_differences_of_one_clock_each() -> None:
    assert _status(_report(), 10.0).point_age_s == 40.0
    assert _status(_report(**NO_POINT), 10.0).point_age_s is None
    assert _status(_report(), None).point_age_s is None


@pytest.mark.parametrize("asked", [None, "v", "w"])
def test_backups_count_for_the_health_of_their_volume(asked: str | None) -> None:
    state = PresentState(volumes={"v": volume()})
    state.backups[GENERATION, "v"] = Reported(_report(failure="full"), NOW_US)
    overview = evaluate(
        state,
        QuarantineNews(count=0),
        partition_count=0,
        now_us=NOW_US,
        thresholds=Thresholds(),
        volume=asked,
    )
    is_shown = asked != "w"
    assert [row.report.volume for row in overview.backups] == (["v"] if is_shown else [])
    assert (overview.health is Health.WARNING) == is_shown
    line = "WARNING: backup of v to /backups: the last attempt failed: full"
    assert (line in plugin_lines(overview, Thresholds())) == is_shown
    shown = [text for text in summary_lines(overview) if text.startswith("backup of v")]
    assert [text.partition(": the last")[0] for text in shown] == (
        ["backup of v to /backups: WARNING, last point 20261128T231501Z-00000000, 30 s old"]
        if is_shown
        else []
    )
    fields = overview_fields(overview)["backups"]
    assert [row["point_age_s"] for row in fields] == ([30.0] if is_shown else [])
