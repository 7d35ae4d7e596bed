"""A time is restored exactly if the log proves it, and otherwise from the last state before it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from backup_positions import at
from logs import log_written_at
from notation import OTHER_GENERATION, site_progress, volume

from mirrorlog.consumers.backup.sources.times import (
    TimedState,
    choose_for_time,
    neighbours,
    states_of_sites,
)
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.errors import OutOfRetention

SECOND = 10**6


def state(position: int, at_s: float | None, name: str = "", **more: object) -> TimedState:
    return TimedState(
        name=name or f"p{position}",
        position=at(position, **more),
        at_us=None if at_s is None else int(at_s * SECOND),
    )


# The volume was written to at 100, 200, 300, 400 s: positions 0, 2, 4, 6. Others are between.
# points as position@seconds (? for no time) | time | the choice | exact | blocks that are missing
CHOICES = """
1@100.5 5@300.5 | 150   | p1 | yes |
1@100.5 5@300.5 | 100.5 | p1 | yes |
1@100.5 5@300.5 | 250   | p1 | no  | 1
1@100.5 5@300.5 | 299   | p1 | no  | 1
1@100.5 5@300.5 | 305   | p5 | yes |
1@100.5 5@300.5 | 900   | p5 | no  | 1
1@100.5 7@400.5 | 350   | p1 | no  | 2
3@200.5 5@300.5 | 100.2 | -  |     |
5@390           | 350   | p5 | yes |
5@390           | 299   | -  |     |
1@? 3@200.5     | 150   | -  |     |
1@100.5 3@?     | 250   | p1 | no  | 1
"""


@pytest.mark.parametrize("case", CHOICES.strip().splitlines())
def test_a_time_is_had_exactly_or_the_last_state_before_it(case: str) -> None:
    points, at, chosen, exact, missing = (part.strip() for part in case.split("|"))
    states = []
    for point in points.split():
        position, _, second = point.partition("@")
        states.append(state(int(position), None if second == "?" else float(second)))
    ports = log_written_at(100, 200, 300, 400).ports()
    at_us = int(float(at) * SECOND)
    if chosen == "-":
        with pytest.raises(OutOfRetention, match="no state of the volume reaches back"):
            choose_for_time(states, at_us, volume(), ports, 0.0)
        return
    choice = choose_for_time(states, at_us, volume(), ports, 0.0)
    assert choice.state.name == chosen
    assert choice.is_exact == (exact == "yes")
    assert choice.missing_blocks == (int(missing) if missing else None)
    assert choice.describe()


def test_what_cannot_be_had_is_said() -> None:
    ports = log_written_at(100, 200, 300, 400).ports()
    states = [state(1, 100.5), state(5, 300.5)]
    choice = choose_for_time(states, 250 * SECOND, volume(), ports, 0.0)
    assert choice.describe() == (
        "p1 is the volume as of 1970-01-01T00:01:40.500000Z, 2.5 min before "
        "1970-01-01T00:04:10.000000Z: what was written in between isn't in it, 1 block, 4.0 KiB. "
        "The next state is p5, as of 1970-01-01T00:05:00.500000Z"
    )


@pytest.mark.parametrize(
    "more", [{"generation": OTHER_GENERATION}, {"history_id": OTHER_GENERATION}]
)
def test_of_another_generation_or_history_nobody_can_tell(more: dict[str, object]) -> None:
    ports = log_written_at(100, 200).ports()
    choice = choose_for_time([state(1, 100.5, **more)], 150 * SECOND, volume(), ports, 0.0)
    assert (choice.is_exact, choice.missing_blocks) == (None, None)
    assert "nobody knows what was written in between" in choice.describe()


def test_a_hole_in_the_log_is_no_proof() -> None:
    log = log_written_at(100, 200, 300)
    log.lose_records([1])
    choice = choose_for_time([state(1, 100.5)], 250 * SECOND, volume(), log.ports(), 0.0)
    assert choice.is_exact is None


def test_an_inconsistent_state_is_never_chosen() -> None:
    states = [state(1, 1), state(3, 2, is_consistent=False), state(5, 3, is_consistent=False)]
    assert neighbours(states, 9 * SECOND) == (states[0], None)
    assert neighbours([], 9) == (None, None)


def test_of_two_states_of_one_time_the_higher_position_is_later() -> None:
    site = replace(state(3, 2, "site a"), is_point=False)
    states = [state(3, 2), site, state(1, 2), state(7, 5), state(6, 5)]
    assert neighbours(states, 2 * SECOND) == (states[0], states[4])


def site_at(position: int, at_s: float) -> TimedState:
    return replace(state(position, at_s, "site a"), is_point=False)


# Between positions 2 and 3, another volume was written to: the site has moved on, v hasn't.
@pytest.mark.parametrize(
    ("states", "at_s", "chosen", "exact", "missing"),
    [
        ([state(2, 200), site_at(3, 200.5)], 250, "p2", True, None),
        ([state(2, 200), site_at(3, 200.5)], 900, "p2", False, 2),
        ([state(0, 100), site_at(3, 200.5)], 250, "site a", True, None),
        ([state(0, 100), site_at(3, 200.5)], 900, "site a", False, 2),
        ([site_at(2, 390), state(3, 391)], 350, "p3", True, None),
        ([site_at(2, 390), state(5, 391)], 350, "site a", True, None),
        ([site_at(3, 200.5), state(3, 200.5)], 200.2, "p3", True, None),
        ([site_at(3, 200.5)], 250, "site a", True, None),
    ],
)
def test_a_point_stands_for_a_site_that_the_log_names_no_change_away_from_it(
    states: list[TimedState], at_s: float, chosen: str, exact: bool, missing: int | None
) -> None:
    ports = log_written_at(100, 200, 300, 400).ports()
    choice = choose_for_time(states, int(at_s * SECOND), volume(), ports, 0.0)
    assert (choice.state.name, choice.is_exact, choice.missing_blocks) == (chosen, exact, missing)


def test_a_point_of_another_history_stands_for_no_site() -> None:
    other = state(2, 200, history_id=OTHER_GENERATION)
    ports = log_written_at(100, 200).ports()
    choice = choose_for_time([other, site_at(3, 200.5)], 250 * SECOND, volume(), ports, 0.0)
    assert choice.state.name == "site a"


def test_of_a_point_and_a_site_after_the_time_the_point_is_nearer() -> None:
    site, point = site_at(3, 2), state(3, 2)
    assert neighbours([site, point], SECOND) == (None, point)


def test_sites_that_are_consistent_are_states_as_well() -> None:
    ports = log_written_at(100, 200).ports()
    consistent = {"state": SiteState.CONSISTENT, "applied_position": 2, "consistent_position": 2}
    reports = [
        site_progress(site="a", **consistent),
        site_progress(site="b", **(consistent | {"generation": OTHER_GENERATION})),
        site_progress(site="c", **(consistent | {"state": SiteState.STOPPED})),
        site_progress(site="d"),
    ]
    (only,) = states_of_sites(reports, volume(), ports)
    assert (only.name, only.at_us) == ("site a", 200 * SECOND)
    assert (only.position.position, only.is_point) == (2, False)
    choice = choose_for_time([only], 250 * SECOND, volume(), ports, 0.0)
    assert choice.is_exact
