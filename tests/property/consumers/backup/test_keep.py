"""Rules of retention: for any points, what restic and borg promise of such rules holds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.consumers.backup.repository.keep import (
    ALL,
    DatedPoint,
    KeepRules,
    decide_kept,
)
from mirrorlog.errors import BadUse

PERIODS: dict[str, Callable[[datetime], Any]] = {
    "hourly": lambda time: time.strftime("%Y-%m-%d %H"),
    "daily": lambda time: time.strftime("%Y-%m-%d"),
    "weekly": lambda time: time.strftime("%G week %V"),
    "monthly": lambda time: time.strftime("%Y-%m"),
    "yearly": lambda time: time.strftime("%Y"),
}
COUNTS = st.sampled_from([0, 0, 1, 2, 3, 7, ALL])
RULES = st.fixed_dictionaries(dict.fromkeys(("last", *PERIODS), COUNTS)).filter(
    lambda counts: any(counts.values())
)
HOURS = st.one_of(st.integers(0, 400), st.integers(0, 30_000))
POINTS = st.lists(HOURS, unique=True, max_size=60)
START = datetime(2026, 12, 30, tzinfo=UTC)


def _points(hours: list[int]) -> list[DatedPoint]:
    times = [START + timedelta(hours=hour, minutes=hour % 7) for hour in hours]
    return [DatedPoint(f"p{time:%Y%m%d%H%M}", int(time.timestamp() * 1e6)) for time in times]


def _time(point: DatedPoint) -> datetime:
    return datetime.fromtimestamp(point.time_us / 1e6, UTC)


@given(POINTS, RULES)
def test_each_rule_keeps_the_newest_point_of_its_last_periods_and_no_other(
    hours: list[int], counts: dict[str, int]
) -> None:
    points = _points(hours)
    decisions = decide_kept(points, KeepRules(**counts))
    assert {decision.point for decision in decisions} == {point.point for point in points}
    reasons = {decision.point: decision.reasons for decision in decisions}
    for rule, period_of in PERIODS.items():
        newest: dict[Any, DatedPoint] = {}
        for point in sorted(points, key=lambda point: point.time_us):
            newest[period_of(_time(point))] = point
        periods = sorted(newest, key=lambda period: newest[period].time_us, reverse=True)
        kept = periods if counts[rule] == ALL else periods[: counts[rule]]
        assert {name for name, by in reasons.items() if rule in by} == {
            newest[period].point for period in kept
        }
    in_order = sorted(points, key=lambda point: point.time_us, reverse=True)
    last = in_order if counts["last"] == ALL else in_order[: counts["last"]]
    assert {name for name, by in reasons.items() if "last" in by} == {p.point for p in last}


@given(POINTS.filter(bool), RULES)
def test_the_newest_point_is_always_kept(hours: list[int], counts: dict[str, int]) -> None:
    points = _points(hours)
    newest = max(points, key=lambda point: point.time_us)
    decisions = decide_kept(points, KeepRules(**counts))
    assert decisions[0].point == newest.point
    assert decisions[0].is_kept


@given(POINTS, RULES)
def test_a_second_time_drops_nothing_more(hours: list[int], counts: dict[str, int]) -> None:
    points, rules = _points(hours), KeepRules(**counts)
    kept = {one.point for one in decide_kept(points, rules) if one.is_kept}
    again = decide_kept([point for point in points if point.point in kept], rules)
    assert all(decision.is_kept for decision in again)


@given(POINTS, RULES, st.integers(0, 1000))
def test_pruning_on_the_way_keeps_what_pruning_at_the_end_keeps(
    hours: list[int], counts: dict[str, int], cut: int
) -> None:
    """If points come in their order, it doesn't matter how often they are pruned between."""
    points, rules = sorted(_points(hours), key=lambda point: point.time_us), KeepRules(**counts)
    cut %= len(points) + 1
    early = {one.point for one in decide_kept(points[:cut], rules) if one.is_kept}
    rest = [point for point in points[:cut] if point.point in early] + points[cut:]
    at_the_end = {one.point for one in decide_kept(points, rules) if one.is_kept}
    assert {one.point for one in decide_kept(rest, rules) if one.is_kept} == at_the_end


def test_days_begin_where_the_zone_says() -> None:
    late = datetime(2026, 11, 28, 23, 30, tzinfo=UTC).timestamp()
    points = [DatedPoint("a", int(late * 1e6)), DatedPoint("b", int((late + 3600) * 1e6))]
    rules = KeepRules(daily=5)
    kept = [one.point for one in decide_kept(points, rules) if one.is_kept]
    assert kept == ["b", "a"]
    berlin = decide_kept(points, rules, ZoneInfo("Europe/Berlin"))
    assert [one.point for one in berlin if one.is_kept] == ["b"]


@pytest.mark.parametrize("counts", [{}, {"last": 0}, {"daily": -2}])
def test_rules_that_keep_nothing_are_refused(counts: dict[str, int]) -> None:
    with pytest.raises(BadUse):
        KeepRules(**counts)
