"""Retention: how long records are kept, and through where they may be deleted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import OTHER_GENERATION, backup_report, site_progress, volume

from mirrorlog.domain.backup_reports import BackupReport
from mirrorlog.domain.promotions import Promotion
from mirrorlog.domain.volumes import VolumeState
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


HISTORY = "44444444-4444-4444-8444-444444444444"


def backed_up(position: int, **more: object) -> BackupReport:
    return backup_report(position=position, **({"history_id": HISTORY} | more))


PROMOTED = Promotion(
    position=40,
    site="a",
    former_generation=OTHER_GENERATION,
    parted_position=20,
    former_primary="memory:former",
    at_us=1,
)
ENDED = {"generation": OTHER_GENERATION}

# what the volume's description says, the backup | through where records may be deleted, with 50 due
BACKUPS = [
    ({}, backed_up(30), 30),
    ({}, backed_up(60), 50),
    ({}, backed_up(3), 9),  # nothing at or below the origin can be asked for
    ({}, backed_up(30, **ENDED), 50),  # the next one copies all that is allocated
    ({}, backed_up(30, history_id=OTHER_GENERATION), 50),
    ({"promotions": (PROMOTED,)}, backed_up(30, **ENDED), 20),
    ({"promotions": (PROMOTED,)}, backed_up(12, **ENDED), 12),
    ({"state": VolumeState.RETIRED}, backed_up(30), 30),
]


@pytest.mark.parametrize(("more", "report", "through"), BACKUPS)
def test_no_registered_backup_is_left_behind(
    more: dict[str, object], report: BackupReport, through: int
) -> None:
    described = volume(origin_position=9, history_id=HISTORY, **more)
    limit = retention_limit(described, [report], due=50, overdue=-1)
    assert limit == RetentionLimit(through, (report,) if through < 50 else ())
    assert retention_limit(described, [report], due=50, overdue=45).through == max(through, 45)


def test_the_slowest_of_sites_and_backups_decides() -> None:
    reports = [site_progress(applied_position=40), backed_up(30)]
    described = volume(origin_position=9, history_id=HISTORY)
    assert retention_limit(described, reports, due=50, overdue=-1).held_by == (reports[1],)
    assert retention_limit(None, reports, due=50, overdue=-1).through == 30
