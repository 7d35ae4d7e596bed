"""Reports leave when they say something new, and now and then when they don't."""

from __future__ import annotations

import pytest

from mirrorlog.domain.report_pacing import ReportPacing


@pytest.fixture
def pacing() -> ReportPacing:
    return ReportPacing(interval_s=2.0, idle_s=10.0)


@pytest.mark.parametrize(
    ("content", "after_s", "is_due"),
    [("a", 9.9, False), ("a", 10.0, True), ("b", 1.9, False), ("b", 2.0, True)],
)
def test_a_change_leaves_sooner_than_a_repetition(
    pacing: ReportPacing, content: str, after_s: float, is_due: bool
) -> None:
    assert pacing.is_due(b"k", "a", now_s=100.0)
    assert pacing.is_due(b"k", content, now_s=100.0 + after_s) is is_due


def test_a_forgotten_key_is_due_at_once(pacing: ReportPacing) -> None:
    assert pacing.is_due(b"k", "a", now_s=100.0)
    pacing.forget(b"k")
    assert pacing.is_due(b"k", "a", now_s=100.0)


def test_many_keys_leave_more_seldom(pacing: ReportPacing) -> None:
    keys = [str(number).encode() for number in range(2000)]
    assert all(pacing.is_due(key, 0, now_s=0.0) for key in keys)
    assert not any(pacing.is_due(key, 1, now_s=19.9) for key in keys)
    assert all(pacing.is_due(key, 1, now_s=20.0) for key in keys)
