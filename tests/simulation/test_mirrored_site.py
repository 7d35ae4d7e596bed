"""A site whose cluster holds a mirror of the log: it never claims more than is true.

The mirror lags, repeats rows after a restart, drifts in its positions, and is cut in both ways. Its
topics are compacted, as those of the source are, at any time.
"""

from __future__ import annotations

import pytest

from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.reading.mirrored_rows import MirroredRows
from mirrorlog.simulation.world.world import VOLUMES, World


def states(world: World) -> dict[str, SiteState]:
    return {name: secondary.state for name, secondary in world.site.site.secondaries.items()}


def run(world: World, rounds: int) -> None:
    for _ in range(rounds):
        world.run_round()
        world.site.check_consistency()


@pytest.mark.parametrize("seed", range(5))
def test_a_mirror_between_node_and_site_changes_nothing(seed: int) -> None:
    world = World(seed, losses=0.1 * (seed % 3), markers=seed % 2, mirrored=True)
    for _ in range(300):
        world.act()
    world.finish()
    world.check_end()


@pytest.mark.parametrize("seed", range(3))
def test_histories_end_behind_a_mirror(seed: int) -> None:
    world = World(seed, mirrored=True)
    for _ in range(250):
        world.act_with_history_faults()
    world.finish_after_history_faults()


@pytest.mark.parametrize("seed", range(2))
def test_a_mirror_that_passes_rows_over_costs_copies_and_no_truth(seed: int) -> None:
    world = World(seed, mirrored=True)
    assert world.mirror is not None
    for step in range(250):
        world.act()
        if step % 60 == 59:
            world.mirror.skip()
    world.finish()
    for name in VOLUMES:
        assert world.site.secondary_equals_primary(name), name


def test_a_mirror_that_begins_late_is_a_gap_that_is_told() -> None:
    follow_a_mirror_that_begins_late()


def test_a_site_that_takes_any_mirror_for_the_whole_log_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MirroredRows, "_mismatch", lambda *_: None)
    with pytest.raises(AssertionError):
        follow_a_mirror_that_begins_late()


def follow_a_mirror_that_begins_late() -> None:
    """Two volumes are not written to afterwards: nothing in the mirror names their blocks."""
    world = World(5, mirrored=True)
    assert world.mirror is not None
    world.hold_primaries_still()
    for name in VOLUMES:
        world.host.write_block(name, 3)
    world.host.heartbeat()
    world.fold_and_commit()
    world.mirror.skip()
    for _ in range(60):
        world.host.write_block("w", 4)
        world.host.heartbeat()
        world.fold_and_commit()
        run(world, 1)
        world.site.check_reports()
    world.host.close()
    world.fold_and_commit()
    run(world, 30)
    assert set(states(world).values()) == {SiteState.CONSISTENT}
    for name, secondary in world.site.site.secondaries.items():
        assert world.site.secondary_equals_primary(name), name
        if name != "w":  # its later cycles took what the log names
            assert secondary.saved is not None and secondary.saved.rung is not Rung.CHANGED


def test_without_an_answer_nothing_new_is_claimed_and_the_reason_is_said() -> None:
    world = World(5, mirrored=True)
    assert world.mirror is not None
    world.hold_primaries_still()
    world.settle()
    world.mirror.cut_back()
    world.host.write_block("v", 3)
    world.host.heartbeat()
    for _ in range(80):
        world.host.heartbeat()
        world.fold_and_commit()
        world.mirror.run()
        world.site.site.run_once(0)
        world.site.check_reports()
    reports = [
        world.site.site.progress(secondary) for secondary in world.site.site.secondaries.values()
    ]
    assert {report.behind_blocks for report in reports} == {None}
    assert all("stands still" in (report.reason or "") for report in reports), reports
    world.host.close()
    world.fold_and_commit()
    run(world, 30)
    assert set(states(world).values()) == {SiteState.CONSISTENT}
    assert world.site.secondary_equals_primary("v")


def test_an_answer_to_a_question_from_before_the_reads_proves_nothing() -> None:
    world = World(5, mirrored=True)
    assert world.mirror is not None
    world.hold_primaries_still()
    world.site.reader.batch_sizes = (1000,)
    world.settle()
    run(world, 10)
    world.host.write_block("v", 1)
    world.host.heartbeat()
    world.fold_and_commit()
    secondary, primary = world.site.site.secondaries["v"], world.host.primaries["v"]

    def go_on(operation: str, *_: int) -> None:
        """When the site reads, the node answers what was asked before, and the host goes on."""
        if operation != "pread":
            return
        primary.hook = None
        world.mirror_all()
        world.host.publish("u")  # at or above the end in that answer
        world.host.heartbeat()
        world.fold_and_commit()
        world.host.write_block("v", 1)  # it isn't published

    for _ in range(20):
        world.mirror_all()
        primary.hook = go_on
        world.site.site.run_once(0)
        if secondary.state is not SiteState.CONSISTENT:
            break
    primary.hook = None
    assert secondary.state is SiteState.SETTLING
    run(world, 20)
    assert secondary.state is SiteState.SETTLING
    world.host.heartbeat()
    world.host.heartbeat()
    world.fold_and_commit()
    run(world, 20)
    world.host.close()
    world.fold_and_commit()
    run(world, 20)
    assert secondary.state is SiteState.CONSISTENT
    assert world.site.secondary_equals_primary("v")
