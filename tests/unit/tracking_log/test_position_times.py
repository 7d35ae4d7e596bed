"""Position times: how old the records at a position are."""

from __future__ import annotations

from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.position_times import (
    consistent_times,
    position_at,
    times_to_prune,
)


def time(minute: int, through: int) -> Watermark:
    return Watermark(partition=0, through=through, at_us=minute * 60_000_000)


def test_times_give_positions_and_are_thinned_as_they_age() -> None:
    times = [time(minute, minute * 2) for minute in range(1, 60 * 24 * 12)]
    now_us = times[-1].at_us
    pruned = set(times_to_prune(times, now_us))
    left = [kept for kept in times if kept not in pruned]
    assert 6 * 60 + 7 * 24 <= len(left) <= 6 * 60 + 8 * 24 + 12
    assert times_to_prune(left, now_us) == []
    assert position_at(times, 60_000_000 * 7.5) == 14
    assert position_at(times, 0) == -1
    for at_us in range(0, now_us, now_us // 50):
        assert position_at(left, at_us) <= position_at(times, at_us)


def test_a_time_that_a_later_one_contradicts_is_dropped() -> None:
    """The topic was created again: the older notes say nothing of the new one."""
    times = [time(1, 5), time(2, 900), time(3, 6), time(4, 7)]
    assert consistent_times(times, complete_through=7) == [time(1, 5), time(3, 6), time(4, 7)]
