"""All members of a group are promoted at once: at one moment, at one site, or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest
from group_worlds import MEMBERS, ready_world, run_rounds, run_to_point, write_both

from mirrorlog.codec.events import encode
from mirrorlog.consumers.failover.claims import SecondaryClaim
from mirrorlog.consumers.failover.group_promotion import (
    GroupPromotion,
    PlannedPromotion,
    PromotionCutOff,
    promote_all,
)
from mirrorlog.consumers.state.pauses import Pauses
from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.promotions import PromotionCommand
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput
from mirrorlog.simulation.world.crashes import Crash, Fuse
from mirrorlog.simulation.world.failover import FailoverWorld
from mirrorlog.simulation.world.world import World

SITE = "a"
DRAWN = "00000000-0000-4000-8000-0000000000{:02}"


class WorldPromotions:
    """Promotes members of a world's group at its site. Each step may be the last one.

    marked: the members that are marked as primaries.
    """

    def __init__(self, world: World) -> None:
        self.world, self.fuse, self.marked = world, Fuse(), set[str]()

    def plan(self) -> GroupPromotion:
        """Let the site keep off the members, and plan what their states are worth."""
        self.world.site.look_at_pauses = lambda: Pauses(volumes=frozenset(MEMBERS))
        self.world.site.site.run_once(0)
        self.fuse.step("hold", "")
        return GroupPromotion(SITE, tuple(map(self._planned, MEMBERS)))

    def _planned(self, name: str) -> PlannedPromotion:
        volume, saved = self.world.described(name), self.world.site.states.load(name)
        assert saved is not None
        position = saved.consistent_position
        claim = SecondaryClaim(consistent_position=position, parted_position=position, reason=None)
        is_promoted = volume.primary_site == SITE
        return PlannedPromotion(
            volume=volume,
            point_id=saved.common_point_id,
            claim=None if is_promoted else claim,
            is_finished=is_promoted and name in self.marked,
        )

    def publish(self, member: PlannedPromotion) -> Volume:
        self.fuse.step("publish", member.volume.volume)
        assert member.claim is not None
        number = len(self.world.broker.messages(self.world.settings.topics.commands)) % 90
        command = PromotionCommand(
            volume=member.volume.volume,
            generation=member.volume.generation,
            host="operator",
            session=DRAWN.format(number),
            sequence=-1,
            kind=CommandKind.PROMOTE,
            extents=ExtentColumns.of([]),
            first_at_us=1,
            last_at_us=1,
            new_generation=DRAWN.format(number),
            site=SITE,
            primary=f"memory://{member.volume.volume}",
            primary_id=DRAWN.format(number),
            parted_position=member.claim.parted_position,
        )
        self.world.broker.append(
            self.world.settings.topics.commands, 0, member.volume.volume.encode(), encode(command)
        )
        self.fuse.step("published", member.volume.volume)
        self.world.fold_and_commit()
        return self.world.described(member.volume.volume)

    def finish(self, member: PlannedPromotion, volume: Volume) -> None:
        self.fuse.step("finish", volume.volume)
        assert volume.primary_site == SITE
        self.marked.add(volume.volume)
        self.world.site.secondaries.restore_mark(volume.volume, None)

    def run(self) -> None:
        """Run `promote --group` once: it ends without a change if the members aren't at once."""
        plan = self.plan()
        if plan.refusals():
            raise BadInput("the group isn't at a common point")
        promote_all(plan, self)


def check_promoted(run: WorldPromotions) -> None:
    """Check that both members are primaries, and hold what the primaries held at one moment."""
    world, positions = run.world, dict[str, int]()
    for name in MEMBERS:
        volume, saved = world.described(name), world.site.states.load(name)
        assert volume.primary_site == SITE and name in run.marked
        assert len(volume.promotions) == 1, "a member was promoted twice"
        assert saved is not None and saved.consistent_position is not None
        positions[name] = saved.consistent_position
    assert world.host.were_at_once(positions), positions


def die_at_each_step() -> Counter[str]:
    """Kill the promotion before each of its steps, let all others go on, and repeat it."""
    promoted_before = Counter[str]()
    for step in range(40):
        run = WorldPromotions(ready_world())
        run_to_point(run.world)
        write_both(run.world)
        run.fuse.light_at(step)
        try:
            run.run()
        except Crash:
            run.world.fold_and_commit()
            done = [name for name in MEMBERS if run.world.described(name).primary_site == SITE]
            promoted_before[str(len(done))] += 1
            run.world.site.start()
            write_both(run.world)
            run_rounds(run.world, 3)
            run.run()
            check_promoted(run)
        else:
            check_promoted(run)
            return promoted_before
    raise AssertionError("it never ended")


def test_a_promotion_that_dies_anywhere_is_finished_at_the_same_moment_by_the_next_run() -> None:
    seen = die_at_each_step()
    assert min(seen["0"], seen["1"], seen["2"]) > 0


def test_a_group_at_two_moments_isnt_promoted() -> None:
    run = WorldPromotions(ready_world())
    hold_at_two_moments(run)
    with pytest.raises(BadInput, match="common point"):
        run.run()
    assert all(run.world.described(name).promotions == () for name in MEMBERS)


def hold_at_two_moments(run: WorldPromotions) -> None:
    """Let the state of one member be that of an earlier point than the other's."""
    run_to_point(run.world)
    states = run.world.site.states
    before = states.load("u")
    write_both(run.world)
    run_to_point(run.world)
    assert before is not None
    states.save(before)


def test_a_plan_that_doesnt_look_at_the_points_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(GroupPromotion, "doubt", lambda _: None)
    run = WorldPromotions(ready_world())
    hold_at_two_moments(run)
    run.run()
    with pytest.raises(AssertionError):
        check_promoted(run)


# Two sites


@dataclass
class RivalPromotions:
    """Promotes the volumes of several worlds, which are a group, at one site.

    before: is called before each publication, with its number.
    """

    worlds: dict[str, FailoverWorld]
    site: str
    before: Callable[[int], None] = lambda _: None
    sent: dict[str, PromotionCommand] = field(default_factory=dict)

    def plan(self) -> GroupPromotion:
        members = []
        for name, world in self.worlds.items():
            volume = replace(world.described(), volume=name)
            claim = world.sites[self.site].claim(world.described())
            is_promoted = volume.primary_site == self.site
            members.append(
                PlannedPromotion(volume=volume, point_id="p", claim=None if is_promoted else claim)
            )
        return GroupPromotion(self.site, tuple(members))

    def publish(self, member: PlannedPromotion) -> Volume:
        self.before(len(self.sent))
        name, world = member.volume.volume, self.worlds[member.volume.volume]
        planned = replace(member.volume, volume="v")
        command = world._send_promotion(self.site, planned, force=True)
        assert command is not None
        world.fold_all()
        self.sent[name] = command
        if world.described().generation != command.new_generation:
            world._finish(self.site, command)
            raise BadInput("another one came first")
        return replace(world.described(), volume=name)

    def finish(self, member: PlannedPromotion, volume: Volume) -> None:
        name = volume.volume
        if name in self.sent:
            self.worlds[name]._finish(self.site, self.sent[name])


def started(seed: int) -> FailoverWorld:
    """Return a world in which b and c follow a."""
    world = FailoverWorld(seed)
    for block in range(5):
        world.writers[0].write(block)
    for _ in range(12):
        world.publish()
        world.fold_all()
        for copy in ("b", "c"):
            world.sites[copy].run()
    return world


def rivals_race(at: int, dies_after: int, *, other_order: bool = False) -> None:
    """Promote a group at b. Before its promotion number `at`, c promotes it; it may be cut off."""
    worlds = {f"v{number}": started(number) for number in range(3)}
    rival = RivalPromotions(worlds, "c")
    planned = rival.plan()
    if other_order:
        planned = replace(planned, members=planned.members[::-1])

    def die(number: int) -> None:
        if number >= dies_after:
            raise Crash

    def race(number: int) -> None:
        if number == at:
            rival.before = die
            with suppress(Crash, BadInput, PromotionCutOff):
                promote_all(planned, rival)

    mine = RivalPromotions(worlds, "b", race)
    try:
        promote_all(mine.plan(), mine)
    except BadInput:
        rival.before = lambda _: None  # the run that was cut off is repeated
        promote_all(rival.plan(), rival)
    sites = {name: world.described().primary_site for name, world in worlds.items()}
    assert len(set(sites.values())) == 1, f"the group is split: {sites}"
    for world in worlds.values():
        assert len(world.described().promotions) == 1
        world.finish()


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("dies_after", range(4))
def test_of_two_promotions_of_a_group_at_once_one_wins_it_all(at: int, dies_after: int) -> None:
    rivals_race(at, dies_after)


def test_promotions_in_another_order_are_found_out() -> None:
    with pytest.raises((AssertionError, PromotionCutOff)):
        for at in range(3):
            rivals_race(at, 3, other_order=True)
