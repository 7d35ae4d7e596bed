"""The lags of the last hour and day, in a ring of fixed size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.consumers.dashboard.lag_history import COARSE, FINE, LagHistory
from mirrorlog.status.replicas import LagBounds

V, W = ("v", "a"), ("w", "a")
START_S = 1_800_000_000
UNKNOWN = LagBounds()


def exactly(seconds: float) -> LagBounds:
    return LagBounds(lag_s=seconds)


def at(step: int, second: int = 0) -> int:
    return (START_S + step * FINE.step_s + second) * 1_000_000


@given(st.floats(0, 40 * 86_400))
def test_a_lag_is_kept_to_a_thousandth_or_half_a_millisecond(lag_s: float) -> None:
    history = LagHistory()
    history.add({V: exactly(lag_s)}, at(0))
    assert history.of(V)["hour"]["lag_s"][-1] == pytest.approx(lag_s, rel=2e-3, abs=6e-4)


def test_zero_unknown_and_bounds_are_told_apart() -> None:
    history = LagHistory()
    lags = [exactly(0), UNKNOWN, LagBounds(at_least_s=60), LagBounds(at_most_s=5), exactly(0)]
    for step, lag in enumerate(lags):
        history.add({V: lag}, at(step))
    hour = history.of(V)["hour"]
    assert hour["lag_s"][-5:] == [0.0, None, pytest.approx(60, rel=2e-3), None, 0.0]
    assert hour["at_least"] == [FINE.samples - 3]
    assert hour["lag_s"][:-5] == [None] * (FINE.samples - 5)


def test_steps_that_were_passed_over_are_unknown() -> None:
    history = LagHistory()
    for step in range(FINE.samples):
        history.add({V: exactly(1)}, at(step))
    history.add({V: exactly(2)}, at(FINE.samples + 2))
    tail = history.of(V)["hour"]["lag_s"][-4:]
    assert tail == [pytest.approx(1, rel=2e-3), None, None, pytest.approx(2, rel=2e-3)]


def test_after_a_long_gap_the_hour_is_unknown_and_the_day_holds_its_longest() -> None:
    history = LagHistory()
    history.add({V: exactly(1)}, at(0))
    history.add({V: exactly(9)}, at(1))
    history.add({V: exactly(1)}, at(FINE.samples * 3))
    hour, day = history.of(V)["hour"], history.of(V)["day"]
    assert hour["lag_s"][:-1] == [None] * (FINE.samples - 1)
    assert [lag for lag in day["lag_s"] if lag is not None] == [
        pytest.approx(9, rel=2e-3),
        pytest.approx(1, rel=2e-3),
    ]


def test_a_secondary_that_takes_the_place_of_another_has_none_of_its_lags() -> None:
    history = LagHistory()
    history.add({V: exactly(5)}, at(0))
    history.add({W: UNKNOWN}, at(1))
    assert history.of(V)["hour"]["lag_s"] == [] or set(history.of(V)["hour"]["lag_s"]) == {None}
    assert set(history.of(W)["hour"]["lag_s"]) == {None}
    assert set(history.of(W)["day"]["lag_s"]) == {None}


def test_memory_is_bounded_by_the_secondaries_and_not_by_time() -> None:
    history = LagHistory()
    lags = {(f"v{number}", "a"): exactly(1) for number in range(1000)}
    history.add(lags, at(0))
    before = history.size_bytes
    for step in range(1, 2 * FINE.samples):
        history.add(lags, at(step))
    assert history.size_bytes == before == 1000 * 2 * (FINE.samples + COARSE.samples)


def test_a_volume_made_anew_begins_without_the_lags_of_the_former_one() -> None:
    history = LagHistory()
    history.add({V: exactly(7), W: exactly(7)}, at(0))
    history.add({V: exactly(1), W: exactly(1)}, at(1), {"v"})
    assert history.of(V)["hour"]["lag_s"][-2:] == [None, pytest.approx(1, rel=2e-3)]
    assert None not in history.of(W)["hour"]["lag_s"][-2:]
