"""What is logged of repeated attempts: one character is an attempt, ten seconds after the last.

`f` and `g` fail for two reasons, `w` works, `.` is no attempt. Below each is `!` if it is logged.
"""

from __future__ import annotations

import pytest

from mirrorlog.domain.retry_reports import RetryReports

STEP_S = 10.0


def attempt(reports: RetryReports, step: str, now_s: float) -> str | None:
    if step == ".":
        return None
    if step == "w":
        return reports.worked("v", now_s=now_s)
    return reports.failed("v", f"the disk is {step}", now_s=now_s)


@pytest.mark.parametrize(
    ("attempts", "logged"),
    [
        ("w", " "),
        ("f", "!"),
        ("ff.f", "!  !"),
        # After 20 s, then 40 s, then 40 s again, which is the longest interval here.
        ("fffffffffffffffff", "! !   !   !   !  "),
        ("fgfgfg", "!!!   "),
        ("ffgggg", "! !   "),
        ("ffw", "! !"),
        ("fffwwww", "! !!   "),
        # It fails and works in turn: no more lines than if it only failed.
        ("fwfwfwfwfwfwfwfwf", "!!!!  !!  !!  !! "),
        # It has worked for longer than the interval: the next failure is a first one.
        ("fw..f", "!!  !"),
        ("fw.ff", "!! ! "),
    ],
)
def test_what_is_logged(attempts: str, logged: str) -> None:
    reports = RetryReports(first_s=2 * STEP_S, longest_s=4 * STEP_S)
    texts = [attempt(reports, step, number * STEP_S) for number, step in enumerate(attempts)]
    assert "".join(" " if text is None else "!" for text in texts) == logged


def test_the_texts_say_how_often_and_for_how_long() -> None:
    reports = RetryReports(first_s=60)
    texts = [reports.failed("v", "no route", now_s=float(second)) for second in range(0, 65, 5)]
    assert [text for text in texts if text] == ["no route", "no route (13 failures in 1 min)"]
    assert reports.worked("v", now_s=90) == "works again after 13 failures in 1.5 min"


def test_subjects_have_intervals_of_their_own() -> None:
    reports = RetryReports()
    assert reports.failed("v", "no route", now_s=0) == "no route"
    assert reports.failed("w", "no route", now_s=1) == "no route"
    assert reports.worked("w", now_s=2) == "works again after 1 failure in 1 s"
    assert reports.failed("v", "no route", now_s=3) is None


def test_reasons_that_never_repeat_are_logged_at_the_intervals_after_the_first_few() -> None:
    reports = RetryReports()
    texts = [reports.failed("v", f"position {number}", now_s=number / 10) for number in range(500)]
    assert [number for number, text in enumerate(texts) if text] == list(range(8))
