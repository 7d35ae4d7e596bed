"""A site that reads snapshots of its primaries, in the whole world in memory.

The host writes all the time, also while a snapshot is read. Snapshots are refused, and break in the
middle of a cycle. Node and site are killed between any two of their steps. After each step, what
is saved as consistent must equal the primary as of that position.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from mirrorlog.consumers.resync import cycle_copier
from mirrorlog.consumers.resync.cycle_steps import Resync
from mirrorlog.consumers.resync.secondaries import TakenSnapshot
from mirrorlog.consumers.resync.snapshot_reads import SnapshotReads
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.simulation.memory_devices import Hook, MemoryDevice
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


def run_with_deaths(seed: int) -> int:
    """Kill the host at any time, also while it keeps old contents. Return how often it died."""
    consistency = ("crash", "eventual")[seed % 2]
    world, random = World(seed, site_snapshot_s=0, site_consistency=consistency), Random(seed)
    world.use_snapshots()
    take = world.site.secondaries.snapshot
    assert take is not None

    def take_mortal(volume: Volume) -> TakenSnapshot:
        taken = take(volume)
        assert isinstance(taken.device, MemoryDevice)
        taken.device.hook = with_deaths(world, random, taken.device.hook)
        return taken

    world.site.secondaries.snapshot = take_mortal
    for primary in world.host.primaries.values():
        primary.hook = with_deaths(world, random, primary.hook)
    for _ in range(300):
        world.act()
        if world.host.is_dead and random.random() < 0.2:
            world.host.recover()
        elif random.random() < 0.02:
            world.host.die()
    if world.host.is_dead:
        world.host.recover()
    deaths = world.host.deaths
    world.finish()
    world.check_end()
    return deaths


def with_deaths(world: World, random: Random, hook: Hook | None) -> Hook:
    """Return a hook that lets the host die now and then while the site reads from it."""

    def live_or_die(operation: str, offset: int, length: int) -> None:
        if hook is not None:
            hook(operation, offset, length)
        if operation == "pread" and random.random() < 0.1:
            world.host.die()

    return live_or_die


def test_a_host_is_killed_while_it_keeps_old_contents() -> None:
    assert sum(run_with_deaths(seed) for seed in range(3)) > 3


def test_a_site_that_takes_a_broken_snapshot_for_a_whole_one_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rest of a cycle is read from the primary, and yet the snapshot's position is claimed."""
    source_of = cycle_copier._source

    def claiming(
        step: Resync, primary: BlockDevice, snapshots: SnapshotReads
    ) -> tuple[BlockDevice, Callable[[], SecondaryState]]:
        return source_of(step, primary, snapshots)[0], lambda: step.done

    monkeypatch.setattr(cycle_copier, "_source", claiming)
    with pytest.raises(AssertionError, match="consistent at"):
        for seed in (7, 6, 8):
            run_with_deaths(seed)
