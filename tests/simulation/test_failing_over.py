"""Copies of a volume are promoted, part, and follow each other again, in any order of steps.

mirrorlog.simulation.world.failover says what is checked all the time and at the end.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from mirrorlog.consumers.failover import rejoining
from mirrorlog.consumers.resync import cycle, parting
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain import volume_states
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.simulation.memory_secondary_states import MemorySecondaryStates
from mirrorlog.simulation.world import failover
from mirrorlog.simulation.world.failover import FailoverWorld
from mirrorlog.simulation.world.failover_parts import NAME, Writer


def followed(world: FailoverWorld, *copies: str, rounds: int = 12) -> None:
    """Let hosts, node and sites run until the secondaries follow the primary."""
    for _ in range(rounds):
        for writer in world.writers:
            writer.publish()
        world.fold_all()
        for copy in copies:
            world.sites[copy].run()
        world.check_claims()
    for copy in copies:
        assert world.sites[copy].site.secondaries[NAME].state is SiteState.CONSISTENT


def started() -> FailoverWorld:
    """Return a world in which the primary a was written to, and b and c follow it."""
    world = FailoverWorld(1)
    for block in range(10):
        world.writers[0].write(block)
    followed(world, "b", "c")
    return world


def write(writer: Writer, *blocks: int) -> None:
    for block in blocks:
        writer.write(block)
    writer.publish()


def read_blocks(world: FailoverWorld, copy: str) -> int:
    return world.sites[copy].site.secondaries[NAME].blocks_copied


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_promotions_rejoins_and_crashes_ends_with_equal_copies(seed: int) -> None:
    world = FailoverWorld(seed)
    for _ in range(220):
        world.act()
    world.finish()


def test_a_former_primary_rejoins_by_exactly_the_blocks_of_both_sides() -> None:
    world = started()
    old = world.writers[0]
    write(old, 20, 21)  # after b parted, and before the promotion
    assert world.promote("b")
    new = world.writers[1]
    write(new, 30, 31, 20)
    write(old, 22)  # it hasn't read of the promotion yet
    old.look()
    old.write(40)
    assert old.is_fenced and not old.batch
    assert world.rejoin("a")
    followed(world, "a")
    assert world.held("a") == world.held("b")
    assert read_blocks(world, "a") == len({20, 21, 22, 30, 31})
    state = world.sites["a"].states.load(NAME)
    assert state is not None and state.rung is Rung.CHANGED


def test_a_site_that_hears_late_of_it_all_copies_no_more_than_the_blocks_of_both_sides() -> None:
    world = started()
    assert world.promote("b")
    world.sites["b"].run()
    assert world.sites["b"].site.secondaries[NAME].state is SiteState.DETACHED
    write(world.writers[1], 30)
    followed(world, "c")
    assert world.promote("c")
    write(world.writers[1], 31)
    write(world.writers[2], 32)
    assert world.rejoin("b")  # the site of b runs, and has read of nothing yet
    before = read_blocks(world, "b")
    followed(world, "b")
    assert world.held("b") == world.held("c")
    assert read_blocks(world, "b") - before == len({31, 32})


def test_a_site_that_had_applied_more_than_the_promoted_one_follows_it() -> None:
    world = started()
    write(world.writers[0], 20, 21)
    followed(world, "c")
    assert world.promote("b")
    write(world.writers[1], 30)
    before = read_blocks(world, "c")
    followed(world, "c")
    assert world.held("c") == world.held("b")
    assert read_blocks(world, "c") - before == len({20, 21, 30})


def test_a_promotion_during_a_cycle_needs_force_and_names_what_isn_t_proved() -> None:
    world = started()
    write(world.writers[0], 20, 21)
    world.fold_all()
    site = world.sites["b"]
    world.unreachable.add("a")
    site.run()
    state = site.states.load(NAME)
    assert state is not None and state.consistent_position is not None
    # The primary burns in the middle of a cycle: its begin was saved, and its end never is.
    site.states.save(replace(state, consistent_position=None, cycle_through=99, rung=Rung.CHANGED))
    site.start()
    claim = site.claim(world.described())
    assert claim.consistent_position is None and "cut off" in (claim.reason or "")
    assert claim.parted_position == state.applied_position
    assert not world.promote("b")
    assert world.described().primary_site == "a"


def test_of_two_promotions_at_once_one_wins_and_the_other_copy_follows_it() -> None:
    world = started()
    world.promote_two()
    winner = world.described().primary_site
    loser = {"b": "c", "c": "b"}[winner or ""]
    assert len(world.described().promotions) == 1
    write(world.writers[-1], 5)
    followed(world, loser)
    assert world.held(loser) == world.held(winner or "")


@pytest.mark.parametrize("rounds", range(3))
@pytest.mark.parametrize("steps", range(20))
def test_a_rejoin_that_is_cut_off_goes_on(rounds: int, steps: int) -> None:
    state = cut_off_rejoin(rounds, steps)
    assert state is not None and state.rung is Rung.CHANGED


def cut_off_rejoin(rounds: int, steps: int) -> SecondaryState | None:
    """Let the site of a former primary die in a round after so many steps, and then go on."""
    world = started()
    write(world.writers[0], 20, 21)
    assert world.promote("b")
    write(world.writers[1], 30, 31)
    assert world.rejoin("a")
    world.fold_all()
    site = world.sites["a"]
    for _ in range(rounds):
        site.run()
    site.run(crash_at=steps)
    world.check_claims()
    followed(world, "a")
    assert world.held("a") == world.held("b")
    return site.states.load(NAME)


def test_two_copies_never_go_on_under_one_generation() -> None:
    """DRBD before 9.3.4: after a reconnect two copies were up to date with different data."""
    world = started()
    old = world.writers[0]
    old.write(20)
    assert world.promote("b")
    write(world.writers[1], 20, 21)
    # The old host was cut off for a while. It publishes what it wrote, and knows nothing yet.
    old.publish()
    assert old.volume.generation != world.described().generation
    followed(world, "c")
    assert world.held("c") == world.held("b") != world.held("a")
    # The site of the former primary claims nothing of it: it is marked as a primary.
    world.sites["a"].start()
    world.sites["a"].run()
    assert world.sites["a"].site.secondaries[NAME].state is SiteState.DIVERGED
    assert not world.promote("a", force=True)
    assert world.rejoin("a")
    followed(world, "a")
    assert world.held("a") == world.held("b")


# Each bug must be found


def seeds_fail() -> bool:
    for seed in range(12):
        world = FailoverWorld(seed)
        try:
            for _ in range(250):
                world.act()
            world.finish()
        except AssertionError:
            return True
    return False


def test_a_promotion_without_a_fence_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(self: Writer) -> None:
        self.volume = self._world.described()  # it follows the generation, as after a renewal

    monkeypatch.setattr(Writer, "look", look)
    assert seeds_fail()


def test_a_node_that_records_both_promotions_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    world = started()
    generation = world.described().generation
    monkeypatch.setattr(volume_states, "_generation_before", lambda *_: generation)
    with pytest.raises(AssertionError, match="the other promotion was recorded"):
        world.promote_two()


def test_a_rejoin_that_is_cut_off_behind_its_state_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The site saves that the blocks of both sides are there before it copies them."""
    save = MemorySecondaryStates.save

    def save_results(self: MemorySecondaryStates, state: SecondaryState) -> None:
        through = state.cycle_through
        if through is not None:
            state = replace(state, applied_position=through, cycle_through=None)
        save(self, state)

    monkeypatch.setattr(MemorySecondaryStates, "save", save_results)
    with pytest.raises(AssertionError):
        for steps in range(20):
            cut_off_rejoin(1, steps)


def test_a_rejoin_with_the_blocks_of_one_side_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_side(volume: Volume, promotion: object, identity: object) -> SecondaryState | None:
        state = rejoining.rejoining_state(volume, promotion, identity)  # type: ignore[arg-type]
        position = promotion.position  # type: ignore[attr-defined]
        return state and replace(
            state, generation=volume.generation, applied_position=position, cycle_through=position
        )

    monkeypatch.setattr(failover, "rejoining_state", one_side)
    world = started()
    write(world.writers[0], 20, 21)
    assert world.promote("b")
    world.rejoin("a")
    with pytest.raises(AssertionError):
        followed(world, "a")
        assert world.held("a") == world.held("b")


def test_a_claim_of_what_lies_above_the_parting_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def claiming(saved: SecondaryState, volume: Volume, *, is_forked: bool) -> object:
        state = parting.continued_state(saved, volume, is_forked=is_forked)
        if state is None or state.cycle_through is None:
            return state
        return replace(state, cycle_through=None, suspect_after=state.applied_position)

    monkeypatch.setattr(cycle, "continued_state", claiming)
    assert seeds_fail()
