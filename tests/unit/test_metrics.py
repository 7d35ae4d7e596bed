"""The closed list of metrics: names by Prometheus' rules, and the page that shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mirrorlog.domain.site_progress import SiteState
from mirrorlog.metric_samples import (
    UNITS,
    DurationHistogram,
    ExportingRole,
    MetricDefinition,
    MetricKind,
)
from mirrorlog.metrics import METRICS, REPLICA_STATE_NUMBERS

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
LABELS = {
    *("volume", "group", "site", "state", "rung", "worker"),
    *("node", "partition", "code", "tier", "role", "version"),
    *("repository", "address"),
}
"""All labels. Each has few values, or one a volume or group. None names a host or a block."""


def table_of(role: ExportingRole) -> str:
    """Return the table of docs/metrics.md about one role."""
    rows = [
        f"| `{metric.name}` | {metric.kind} | {', '.join(metric.labels)} | "
        f"{'0' if metric.is_problem else ''} | {metric.meaning} |"
        for metric in METRICS
        if metric.role is role
    ]
    return "\n".join(
        ["| metric | type | labels | healthy | meaning |", "|---|---|---|---|---|", *rows]
    )


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_rules(metric: MetricDefinition) -> None:
    assert re.fullmatch(r"mirrorlog_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is MetricKind.COUNTER)
    # A base unit, or none: no milliseconds, no kilobytes.
    last = metric.name.removesuffix("_total").rpartition("_")[2]
    assert not re.search(r"(second|byte|millis|_ms|_kb|_mb|_us)$", last)
    assert metric.unit in ("", *UNITS)
    assert metric.kind is not MetricKind.HISTOGRAM or metric.unit
    assert set(metric.labels) <= LABELS
    assert metric.meaning.endswith(".")


def test_no_name_is_used_twice() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize("role", ExportingRole)
def test_the_page_shows_the_list(role: ExportingRole) -> None:
    assert table_of(role) in PAGE.read_text("utf-8")


def test_every_state_has_a_number() -> None:
    assert sorted(REPLICA_STATE_NUMBERS) == sorted(SiteState)


def test_a_histogram_counts_each_duration_in_its_bucket() -> None:
    histogram = DurationHistogram()
    for duration_s in (0.0, 0.001, 0.3, 100.0):
        histogram.observe(duration_s)
    value = histogram.value()
    assert value.total == pytest.approx(100.301)
    cumulative = dict(value.cumulative())
    assert (cumulative["0.001"], cumulative["0.25"], cumulative["0.5"]) == (2, 2, 3)
    assert cumulative["+Inf"] == 4
