"""Secondaries, primaries and state folders that aren't what they were: no claim is untrue.

mirrorlog.simulation.world.site_faults has the faults.
"""

from __future__ import annotations

from collections import Counter

import pytest

from mirrorlog.consumers.resync import meetings
from mirrorlog.consumers.resync.meeting import Meeting, MeetingStep, meet
from mirrorlog.domain.commands import ForkOutcome, ForkOutcomes
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.simulation.world.host import BLOCK_BYTES, content
from mirrorlog.simulation.world.world import World

KINDS = 9


def run(seed: int) -> World:
    world = World(seed)
    for _ in range(300):
        world.act_with_faults()
    world.finish_after_faults()
    return world


@pytest.mark.parametrize("seed", [*range(20), 20000, 400127])
def test_whatever_becomes_of_its_files_a_site_claims_nothing_untrue(seed: int) -> None:
    run(seed)


def test_the_faults_happen() -> None:
    counts: Counter[str] = Counter()
    for seed in range(104, 111):
        counts.update(run(seed).faults.happened)
    assert len(counts) == KINDS, counts


def test_a_site_that_takes_what_it_finds_for_the_same_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the meeting's verdict the simulation fails: it would notice."""

    def trusting(*arguments: object, **more: object) -> Meeting:
        meeting = meet(*arguments, **more)  # type: ignore[arg-type]
        saved, present = arguments[2], arguments[3]
        is_known = getattr(saved, "identity", None) is not None and present.mark is not None  # type: ignore[attr-defined]
        if meeting.step is MeetingStep.START_OVER and is_known:
            return Meeting(MeetingStep.SAME)
        return meeting

    monkeypatch.setattr(meetings, "meet", trusting)
    with pytest.raises(AssertionError):
        for seed in range(40):
            run(seed)


@pytest.mark.parametrize("is_published", [True, False])
def test_a_forked_write_explains_a_sample_only_if_its_host_names_it(is_published: bool) -> None:
    """A site that starts finds newer data than it wrote: by a fork, or by somebody else."""
    world = World(11)
    world.hold_primaries_still()
    world.settle()
    forks = (ForkOutcomes("a", bytes([ForkOutcome.MISSED])),)
    for block in (1, 2):
        world.host.write_forked("v", block, [], forks)

    def follow(rounds: int) -> None:
        for _ in range(rounds):
            world.host.heartbeat()
            world.fold_and_commit()
            world.site.site.run_once(0)
            world.site.check_claims()

    follow(6)
    world.settle()
    device = world.site.secondary("v")
    device.pwrite(BLOCK_BYTES, content(999))
    device.flush()
    world.site.crash()
    world.site.site.run_once(0)
    assert world.site.site.secondaries["v"].state is not SiteState.CONSISTENT
    if is_published:
        has = (ForkOutcomes("a", bytes([ForkOutcome.HAS])),)
        world.host.write_forked("v", 1, [world.site.secondary("v")], has)
    follow(6)
    world.settle()
    saved = world.site.site.secondaries["v"].saved
    assert saved is not None
    assert (saved.rung is Rung.CHANGED) is is_published
    assert world.site.secondary_equals_primary("v")


def test_a_secondary_that_waits_for_its_proof_is_looked_at_as_often_as_an_idle_one() -> None:
    """It isn't met for each new watermark."""
    world = World(1)
    world.hold_primaries_still()
    world.fold_and_commit()
    world.settle()
    world.host.write_block("v", 3)
    world.host.publish("v")
    world.fold_and_commit()
    site, clock = world.site.site, world.site.clock
    clock.look_s = 0.0
    for _ in range(20):
        site.run_once(0)
    secondary = site.secondaries["v"]
    assert secondary.state is SiteState.SETTLING
    world.site.secondaries.missing.add("v")
    world.host.publish("w")
    world.fold_and_commit()
    for _ in range(20):
        site.run_once(0)
    assert secondary.state is SiteState.SETTLING
    clock.now_s += 31.0
    site.run_once(0)
    assert secondary.state is SiteState.STOPPED
