"""A copy of everything goes on where it was after a kill at any step, and reads nothing twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from site_kills import Killer, follow, unfinished

from mirrorlog.consumers.state.pauses import Pauses
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.simulation.world.crashes import Crash
from mirrorlog.simulation.world.host import SIZE_BYTES
from mirrorlog.simulation.world.world import World

STEPS = 90
"""More than a first copy of the three volumes has."""


def world_before_a_copy(seed: int) -> World:
    """Return a world with written volumes, and secondaries of which nothing is known yet."""
    world = World(seed, site_chunk_bytes=4096)
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


@pytest.mark.parametrize("seed", range(2))
def test_a_copy_goes_on_after_a_kill_at_each_step(seed: int) -> None:
    resumed = 0
    for steps in range(1 + seed, STEPS, 9):
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


class CutOff:
    """A copy that is killed when it goes on after its second chunk.

    name, state: its volume, and the state that is saved. mark, content: of the secondary after the
    first chunk.
    """

    def __init__(self, world: World, killer: Killer) -> None:
        self._world = world
        self._seen: list[tuple[str, int | None]] = []
        killer.on_read = self._look
        with pytest.raises(Crash):
            follow(world)
        world.site.lose_power()
        killer.on_read = lambda _: None
        killer.reads.clear()
        self.name = self._seen[0][0]
        self.state = unfinished(world)[self.name]
        assert (self.name, self.state.copied_bytes) == self._seen[1]

    def _look(self, name: str) -> None:
        state, site = self._world.site.states.load(name), self._world.site
        if not state or not state.copied_bytes or (name, state.copied_bytes) in self._seen:
            return
        if self._seen and self._seen[0][0] != name:
            return  # the copies of several volumes take turns
        self._seen.append((name, state.copied_bytes))
        if len(self._seen) == 2:
            raise Crash
        self.mark = site.secondaries.marks.get(name)
        self.content = site.secondary(name).pread(offset=0, length=SIZE_BYTES)


def test_a_copy_of_another_generation_begins_anew() -> None:
    world = world_before_a_copy(1)
    killer = Killer(world, 10**9)
    cut_off = CutOff(world, killer)
    other = replace(cut_off.state, generation="22222222-2222-4222-8222-222222222222")
    world.site.states.save(other)
    world.site.start()
    follow(world)
    assert (cut_off.name, 0) in killer.reads
    assert world.site.secondary_equals_primary(cut_off.name)


@pytest.mark.parametrize("is_restored", [True, False])
def test_a_secondary_that_lacks_the_last_chunk_is_copied_from_its_beginning(
    is_restored: bool,
) -> None:
    """A backup is put back over the secondary, with its mark, where no sample shows that."""
    world = world_before_a_copy(1)
    killer = Killer(world, 10**9)
    cut_off = CutOff(world, killer)
    name = cut_off.name
    world.site.states.save(replace(cut_off.state, samples=()))
    if is_restored:
        device = world.site.secondary(name)
        device.pwrite(0, cut_off.content)
        device.flush()
        world.site.secondaries.restore_mark(name, cut_off.mark)
    world.site.start()
    follow(world)
    assert ((name, 0) in killer.reads) is is_restored
    assert world.site.secondary_equals_primary(name)


def test_a_long_copy_lets_the_other_volumes_follow_their_log() -> None:
    """After each chunk the others have their turn: one copies, another applies what was written."""
    world = world_before_a_copy(1)
    world.hold_primaries_still()
    follow(world)
    for name in ("u", "w"):
        world.site.states.restore(name, None)
    world.site.start()
    world.site.site.run_once(0)
    applied: list[int | None] = []
    while len(unfinished(world)) == 2:
        world.host.write_block("v", len(applied) % 3)
        world.host.heartbeat()
        world.fold_and_commit()
        world.site.site.run_once(0)
        world.site.check_claims()
        saved = world.site.states.load("v")
        assert saved is not None
        applied.append(saved.applied_position)
    assert len(set(applied)) >= 3
    assert None not in applied
    follow(world)
    for name, secondary in world.site.site.secondaries.items():
        assert secondary.state is SiteState.CONSISTENT
        assert world.site.secondary_equals_primary(name)
