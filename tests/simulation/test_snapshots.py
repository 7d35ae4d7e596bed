"""A site that reads snapshots of its primaries, in the whole world in memory.

The host writes all the time, also while a snapshot is read. Snapshots are refused, and break in the
middle of a cycle. Node and site are killed between any two of their steps. After each step, what
is saved as consistent must equal the primary as of that position.
"""

from __future__ import annotations

import pytest

from mirrorlog.simulation.world.world import VOLUMES, World


def run(seed: int, **settings: object) -> int:
    """Run a world. Return how many states were saved as consistent at a snapshot's position."""
    world = World(seed, site_snapshot_s=0, **settings)
    world.use_snapshots()
    proved = set[tuple[str, int]]()
    for _ in range(400):
        world.act()
        for name in VOLUMES:
            saved = world.site.states.load(name)
            if saved is not None and saved.consistent_position is not None:
                position = saved.consistent_position
                if name in world.snapshots.get(position, ()):
                    proved.add((name, position))
    world.finish()
    world.check_end()
    return len(proved)


@pytest.mark.parametrize("seed", range(1, 7))
def test_a_secondary_is_consistent_as_of_the_snapshot_that_it_read(seed: int) -> None:
    assert run(seed) > 0


@pytest.mark.parametrize("seed", range(6))
def test_a_cycle_that_was_staged_from_a_snapshot_is_applied_without_another_proof(
    seed: int,
) -> None:
    assert run(seed, site_consistency="crash") > 0
