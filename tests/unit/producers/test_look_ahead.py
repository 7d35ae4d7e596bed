"""Which regions become hot ahead of the writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.producers.batches.look_ahead import MOST_AHEAD, RegionLookAhead

# the regions that writes need, one after the other | those that become hot with each
WAYS = """
in order                 | 5 6 7 8 9 10 11 12 13     | - 7-8 - - 10-14 - - - -
another one in between   | 5 90 6                    | - - 7-8
backwards                | 9 8 7 6                   | - - - -
each second one          | 5 7 9 11                  | - 6,8-10 - 12-18
jumping                  | 5 500 50 700 9            | - - - - -
three in disorder        | 5 6 9 11 10               | - 7-8 10-14 - -
"""


def told(text: str) -> list[int]:
    numbers: list[int] = []
    for part in () if text == "-" else text.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


@pytest.mark.parametrize("way", WAYS.strip().splitlines())
def test_regions_ahead_of_a_run_become_hot(way: str) -> None:
    _, needed, expected = (part.split() for part in way.split("|"))
    look_ahead, hot = RegionLookAhead(), set[int]()
    seen = []
    for number in map(int, needed):
        ahead = [] if number in hot else look_ahead.extend([number], most=100)
        hot |= {number, *ahead}
        seen.append(ahead)
    assert seen == [told(text) for text in expected]


def test_a_long_run_waits_once_for_many_regions() -> None:
    look_ahead, hot, waits = RegionLookAhead(), set[int](), 0
    for number in range(1000):
        if number not in hot:
            waits += 1
            hot |= {number, *look_ahead.extend([number], most=1000)}
    assert waits <= 1000 // MOST_AHEAD + 6
    assert len(hot) <= 1000 + MOST_AHEAD


@given(st.lists(st.integers(0, 60), max_size=60), st.integers(0, 40))
def test_few_regions_become_hot_at_once(needed: list[int], most: int) -> None:
    look_ahead = RegionLookAhead()
    for number in needed:
        ahead = look_ahead.extend([number], most=most)
        assert len(ahead) <= min(most, 2 * MOST_AHEAD)
        assert ahead == sorted({*ahead} - {number})
        assert len(look_ahead._runs) <= 8


@given(st.lists(st.integers(0, 1 << 20), min_size=1, max_size=200, unique=True))
def test_a_writer_that_jumps_makes_nothing_hot_ahead(numbers: list[int]) -> None:
    look_ahead = RegionLookAhead()
    assert not any(look_ahead.extend([100 * number], most=100) for number in numbers)


def test_several_writers_go_through_a_volume() -> None:
    look_ahead = RegionLookAhead()
    starts = range(0, 8000, 1000)
    assert not any(look_ahead.extend([start], most=100) for start in starts)
    for start in starts:
        assert look_ahead.extend([start + 1], most=100) == [start + 2, start + 3]
    for start in (8000, *starts):  # one more writer, and the first one is forgotten
        look_ahead.extend([start], most=100)
    assert look_ahead.extend([4], most=100) == []
