"""What the last verification found stands in the row of its secondary, and nothing more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from notation import volume
from reports import GENERATION, LEASE, PROGRESS

from mirrorlog.domain.verifications import ByteRange, VerificationReport, VerificationState
from mirrorlog.reading.present_state import PresentState, Reported
from mirrorlog.status.health import Health, Thresholds
from mirrorlog.status.overview import QuarantineNews, evaluate

NOW_US = 100_000_000
OTHER = "99999999-9999-4999-8999-999999999999"


def verification(**fields: Any) -> VerificationReport:
    values: dict[str, Any] = {
        "verification": GENERATION,
        "site": "a",
        "volume": "v",
        "generation": volume().generation,
        "state": VerificationState.FINISHED,
        "algorithm": "XXH3_128",
        "primary_reader": "SITE",
        "size_bytes": 1 << 20,
        "range_bytes": 1 << 16,
        "started_at_us": 5,
        "at_us": 7,
        "confirmed_bytes": 1 << 20,
        "reached_bytes": 1 << 20,
    }
    return VerificationReport(**values | fields)


RUNNING = VerificationState.RUNNING
ABORTED = VerificationState.ABORTED


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({}, "equal"),
        ({"state": ABORTED}, "cut short, 100 % confirmed"),
        ({"state": ABORTED, "confirmed_bytes": 0}, "cut short, 0 % confirmed"),
        ({"state": RUNNING, "confirmed_bytes": 1 << 19}, "running, 50 % confirmed"),
        ({"different_blocks": 1}, "1 block differs"),
        ({"different_blocks": 3, "repaired_blocks": 2}, "3 blocks differ, 2 repaired"),
        ({"confirmed_bytes": 1, "skipped_bytes": (1 << 20) - 1}, "1048575 bytes skipped"),
        ({"confirmed_bytes": 1}, "nothing is proved"),
    ],
)
def test_only_a_whole_verification_says_equal(fields: dict[str, Any], result: str) -> None:
    report = verification(**fields)
    assert (report.result, report.is_equal) == (result, result == "equal")


def row_of(report: VerificationReport, age_s: float = 1.0) -> Any:
    lease, progress = replace(LEASE, caught_up_age_s=0.0), replace(PROGRESS, lag_s=0.0)
    progress = replace(progress, generation=volume().generation, reason=None, next_action=None)
    state = PresentState(
        volumes={"v": volume()},
        secondaries={("a", "v"): Reported(progress, NOW_US)},
        leases={"a": Reported(lease, NOW_US)},
        verifications={("a", "v"): Reported(report, NOW_US - int(age_s * 1e6))},
    )
    overview = evaluate(
        state, QuarantineNews(count=0), partition_count=1, now_us=NOW_US, thresholds=Thresholds()
    )
    return overview.replicas[0]


def test_the_row_says_when_and_what() -> None:
    row = row_of(verification())
    assert (row.last_verify, row.last_verify_at_us) == ("equal", 7)


def test_a_difference_that_is_not_repaired_is_a_warning_with_the_way_out() -> None:
    different = {"different_blocks": 2, "different": (ByteRange(0, 8192),)}
    row = row_of(verification(**different))
    assert row.health is Health.WARNING
    assert "verify v --site a --repair" in row.next_action
    repaired = row_of(verification(**different, repaired_blocks=2))
    assert repaired.last_verify == "2 blocks differ, 2 repaired"
    assert (repaired.reason, repaired.next_action) == (row_of(verification()).reason, None)


def test_a_verification_that_fell_silent_does_not_run() -> None:
    report = verification(state=RUNNING, confirmed_bytes=1 << 19)
    assert row_of(report).last_verify == "running, 50 % confirmed"
    assert row_of(report, age_s=90).last_verify == "cut short, 50 % confirmed"


def test_what_was_found_in_another_generation_is_left_out() -> None:
    row = row_of(verification(generation=OTHER, different_blocks=5))
    assert (row.last_verify, row.last_verify_at_us) == ("equal", 5)  # what the site reported
