"""Which regions become hot ahead of the writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.producers.batches.look_ahead import MOST_AHEAD, WINDOW_S, RegionLookAhead

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
        ahead = [] if number in hot else look_ahead.extend([number], most=100, now_s=0)
        hot |= {number, *ahead}
        seen.append(ahead)
    assert seen == [told(text) for text in expected]


def test_a_long_run_waits_once_for_many_regions() -> None:
    look_ahead, hot, waits = RegionLookAhead(), set[int](), 0
    for number in range(1000):
        if number not in hot:
            waits += 1
            hot |= {number, *look_ahead.extend([number], most=1000, now_s=0)}
    assert waits <= 1000 // MOST_AHEAD + 9
    assert len(hot) <= 1000 + MOST_AHEAD


def test_a_slow_writer_gets_as_many_as_it_goes_through_in_a_while() -> None:
    """Nothing that became hot ahead is idle before the writer comes to it."""
    look_ahead, hot_since, idle = RegionLookAhead(), dict[int, float](), 0
    for number in range(1000):
        now_s = number / 10
        if number not in hot_since:
            ahead = look_ahead.extend([number], most=1000, now_s=now_s)
            hot_since |= dict.fromkeys([number, *ahead], now_s)
        idle += now_s - hot_since[number] > 4 * WINDOW_S
    assert idle < 20
    assert len(hot_since) <= 1020


def test_a_slow_writer_that_asks_early_gets_few_enough_too() -> None:
    """It asks when it comes to the first eighth of a window, as nbdkit does (ring.h)."""
    look_ahead, hot_since, idle, asks = RegionLookAhead(), dict[int, float](), 0, {0: 0, 1: 1}
    for number in range(1000):
        now_s = number / 10
        if number in asks:
            behind = asks.pop(number)
            ahead = look_ahead.extend([behind], most=1000, now_s=now_s)
            hot_since |= dict.fromkeys([behind, *ahead], now_s)
            if ahead:
                asks[ahead[len(ahead) // 8]] = ahead[-1] + 1
        idle += now_s - hot_since[number] > 4 * WINDOW_S
    assert idle < 20
    assert len(hot_since) <= 1040


def test_a_window_grows_again_when_the_writer_is_fast() -> None:
    look_ahead, windows, number = RegionLookAhead(), list[int](), 0
    for now_s in (0, 0.1, 0.2, 5, 10, 15, 15.1, 15.2):
        ahead = look_ahead.extend([number], most=1000, now_s=now_s)
        windows.append(len(ahead))
        number += 1 + len(ahead)
    assert windows == [0, 2, 5, 2, 1, 1, 3, 7]


def test_a_copy_is_asked_without_a_change() -> None:
    look_ahead = RegionLookAhead()
    for number in (5, 6, 7, 8, 9):
        look_ahead.extend([number], most=0, now_s=0)
    assert look_ahead.copy().extend([10], most=100, now_s=0) == [11, 12, 13, 14, 15, 16]
    assert look_ahead.extend([10], most=100, now_s=0) == [11, 12, 13, 14, 15, 16]


@given(st.lists(st.integers(0, 60), max_size=60), st.integers(0, 40))
def test_few_regions_become_hot_at_once(needed: list[int], most: int) -> None:
    look_ahead = RegionLookAhead()
    for number in needed:
        ahead = look_ahead.extend([number], most=most, now_s=0)
        assert len(ahead) <= min(most, 2 * MOST_AHEAD)
        assert ahead == sorted({*ahead} - {number})
        assert len(look_ahead._runs) <= 8


@given(st.lists(st.integers(0, 1 << 20), min_size=1, max_size=200, unique=True))
def test_a_writer_that_jumps_makes_nothing_hot_ahead(numbers: list[int]) -> None:
    look_ahead = RegionLookAhead()
    assert not any(look_ahead.extend([100 * number], most=100, now_s=0) for number in numbers)


def test_several_writers_go_through_a_volume() -> None:
    look_ahead = RegionLookAhead()
    starts = range(0, 8000, 1000)
    assert not any(look_ahead.extend([start], most=100, now_s=0) for start in starts)
    for start in starts:
        assert look_ahead.extend([start + 1], most=100, now_s=0) == [start + 2, start + 3]
    for start in (8000, *starts):  # one more writer, and the first one is forgotten
        look_ahead.extend([start], most=100, now_s=0)
    assert look_ahead.extend([4], most=100, now_s=0) == []
