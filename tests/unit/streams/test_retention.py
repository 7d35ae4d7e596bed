"""Retention: how long records are kept, and through where they may be deleted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import OTHER_GENERATION, site_progress, volume

from mirrorlog.streams.compaction.retention import (
    RetentionLimit,
    keep_covered_s,
    keep_log_s,
    retention_limit,
)

# of the settings, of the volume | second, minute, hour kept once covered | the log kept
KEPT = """
                        |                     | 300 7200 86400   | for ever
second=0 minute=0 hour=0|                     | 0 0 0            | for ever
second=9                | second=5 day=70     | 5 7200 86400     | 70
second=9 day=80         | minute=4            | 9 9 86400        | 80
"""


@pytest.mark.parametrize("case", KEPT.strip("\n").splitlines())
def test_how_long_records_are_kept(case: str) -> None:
    settings, mine, held, at_all = (part.strip() for part in case.split("|"))
    of_settings, of_volume = (
        {name: float(value) for name, value in (word.split("=") for word in text.split())}
        for text in (settings, mine)
    )
    assert [
        keep_covered_s(tier, of_volume=of_volume, of_settings=of_settings) for tier in range(3)
    ] == [float(seconds) for seconds in held.split()]
    assert keep_log_s(3, of_volume=of_volume, of_settings=of_settings) == (
        None if at_all == "for ever" else float(at_all)
    )


# due, overdue | sites as applied position (. for none, g: other generation) | through, held by
LIMITS = """
50 -1  |            | 50
50 -1  | 60 70      | 50
50 -1  | 60 30      | 30 b
50 -1  | 30 30      | 30 a b
50 20  | 60 10      | 20 b
50 40  | 60 45      | 45 b
50 -1  | 60 .       | 9 b
50 -1  | g80 60     | 9 a
8  -1  | .          | 8
"""


@pytest.mark.parametrize("case", LIMITS.strip().splitlines())
def test_no_registered_site_is_left_behind(case: str) -> None:
    dues, sites, expected = (part.split() for part in case.split("|"))
    reports = []
    for name, text in zip("ab", sites, strict=False):
        report = site_progress(
            site=name, applied_position=None if text == "." else int(text.lstrip("g"))
        )
        reports.append(
            replace(report, generation=OTHER_GENERATION) if text.startswith("g") else report
        )
    limit = retention_limit(
        volume(origin_position=9), reports, due=int(dues[0]), overdue=int(dues[1])
    )
    held_by = tuple(report for report in reports if report.site in expected[1:])
    assert limit == RetentionLimit(int(expected[0]), held_by)


def test_the_site_of_the_primary_needs_nothing_of_the_log() -> None:
    promoted = volume(origin_position=9, primary_site="a")
    reports = [site_progress(site="a"), site_progress(site="b", applied_position=30)]
    assert retention_limit(promoted, reports, due=50, overdue=-1).through == 30
    assert retention_limit(promoted, reports[:1], due=50, overdue=-1) == RetentionLimit(50)
