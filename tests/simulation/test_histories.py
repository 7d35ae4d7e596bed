"""The commands topic is created again, or the broker goes back in time, at any moment.

At no step does the site claim or report more than is true, and in the end every secondary equals
its primary (docs/decisions/histories.md).
"""

from __future__ import annotations

import pytest

from mirrorlog.simulation.world.world import World

STEPS = 160
ENDED_BEFORE_THE_OPENING_WAS_FOLDED = 120406
TOOK_COMMANDS_BACK_BEFORE_THE_HOST_FOLLOWED_A_RENEWAL = 610098
WENT_BACK_BEHIND_A_RENEWAL = 1110207
SEEDS = (
    *range(40),
    ENDED_BEFORE_THE_OPENING_WAS_FOLDED,
    TOOK_COMMANDS_BACK_BEFORE_THE_HOST_FOLLOWED_A_RENEWAL,
    WENT_BACK_BEHIND_A_RENEWAL,
)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_claim_outlives_the_history_in_which_it_was_made(seed: int) -> None:
    world = World(seed)
    for _ in range(STEPS):
        world.act_with_history_faults()
    world.finish_after_history_faults()
