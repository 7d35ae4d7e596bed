"""Times in words: what each means, in UTC, and what is refused because it may mean two times."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mirrorlog.changed.points import AtEnd, AtPosition, AtTime, format_time
from mirrorlog.changed.worded_times import understand_point
from mirrorlog.errors import BadUse

NOW_US = 1_795_832_445_123_456  # 2026-11-28T02:20:45.123456Z, a Saturday

# text | the time that it means
MEANINGS = """
2h ago                      | 2026-11-28T00:20:45.123456Z
1h                          | 2026-11-28T01:20:45.123456Z
90 min                      | 2026-11-28T00:50:45.123456Z
10 minutes ago              | 2026-11-28T02:10:45.123456Z
10 minutes                  | 2026-11-28T02:10:45.123456Z
an hour ago                 | 2026-11-28T01:20:45.123456Z
1 hour and 5 minutes ago    | 2026-11-28T01:15:45.123456Z
a week ago                  | 2026-11-21T02:20:45.123456Z
2 months ago                | 2026-09-28T02:20:45.123456Z
yesterday                   | 2026-11-27T00:00:00.000000Z
Yesterday                   | 2026-11-27T00:00:00.000000Z
today                       | 2026-11-28T00:00:00.000000Z
yesterday 18:00             | 2026-11-27T18:00:00.000000Z
yesterday at 6pm            | 2026-11-27T18:00:00.000000Z
yesterday noon              | 2026-11-27T12:00:00.000000Z
yesterday 18:00 +02:00      | 2026-11-27T16:00:00.000000Z
last monday                 | 2026-11-23T00:00:00.000000Z
last monday 18:00           | 2026-11-23T18:00:00.000000Z
3 november 2026             | 2026-11-03T00:00:00.000000Z
Nov 3 2026 18:00 UTC        | 2026-11-03T18:00:00.000000Z
2026-11-27                  | 2026-11-27T00:00:00.000000Z
2026-11-27 18:00            | 2026-11-27T18:00:00.000000Z
2026-11-27T18:00:00+01:00   | 2026-11-27T17:00:00.000000Z
2026-11-27T18:00:00Z        | 2026-11-27T18:00:00.000000Z
"""


@pytest.mark.parametrize("case", MEANINGS.strip().splitlines())
def test_a_text_means_one_time(case: str) -> None:
    text, meant = (part.strip() for part in case.split("|"))
    point = understand_point(text, NOW_US)
    assert isinstance(point, AtTime)
    assert format_time(point.at_us) == meant


@pytest.mark.parametrize(
    "text",
    [
        "3/4/2026",  # April or March
        "monday",  # the last or the next
        "18:00",  # today or yesterday
        "noon",
        "may",
        "3 november",  # of which year
        "27 nov 18:00",
        "last week",  # seven days, or from Monday on
        "yesterday 25:00",  # dateparser leaves the hour out
        "yesterday 18",
        "yesterday cst",  # three zones have that name
        "tea time",
        "1h later",
        "ago",
        "",
        "yesterday " * 20,
    ],
)
def test_what_is_ambiguous_or_not_used_is_refused_with_examples(text: str) -> None:
    with pytest.raises(BadUse) as refused:
        understand_point(text, NOW_US)
    assert "'yesterday 18:00'" in refused.value.next or "2026-11-22T18:30:00Z" in refused.value.next
    assert len(str(refused.value)) < 400


def test_an_ambiguous_text_says_what_it_may_mean() -> None:
    with pytest.raises(BadUse, match=r"2026-11-23T00.*Z or 2026-11-30T00"):
        understand_point("monday", NOW_US)


def test_other_points_are_what_they_were() -> None:
    assert understand_point("@12", NOW_US) == AtPosition(12)
    assert understand_point("12", NOW_US) == AtPosition(12)
    assert understand_point("now", NOW_US) == AtEnd()


def test_the_library_is_imported_for_words_only() -> None:
    code = (
        "import sys\n"
        "from mirrorlog.changed.worded_times import understand_point\n"
        "for text in ('2h ago', '1h', '@12', '2026-11-27T18:00:00Z', 'now', '10 minutes ago'):\n"
        f"    understand_point(text, {NOW_US})\n"
        "assert 'dateparser' not in sys.modules\n"
        f"understand_point('yesterday', {NOW_US})\n"
        "assert 'dateparser' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
