"""Rates by the time of day, and a token bucket that keeps them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.consumers.resync.copy_pace import CopyPace
from mirrorlog.consumers.resync.copy_rate import (
    MINUTES,
    CopyRate,
    RateSchedule,
    TokenBucket,
    parse_rates,
)
from mirrorlog.errors import BadUse
from mirrorlog.simulation.manual_clock import ManualClock

RATES = st.one_of(st.none(), st.integers(1, 10**12))


def text_of_rate(rate: int | None) -> str:
    return "max" if rate is None else f"{rate}B/s"


@st.composite
def schedules(draw: st.DrawFn) -> tuple[str, dict[int, int | None]]:
    """A schedule's text, and the rate that it gives to each minute of the day."""
    cuts = sorted(draw(st.sets(st.integers(0, MINUTES - 1), min_size=2, max_size=8)))
    parts, rates = [], dict.fromkeys(range(MINUTES), draw(RATES))
    parts.append(f"else={text_of_rate(rates[0])}")
    for begin, end in zip(cuts, [*cuts[1:], cuts[0]], strict=True):
        if draw(st.booleans()):
            rate = draw(RATES)
            times = "-".join(f"{cut // 60:02}:{cut % 60:02}" for cut in (begin, end))
            parts.append(f"{times}={text_of_rate(rate)}")
            minutes = range(begin, end if end > begin else end + MINUTES)
            rates.update((minute % MINUTES, rate) for minute in minutes)
    return ", ".join(draw(st.permutations(parts))), rates


@given(schedules())
def test_each_minute_has_the_rate_that_the_text_gives_it(
    drawn: tuple[str, dict[int, int | None]],
) -> None:
    text, rates = drawn
    schedule = parse_rates(text)
    assert {minute: schedule.rate_at(minute) for minute in range(MINUTES)} == {
        minute: CopyRate(rate) for minute, rate in rates.items()
    }
    if schedule.is_unlimited:
        assert set(rates.values()) == {None}


@pytest.mark.parametrize(
    ("text", "rate"), [("max", None), ("50MB/s", 50_000_000), ("1MiB", 1 << 20), (" 7 B/s ", 7)]
)
def test_one_rate_for_the_whole_day(text: str, rate: int | None) -> None:
    assert parse_rates(text) == RateSchedule((), CopyRate(rate))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "auto:",
        "auto:max",
        "auto:0",
        "auto50MB",
        "0",
        "fast",
        "-1",
        "8-18=1MB",
        "08:00-08:00=1MB",
        "08:00-24:30=1MB",
        "25:00-26:00=1MB",
        "08:00-18:00=1MB,17:59-19:00=2MB",
        "22:00-06:00=1MB,05:00-07:00=max",
        "08:00-18:00=0",
        "else=1MB,else=2MB",
        "08:00-18:00=1MB,max",
    ],
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(BadUse) as caught:
        parse_rates(text)
    assert caught.value.next


@given(
    st.integers(1, 10**9),
    st.lists(st.tuples(st.integers(1, 1 << 20), st.floats(0, 2)), min_size=1, max_size=50),
)
def test_no_span_of_time_lets_more_through_than_the_rate_allows(
    rate: int, requests: list[tuple[int, float]]
) -> None:
    bucket, now_s = TokenBucket(), 0.0
    taken: list[tuple[float, int]] = []
    for size_bytes, idle_s in requests:
        now_s += idle_s
        while wait_s := bucket.wait_s(now_s, rate):
            now_s += max(wait_s, 1e-9)
        bucket.take(size_bytes)
        taken.append((now_s, size_bytes))
    for start, (begin_s, _) in enumerate(taken):
        total = 0
        for at_s, size_bytes in taken[start:]:
            allowed = rate * (at_s - begin_s + 0.25) * (1 + 1e-6) + 1
            assert total <= allowed  # all but the request that is taken now
            total += size_bytes


def test_a_pace_changes_with_the_hour_and_a_raised_error_ends_a_wait() -> None:
    clock = ManualClock()
    waited = 0.0

    def sleep(seconds: float) -> None:
        nonlocal waited
        waited += seconds
        clock.now_s += seconds

    pace = CopyPace(
        parse_rates("00:00-00:01=1000B/s,else=max"),
        clock,
        sleep,
        minute_of=lambda now_us: now_us // 60_000_000 % MINUTES,
    )
    assert pace.batch_bytes(1 << 20) == 64 << 10
    pace.wait(100_000, lambda: None)
    assert waited == 0
    pace.wait(1000, lambda: None)  # 100 s by the rate, but it ends at 60 s
    assert 59 <= waited <= 61
    assert pace.batch_bytes(1 << 20) == 1 << 20
    clock.now_s = MINUTES * 60.0
    pace.wait(100_000, lambda: None)

    def refuse() -> None:
        raise BadUse("another process runs the site")

    waited = 0
    with pytest.raises(BadUse, match="another process"):
        pace.wait(1, refuse)
        pace.wait(1, refuse)
    assert waited <= 0.2


@pytest.mark.parametrize(
    ("text", "rate"),
    [("auto", CopyRate(None, is_adaptive=True)), ("auto:5MB/s", CopyRate(5_000_000, True))],
)
def test_a_rate_may_yield_to_the_load_below_a_limit(text: str, rate: CopyRate) -> None:
    schedule = parse_rates(text)
    assert schedule == RateSchedule((), rate)
    assert schedule.is_adaptive and not schedule.is_unlimited
    by_day = parse_rates(f"08:00-18:00={text},else=max")
    assert (by_day.rate_at(600), by_day.rate_at(0)) == (rate, CopyRate())
