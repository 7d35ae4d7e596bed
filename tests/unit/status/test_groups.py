"""What is known of a group's secondaries together, by the reports on its members."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from notation import GENERATION, OTHER_GENERATION, site_progress, volume
from reports import LEASE

from mirrorlog.cli.support.plugin_line import plugin_lines
from mirrorlog.cli.support.status_view import overview_fields, summary_lines
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.reading.present_state import PresentState, Reported
from mirrorlog.status.groups import GroupStatus
from mirrorlog.status.health import Health, Thresholds
from mirrorlog.status.overview import Overview, QuarantineNews, evaluate

NOW_US = 1_000_000_000_000
POINT, LATER = (f"0000000{digit}-0000-4000-8000-000000000000" for digit in "12")
RUNNING = replace(LEASE, site="s", caught_up_age_s=0.1)


def report(name: str, point: str | None = POINT, **more: object) -> SiteProgress:
    fields: dict[str, object] = {
        "volume": name,
        "generation": GENERATION,
        "state": SiteState.CONSISTENT,
        "applied_position": 9,
        "consistent_position": 9,
        "watermark": 9,
        "group": "db",
        "common_point_id": point,
        "common_point_position": None if point is None else 7,
        "common_point_at_us": None if point is None else NOW_US - 4_000_000,
    }
    return site_progress(**(fields | more))


def overview(
    *reports: SiteProgress, heard_s: float = 1.0, only: str | None = None, **members: Any
) -> Overview:
    """Return the overview of site s. members: changes to the volumes data and wal.

    only: leave out the rows of other volumes.
    """
    changes = {"data": {}, "wal": {}} | members
    volumes: dict[str, Volume] = {
        name: volume(name, **{"generation": GENERATION, "group": "db", **changed})
        for name, changed in changes.items()
    }
    state = PresentState(volumes=volumes, reports_error="no topic")
    for report in reports:
        state.secondaries["s", report.volume] = Reported(report, NOW_US - 1_000_000)
    state.leases["s"] = Reported(RUNNING, NOW_US - int(heard_s * 1e6))
    return evaluate(
        state,
        QuarantineNews(count=0),
        partition_count=1,
        now_us=NOW_US,
        thresholds=Thresholds(),
        volume=only,
    )


def group(*reports: SiteProgress, **arguments: Any) -> GroupStatus:
    (only,) = overview(*reports, **arguments).groups
    return only


def test_members_that_report_one_point_are_whole_at_it() -> None:
    seen = overview(report("data"), report("wal", common_point_position=8))
    (row,) = seen.groups
    assert (row.group, row.site, row.is_whole, row.health) == ("db", "s", True, Health.OK)
    assert (row.common_point_id, row.common_point_age_s) == (POINT, 4.0)
    (fields,) = overview_fields(seen)["groups"]
    assert fields["common_point_at"] == "1970-01-12T13:46:36.000000Z"
    assert fields["members"] == [
        {
            "volume": name,
            "state": "CONSISTENT",
            "common_point_id": POINT,
            "common_point_position": position,
        }
        for name, position in (("data", 7), ("wal", 8))
    ]
    assert overview_fields(seen)["volumes"][0]["common_point_position"] == 7
    assert next(iter(summary_lines(seen))) == (
        "group db at s: OK, at one common point of 1970-01-12 13:46:36Z, 4 s ago: data @7, wal @8"
    )


@pytest.mark.parametrize(
    ("wal", "is_whole", "health", "reason"),
    [
        (report("wal", LATER), False, Health.WARNING, "no common point yet"),
        (report("wal", None), False, Health.WARNING, "no common point yet"),
        (report("wal", None, group_reason="wal is paused"), False, Health.WARNING, "is paused"),
        (report("wal", None, state=SiteState.SYNCING), None, Health.OK, "applied now"),
        (report("wal", None, group=None), None, Health.UNKNOWN, "of an older release"),
        (
            report("wal", generation=OTHER_GENERATION),
            None,
            Health.UNKNOWN,
            "hasn't reported on wal",
        ),
        (report("wal", state=SiteState.STOPPED, reason="gone"), None, Health.WARNING, "gone"),
        (report("wal", group_reason="wal is paused"), True, Health.WARNING, "wal is paused"),
    ],
)
def test_what_isnt_proved_of_all_members_isnt_whole(
    wal: SiteProgress, is_whole: bool | None, health: Health, reason: str
) -> None:
    row = group(report("data"), wal)
    assert (row.is_whole, row.health) == (is_whole, health)
    assert reason in (row.reason or "")


def test_a_member_without_a_report_is_unknown_unless_the_site_says_why() -> None:
    assert group(report("data")).is_whole is None
    row = group(report("data", None, group_reason="volume wal isn't copied by this process"))
    assert (row.is_whole, row.members[1].state) == (False, None)


def test_of_a_dead_site_only_the_reported_point_is_shown() -> None:
    seen = overview(report("data"), report("wal"), heard_s=20.0)
    (row,) = seen.groups
    assert (row.is_whole, row.common_point_id, row.health) == (None, POINT, Health.WARNING)
    assert "reported at one common point of" in next(iter(summary_lines(seen)))


def test_a_point_without_a_time_has_no_age() -> None:
    seen = overview(*(report(name, common_point_at_us=None) for name in ("data", "wal")))
    assert (seen.groups[0].is_whole, seen.groups[0].common_point_age_s) == (True, None)
    assert "one common point of an unknown time" in next(iter(summary_lines(seen)))


def test_a_member_that_was_promoted_at_the_site_is_left_out() -> None:
    promoted = {"primary_site": "s", "generation": OTHER_GENERATION}
    row = group(report("data"), report("wal"), wal=promoted)
    assert (row.is_whole, [member.volume for member in row.members]) == (True, ["data"])
    assert overview(report("data"), report("wal"), data=promoted, wal=promoted).groups == []


def test_a_site_that_copies_no_member_has_no_row() -> None:
    assert overview(report("other"), other={"group": None}).groups == []


def test_one_volume_shows_its_own_group_with_all_members() -> None:
    reports, other = (report("data"), report("wal")), {"group": None}
    (row,) = overview(*reports, other=other, only="wal").groups
    assert (row.is_whole, [member.volume for member in row.members]) == (True, ["data", "wal"])
    assert overview(*reports, other=other, only="other").groups == []


def test_a_check_names_a_group_without_a_common_point() -> None:
    lines = plugin_lines(
        overview(report("data"), report("wal", LATER)),
        Thresholds(),
    )
    assert any(
        "WARNING: group db at s: its members are at no common point" in line for line in lines
    )


def test_a_report_of_another_volume_changes_nothing() -> None:
    other = replace(report("other"), common_point_id=LATER, group=None)
    assert group(report("data"), report("wal"), other, other={"group": None}).is_whole is True
