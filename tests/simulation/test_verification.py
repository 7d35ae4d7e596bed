"""Verifying while everything moves: no false alarm, and nothing that differs stays unseen."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from verifying import VerifyingWorld

from mirrorlog.codec.events import decode
from mirrorlog.consumers.verify.verification import Verification
from mirrorlog.consumers.verify.verification_log import VerificationLog
from mirrorlog.consumers.verify.verifier import VerificationAborted, Verifier
from mirrorlog.domain.commands import CommandKind, ForkOutcome, ForkOutcomes
from mirrorlog.domain.extents import Extent
from mirrorlog.domain.verifications import VerificationReport, VerificationState
from mirrorlog.errors import DeviceFailed
from mirrorlog.simulation.world.host import BLOCK_BYTES, BLOCKS
from mirrorlog.simulation.world.world import World

FLIPPED = 17


def run_under_load(seed: int, *, mirrored: bool = False) -> VerifyingWorld:
    """Verify a volume while hosts write, the node folds and crashes, and the site copies."""
    consistency = "crash" if seed % 3 == 1 else "eventual"
    world, random = World(seed, mirrored=mirrored, site_consistency=consistency), Random(seed)
    if seed % 3 == 2:
        world.use_snapshots()
    acts = [world.host.write, lambda: world.host.publish("v"), world.run_site]
    acts += [world.host.heartbeat, lambda: world.node.fold(5)]
    if world.mirror is not None:
        acts.append(world.mirror.run)
    for _ in range(40):
        world.act()
    verifying = VerifyingWorld(world, "v", ranges=random.choice((1, 5, 64)))

    def between() -> None:
        if random.random() < 0.3:
            random.choice(acts)()

    verifying.between = between
    for number in range(120):
        world.act() if number % 4 == 0 else random.choice(acts)()
        verifying.step(random)
    verifying.between = lambda: None
    world.finish()

    def catch_up() -> None:
        if world.mirror is not None:
            world.mirror_all()
            world.site.site.run_once(0)

    verifying.finish(catch_up)
    return verifying


@pytest.mark.parametrize("seed", [*range(12), 42])
def test_load_is_no_difference(seed: int) -> None:
    verifying = run_under_load(seed)
    assert verifying.different == set()
    report = verifying.verifier.report(VerificationState.FINISHED)
    assert report.is_equal, report


def write_forked(world: World, random: Random) -> None:
    """Let the host write a block to the secondary, too, or miss it there."""
    has = random.random() < 0.7
    secondaries = [world.site.secondary("v")] if has else []
    outcome = ForkOutcome.HAS if has else ForkOutcome.MISSED
    forks = (ForkOutcomes("a", bytes([outcome])),)
    world.host.publish("v")  # what it holds was written before
    world.host.write_forked("v", random.randrange(BLOCKS), secondaries, forks)


@pytest.mark.parametrize("seed", range(4))
def test_a_site_on_a_mirror_is_verified_from_the_source(seed: int) -> None:
    verifying = run_under_load(seed, mirrored=True)
    assert verifying.different == set()
    assert verifying.verifier.report(VerificationState.FINISHED).is_equal


@pytest.mark.parametrize("seed", range(4))
def test_forked_writes_are_no_difference(seed: int) -> None:
    """The world's own checks are left out: they know of no host that forks by its own rules."""
    world, random = World(seed), Random(seed)
    world.hold_primaries_still()
    world.settle()
    acts = [world.host.heartbeat, lambda: world.node.fold(5), lambda: world.site.site.run_once(0)]
    acts += [lambda: write_forked(world, random)] * 2
    verifying = VerifyingWorld(world, "v", ranges=random.choice((1, 5, 64)))

    def between() -> None:
        if random.random() < 0.3:
            random.choice(acts)()

    verifying.between = between
    for _ in range(150):
        random.choice(acts)()
        verifying.step(random)
    world.host.close()
    verifying.between = lambda: None

    def act() -> None:
        world.fold_and_commit()
        world.site.site.run_once(0)

    verifying.finish(act)
    assert verifying.different == set()
    assert verifying.verifier.report(VerificationState.FINISHED).is_equal


def test_a_comparison_that_does_not_look_at_the_log_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Verification, "_is_named", lambda self, changed, extent: False)
    assert run_under_load(0).different != set()


def test_a_proof_that_does_not_wait_for_open_batches_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(VerificationLog, "is_settled", lambda self, end_position: True)
    assert any(run_under_load(seed).different for seed in (1, 2, 3))


def settled_world(seed: int) -> World:
    """Return a world whose secondaries equal their primaries, with an open session."""
    world = World(seed)
    for _ in range(40):
        world.act()
    world.hold_primaries_still()
    while not (world.site.is_consistent() and world.site.secondary_equals_primary("v")):
        world.host.heartbeat()
        world.fold_and_commit()
        world.site.site.run_once(0)
    return world


@pytest.mark.parametrize("ranges", [1, 7, 48])
def test_a_flipped_block_is_found_under_load_and_repaired_by_a_cycle(ranges: int) -> None:
    world = settled_world(ranges)
    verifying = VerifyingWorld(world, "v", ranges=ranges)
    verifying.flip(FLIPPED)

    def act() -> None:
        world.host.write_block("v", 3)
        world.host.publish("v")
        world.host.heartbeat()
        world.fold_and_commit()
        world.site.site.run_once(0)

    verifying.finish(act)
    assert verifying.different == {FLIPPED}
    finished = verifying.verifier.report(VerificationState.FINISHED)
    assert (finished.is_equal, finished.result) == (False, "1 block differs")

    extent = Extent(FLIPPED * BLOCK_BYTES, BLOCK_BYTES)
    position = world.host.send("v", CommandKind.MARK_DIRTY, [extent])
    verifying.verifier.verification.recheck(position, verifying.clock.monotonic_s())
    verifying.finish(act)
    report = verifying.verifier.report(VerificationState.FINISHED)
    assert report.result == "1 block differs, 1 repaired"
    again = VerifyingWorld(world, "v", ranges=ranges)
    again.finish(act)
    assert again.verifier.report(VerificationState.FINISHED).result == "equal"


def test_a_block_that_a_host_rewrites_without_an_end_is_skipped_and_nothing_is_claimed() -> None:
    world = settled_world(5)
    verifying = VerifyingWorld(world, "v", patience_s=60)

    def act() -> None:
        world.host.write_block("v", 3)
        world.host.publish("v")
        world.host.heartbeat()
        world.fold_and_commit()

    verifying.finish(act)
    report = verifying.verifier.report(VerificationState.FINISHED)
    assert (report.is_equal, report.different_blocks) == (False, 0)
    assert report.skipped == ((3 * BLOCK_BYTES, BLOCK_BYTES),)
    assert report.confirmed_bytes == report.size_bytes - BLOCK_BYTES
    assert report.reason == "it changed during each attempt"


def test_a_run_that_was_cut_short_says_so_and_the_next_one_goes_on() -> None:
    cut_short_and_go_on()


def test_a_run_that_was_cut_short_and_calls_itself_finished_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = Verifier.report

    def finished(
        self: Verifier, state: VerificationState, reason: str | None = None
    ) -> VerificationReport:
        del state
        return report(self, VerificationState.FINISHED, reason)

    monkeypatch.setattr(Verifier, "report", finished)
    with pytest.raises(AssertionError):
        cut_short_and_go_on()


def cut_short_and_go_on() -> None:
    """End a run in its middle, and check what it says, and what the next one finds."""
    world = settled_world(6)
    first = VerifyingWorld(world, "v", ranges=2)
    first.flip(1)
    first.flip(FLIPPED)

    def act() -> None:
        world.host.heartbeat()
        world.fold_and_commit()

    while not first.different:
        first.server.serve(0)
        act()
        first.verifier.step(0)
    cut = first.verifier.publish(VerificationState.ABORTED, "a test ends it")
    first.publisher.flush(1)
    assert cut.result.startswith("cut short, ")
    assert 0 < cut.confirmed_bytes < cut.size_bytes

    topic = world.settings.topics.verifications
    saved = decode(world.broker.messages(topic)[-1].value or b"", VerificationReport)
    assert saved == cut
    second = VerifyingWorld(world, "v", ranges=2, earlier=saved)
    second.finish(act)
    report = second.verifier.report(VerificationState.FINISHED)
    assert (report.verification, report.runs) == (cut.verification, 2)
    assert second.different == {1, FLIPPED}
    assert report.confirmed_bytes == report.size_bytes - 2 * BLOCK_BYTES


def test_a_side_that_is_silent_ends_the_run_with_its_name() -> None:
    world = settled_world(7)
    verifying = VerifyingWorld(world, "v", patience_s=30)
    with pytest.raises(VerificationAborted, match="the site a has sent no digest of the primary"):
        for _ in range(3000):
            verifying.verifier.step(0)


def test_a_side_that_cannot_be_read_ends_the_run_with_its_reason() -> None:
    world = settled_world(8)
    verifying = VerifyingWorld(world, "v", patience_s=30)

    def fail() -> None:
        raise DeviceFailed("sector gone", where="memory, offset 0")

    verifying.between = fail
    with pytest.raises(VerificationAborted, match="sector gone"):
        verifying.finish()


def test_a_new_generation_ends_the_run() -> None:
    world = settled_world(9)
    verifying = VerifyingWorld(world, "v")
    renewed = replace(world.described("v"), generation="22222222-2222-4222-8222-222222222222")
    world.publish_volume(renewed)
    verifying.verifier._options = replace(verifying.verifier._options, volume=renewed)
    with pytest.raises(VerificationAborted, match="the volume's history ended"):
        verifying.finish()


def test_a_volume_that_was_promoted_is_verified_with_the_log_that_goes_on() -> None:
    world = settled_world(10)
    before, saved = world.described("v"), world.site.states.load("v")
    assert saved is not None
    generation = "22222222-2222-4222-8222-222222222222"
    promoted = replace(before, generation=generation, log_generation=before.generation)
    world.site.states.save(replace(saved, generation=generation))
    verifying = VerifyingWorld(world, "v")
    verifying.verifier._options = replace(verifying.verifier._options, volume=promoted)
    verifying.finish()
    assert verifying.verifier.report(VerificationState.FINISHED).is_equal
