"""Idle regions are those that nobody has used for the idle time, whenever the rounds come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.producers.batches.hot_regions import HotRegion, HotRegions
from mirrorlog.producers.batches.idle_regions import ROUNDS_PER_IDLE_TIME, RecentUses

IDLE_S = 5
REGIONS = 3

# Each step: seconds pass, then a region is used (None: none is), or a round is done if it is due.
STEPS = st.lists(st.tuples(st.integers(0, 4), st.none() | st.integers(0, REGIONS - 1)), max_size=60)


@given(STEPS)
def test_no_region_is_idle_that_was_used_within_the_idle_time(
    steps: list[tuple[int, int | None]],
) -> None:
    uses, hot = RecentUses(IDLE_S), HotRegions(limit=REGIONS)
    regions = [HotRegion("v", number) for number in range(REGIONS)]
    used_s = [0.0] * REGIONS
    now_s = 0.0
    for region in regions:
        region.last_use = hot.next_use()
    for seconds, used in steps:
        now_s += seconds
        if used is not None:
            regions[used].last_use, used_s[used] = hot.next_use(), now_s
        if uses.is_due(now_s):
            uses.mark(now_s, hot.last_use)
        for region, at_s in zip(regions, used_s, strict=True):
            assert not uses.is_idle(region) or now_s - at_s >= IDLE_S


@given(st.floats(0, 100), st.floats(0.001, 1))
def test_a_region_is_idle_two_rounds_after_the_idle_time_at_the_latest(
    used_s: float, tick_s: float
) -> None:
    uses = RecentUses(IDLE_S)
    region, now_s = HotRegion("v", 0, last_use=7), used_s
    uses.mark(used_s - 0.5, 6)
    while not uses.is_idle(region):
        now_s += tick_s
        if uses.is_due(now_s):
            uses.mark(now_s, 7)
    assert now_s - used_s <= IDLE_S + 2 * (IDLE_S / ROUNDS_PER_IDLE_TIME + tick_s) + 1e-9
