"""Points in a volume's history: what people write, and what it means."""

from __future__ import annotations

import pytest

from mirrorlog.changed.points import (
    AtBarrier,
    AtEnd,
    AtOrigin,
    AtPosition,
    AtSite,
    AtTime,
    format_time,
    parse_point,
)
from mirrorlog.errors import BadUse

NOW_US = 1_700_000_000_000_000  # 2023-11-14T22:13:20Z

# text | the point
POINTS = """
origin                           | AtOrigin()
now                              | AtEnd()
@1234                            | AtPosition(1234)
1234                             | AtPosition(1234)
-1                               | AtPosition(-1)
 @-1                             | AtPosition(-1)
9223372036854775807              | AtPosition(2**63-1)
20231114                         | AtPosition(20231114)
barrier:before upgrade           | AtBarrier('before upgrade')
barrier:a:b                      | AtBarrier('a:b')
site:site-a                      | AtSite('site-a')
2h ago                           | AtTime(NOW_US - 7200_000_000)
30min ago                        | AtTime(NOW_US - 1800_000_000)
1.5 s ago                        | AtTime(NOW_US - 1_500_000)
100000d ago                      | AtTime(0)
2023-11-14T22:13:20Z             | AtTime(NOW_US)
2023-11-14t22:13:20.000001z      | AtTime(NOW_US + 1)
2023-11-14 22:13:20              | AtTime(NOW_US)
2023-11-15T00:13:20+02:00        | AtTime(NOW_US)
2023-11-14                       | AtTime(NOW_US - 80_000_000_000)
1969-12-31T23:59:59Z             | AtTime(-1_000_000)
"""


@pytest.mark.parametrize("case", POINTS.strip("\n").splitlines())
def test_points(case: str) -> None:
    text, expected = case.split(" | ")
    point = parse_point(text, NOW_US)
    assert point == eval(expected)
    assert isinstance(point, AtTime | AtPosition | AtBarrier | AtSite | AtOrigin | AtEnd)


NOT_POINTS = [
    "",
    "yesterday",
    "ago",
    "2x ago",
    "-5",
    "@",
    "@-2",
    "9223372036854775808",
    "barrier:",
    "site:",
    "٣",
    "99:99",
]


@pytest.mark.parametrize(
    "text", [*NOT_POINTS, "9" * 400 + "h ahead", "2023-13-01T00:00:00Z", "x" * 10_000]
)
def test_what_names_no_point_is_bad_use(text: str) -> None:
    with pytest.raises(BadUse) as refused:
        parse_point(text, NOW_US)
    assert len(str(refused.value)) < 400


def test_a_duration_beyond_all_bounds_is_the_beginning_of_time() -> None:
    assert parse_point("9" * 400 + "h ago", NOW_US) == AtTime(0)


def test_times_are_rfc_3339_with_microseconds_and_null_where_no_calendar_has_them() -> None:
    assert format_time(NOW_US + 5) == "2023-11-14T22:13:20.000005Z"
    assert format_time(1 << 62) is None
