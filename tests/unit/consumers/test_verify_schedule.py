"""When a verification runs next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mirrorlog.consumers.verify.schedule import VerifySchedule, parse_schedule
from mirrorlog.errors import BadUse

NOW = datetime(2026, 11, 28, 12, 30, 5, tzinfo=UTC)  # a Saturday


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("12:31", datetime(2026, 11, 28, 12, 31, tzinfo=UTC)),
        ("12:30", datetime(2026, 11, 29, 12, 30, tzinfo=UTC)),
        ("3:00", datetime(2026, 11, 29, 3, 0, tzinfo=UTC)),
        ("sun 03:00", datetime(2026, 11, 29, 3, 0, tzinfo=UTC)),
        ("Sat 12:30", datetime(2026, 12, 5, 12, 30, tzinfo=UTC)),
        ("fri 23:59", datetime(2026, 12, 4, 23, 59, tzinfo=UTC)),
        ("12h", NOW),
    ],
)
def test_the_next_run(text: str, due: datetime) -> None:
    assert parse_schedule(text).next_run(NOW, None) == due


def test_an_interval_counts_from_the_beginning_of_the_last_run() -> None:
    schedule = parse_schedule("2h")
    assert schedule == VerifySchedule(pause_s=7200.0)
    assert schedule.next_run(NOW, NOW - timedelta(hours=1)) == NOW + timedelta(hours=1)
    assert schedule.next_run(NOW, NOW - timedelta(hours=3)) <= NOW


@pytest.mark.parametrize("text", ["", "25:00", "someday 03:00", "0s", "often"])
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(BadUse, match="isn't a schedule"):
        parse_schedule(text)
