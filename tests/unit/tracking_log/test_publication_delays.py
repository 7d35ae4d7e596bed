"""Publication delays: joined as they age, and what they exclude from a search."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mirrorlog.tracking_log.publication_delays import (
    PublicationDelays,
    SearchRange,
    delays_to_join,
    early_search,
    late_search,
)

MINUTE_US = 60_000_000


def delays(
    minute: int, longest_us: int | None = 5, shortest_us: int | None = 1
) -> PublicationDelays:
    """Return the delays of a minute with ten commands, of which the first comes with it."""
    return PublicationDelays(
        partition=0,
        history_id="h",
        after=minute * 10 - 1,
        through=minute * 10 + 9,
        first_appended_us=minute * MINUTE_US,
        last_appended_us=minute * MINUTE_US + 54_000_000,
        longest_us=longest_us,
        shortest_us=shortest_us,
    )


def test_two_ranges_become_one_with_the_longest_and_the_shortest_delay_of_both() -> None:
    both = replace(delays(1), through=29, last_appended_us=delays(2).last_appended_us)
    assert delays(1, 5, 1).joined(delays(2, 7, -3)) == replace(both, longest_us=7, shortest_us=-3)
    assert delays(1, None, None).joined(delays(2)) == both


@pytest.mark.parametrize(
    "later",
    [
        delays(3),
        replace(delays(2), after=18),
        replace(delays(2), history_id="i"),
        replace(delays(2), partition=1),
        replace(delays(2), first_appended_us=delays(1).last_appended_us - 1),
    ],
    ids=["a gap", "an overlap", "another history", "another partition", "time went back"],
)
def test_ranges_that_dont_continue_each_other_stay_apart(later: PublicationDelays) -> None:
    assert delays(1).joined(later) is None


def test_older_delays_become_wider() -> None:
    held = [delays(minute) for minute in range(40 * 24 * 60)]
    now_us = held[-1].last_appended_us
    joins = delays_to_join(held, now_us)
    gone = {part.after for join in joins for part in join.parts}
    held = [part for part in held if part.after not in gone] + [join.whole for join in joins]
    held.sort(key=lambda part: part.after)
    assert 6 * 60 + 34 * 24 + 5 <= len(held) <= 7 * 60 + 36 * 24 + 6
    assert [part.after for part in held[1:]] == [part.through for part in held[:-1]]
    assert delays_to_join(held, now_us) == []


def test_nothing_is_joined_over_a_gap() -> None:
    held = [delays(minute) for minute in (0, 1, 3, 4)]
    joins = delays_to_join(held, 7 * 3600 * 1_000_000)
    assert [(join.whole.after, join.whole.through) for join in joins] == [(-1, 19), (29, 49)]


def test_only_what_was_appended_near_the_time_is_searched() -> None:
    """Late: up to 5 s behind the time. Early: from 2 s before it. Minute 3 isn't known."""
    known = [delays(minute, 5_000_000, -2_000_000) for minute in (0, 1, 2, 4)]
    known.append(delays(5, None, None))
    at_us = MINUTE_US + 30_000_000

    def position(at: int) -> int:
        """Return the position of the last command appended at a time or before: one each 6 s."""
        return at // 6_000_000

    late = late_search(known, at_us, position, after=15, through=59)
    assert late == [SearchRange(29, 39)]
    late = late_search(known, at_us, position, after=9, through=25)
    assert late == [SearchRange(9, 15)]
    early = early_search(known, at_us, lambda at: position(at - 1), after=-1, through=15)
    assert early == [SearchRange(14, 15)]
    assert late_search([], at_us, position, after=3, through=9) == [SearchRange(3, 9)]
    assert late_search(known, at_us, lambda _: None, after=9, through=25) == [SearchRange(9, 19)]
