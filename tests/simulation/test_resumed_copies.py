"""A copy of everything goes on where it was after a kill at any step, and reads nothing twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mirrorlog.consumers.state.pauses import Pauses
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.simulation.world.crashes import Crash
from mirrorlog.simulation.world.host import SIZE_BYTES
from mirrorlog.simulation.world.world import World

STEPS = 90
"""More than a first copy of the three volumes has."""


def world_before_a_copy(seed: int) -> World:
    """Return a world with written volumes, and secondaries of which nothing is known yet."""
    world = World(seed)
    for name in world.volumes:
        device = world.site.secondary(name)
        device.pwrite(0, b"\xaa" * SIZE_BYTES)
        device.flush()
    world.site.look_at_pauses = lambda: Pauses(is_all=True)
    for _ in range(150):
        world.act()
    world.site.crash()
    world.host.heartbeat()
    world.fold_and_commit()
    world.site.look_at_pauses = Pauses
    return world


class Killer:
    """Kills the site at one step, and notes what is read of primaries."""

    def __init__(self, world: World, steps: int) -> None:
        self.steps_left = steps
        self.reads: list[tuple[str, int]] = []
        site = world.site
        site.secondaries.hook = site.states.hook = self.step
        for device in site.secondaries.devices.values():
            device.hook = self.step
        for name, primary in world.host.primaries.items():

            def hook(operation: str, offset: int, length: int, name: str = name) -> None:
                if operation == "pread":
                    self.reads.append((name, offset))
                self.step(operation, offset, length)

            primary.hook = hook

    def step(self, *_: object) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            raise Crash


def unfinished(world: World) -> dict[str, SecondaryState]:
    """Return the saved states of copies that have a part that is done."""
    states = {name: world.site.states.load(name) for name in world.volumes}
    return {name: state for name, state in states.items() if state and state.copied_bytes}


def follow(world: World) -> None:
    """Let host, node and site go on until all is consistent."""
    for _ in range(12):
        world.host.heartbeat()
        world.fold_and_commit()
        world.site.site.run_once(0)
        world.site.check_claims()
    world.settle()


@pytest.mark.parametrize("seed", range(2))
def test_a_copy_goes_on_after_a_kill_at_each_step(seed: int) -> None:
    resumed = 0
    for steps in range(1 + seed, STEPS, 5):
        world = world_before_a_copy(seed)
        killer = Killer(world, steps)
        try:
            for _ in range(8):
                world.site.site.run_once(0)
        except Crash:
            world.site.crash()
        world.site.check_consistency()
        left = unfinished(world)
        killer.reads.clear()
        for name in world.volumes:
            world.host.write_block(name, 1)
        world.host.heartbeat()
        world.fold_and_commit()
        for _ in range(12):
            world.site.site.run_once(0)
            world.site.check_claims()
            if killer.reads:
                break
        for name, state in left.items():
            assert state.copied_bytes is not None and state.copied_bytes < SIZE_BYTES
            read = [offset for of, offset in killer.reads if of == name]
            assert min(read, default=SIZE_BYTES) >= state.copied_bytes
            saved = world.site.site.secondaries[name].saved
            assert saved is not None and saved.known_position == state.cycle_through
            resumed += 1
        follow(world)
        for name, secondary in world.site.site.secondaries.items():
            assert secondary.state is SiteState.CONSISTENT
            assert world.site.secondary_equals_primary(name)
    assert resumed


def test_a_copy_of_another_generation_begins_anew() -> None:
    world = world_before_a_copy(1)
    killer = Killer(world, 10**9)
    for steps in range(1, STEPS):
        killer.steps_left = steps
        try:
            for _ in range(8):
                world.site.site.run_once(0)
        except Crash:
            world.site.crash()
        if left := unfinished(world):
            break
    name, state = left.popitem()
    world.site.states.save(replace(state, generation="22222222-2222-4222-8222-222222222222"))
    world.site.crash()
    killer.steps_left = 10**9
    killer.reads.clear()
    for _ in range(12):
        world.site.site.run_once(0)
        world.site.check_claims()
    assert (name, 0) in killer.reads
    follow(world)
    assert world.site.secondary_equals_primary(name)
