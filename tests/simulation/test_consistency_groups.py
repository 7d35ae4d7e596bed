"""Two volumes of one group in the whole world: their secondaries move together, or not at all.

The group's common point is checked by what its secondaries hold: the versions of blocks count the
writes to all volumes, so a later write that is there without an earlier one shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from group_worlds import (
    MEMBERS,
    group_world,
    ready_world,
    run_rounds,
    run_to_point,
    saved_point,
    write_both,
)

from mirrorlog.consumers import journal_recovery
from mirrorlog.consumers.journal.group_commit import is_committed
from mirrorlog.consumers.journal.journal_format import read_journal
from mirrorlog.consumers.journal.redo import refuse_redo
from mirrorlog.consumers.resync import left_journals
from mirrorlog.consumers.resync.group_journals import GroupJournals
from mirrorlog.consumers.resync.secondaries import TakenSnapshot
from mirrorlog.consumers.state.secondary_state import CommonPoint, SecondaryState
from mirrorlog.consumers.state.state_files import decode_state
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.simulation.memory_secondaries import MemorySecondaries
from mirrorlog.simulation.world.crashes import Crash
from mirrorlog.simulation.world.world import World


def openable_state(world: World, name: str) -> SecondaryState | None:
    """Return the state of a secondary after the next start of the site, without anything else."""
    saved = world.site.states.load(name)
    file = world.site.journals.open(name)
    journal = None if file is None else read_journal(file.pread)
    if journal is None or not is_committed(journal, world.site.journals):
        return saved
    if refuse_redo(journal, saved) is not None:
        return saved
    return decode_state(journal.state, name, "the journal")


def point_of(world: World) -> str | None:
    """Return the id of the common point at which the site would start, and check that it is one."""
    points = dict[str, CommonPoint]()
    for name in MEMBERS:
        state = openable_state(world, name)
        if state is None or state.common_point_id is None or state.common_point is None:
            return None
        points[name] = state.common_point
    if len({point.id for point in points.values()}) != 1:
        return None
    positions = {name: point.position for name, point in points.items()}
    assert world.host.were_at_once(positions), positions
    return points["u"].id


@pytest.mark.parametrize("has_snapshots", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_a_common_point_is_one_moment(seed: int, has_snapshots: bool) -> None:
    assert run(seed, has_snapshots=has_snapshots) > (2 if has_snapshots else 1)


def run_either(seed: int) -> int:
    """Run a world in which the group reads snapshots if the seed is even."""
    return run(seed, has_snapshots=seed % 2 == 0)


def run(seed: int, *, has_snapshots: bool) -> int:
    """Run a world of a group, and check its claims. Return how many common points there were."""
    world = group_world(seed, has_snapshots=has_snapshots)
    points = set[str | None]()
    for _ in range(300):
        world.act()
        points.add(point_of(world))
    world.finish()
    for _ in range(50):
        world.run_round()
        points.add(point_of(world))
    world.check_end()
    assert point_of(world) is not None
    return len(points)


def kill_at_each_step(*, is_alone: bool = False, has_snapshots: bool = True) -> Counter[str]:
    """Kill the site before each step of a cycle of the group, and let it go on."""
    reached = Counter[str]()
    for step in range(400):
        world = ready_world(has_snapshots=has_snapshots)
        before = point_of(world)
        world.site.fuse.light_at(step)
        try:
            run_to_point(world)
        except Crash:
            world.site.lose_power()
        else:
            world.site.fuse.put_out()
            world.check_end()
            break
        point = point_of(world)
        assert point is not None, "the members are at different points"
        reached["before" if point == before else "after"] += 1
        if is_alone:
            world.site.recover_journals()
            saved = [world.site.states.load(name) for name in MEMBERS]
            assert {state.common_point_id for state in saved if state is not None} == {point}
            world.site.check_consistency()
        world.site.start()
        run_to_point(world)
        world.check_end()
    assert step < 399
    return reached


@pytest.mark.parametrize(("is_alone", "has_snapshots"), [(False, True), (True, False)])
def test_killed_at_each_step_the_members_are_at_one_common_point(
    is_alone: bool, has_snapshots: bool
) -> None:
    reached = kill_at_each_step(is_alone=is_alone, has_snapshots=has_snapshots)
    assert min(reached["before"], reached["after"]) > 5


def test_a_journal_that_counts_without_the_commit_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (left_journals, journal_recovery):
        monkeypatch.setattr(module, "is_committed", lambda *_: True)
    monkeypatch.setitem(globals(), "is_committed", lambda *_: True)
    with pytest.raises(AssertionError, match="different points"):
        kill_at_each_step()


def test_killed_after_a_commit_that_failed_late_no_member_moves_alone() -> None:
    world = ready_world()
    before, clears = point_of(world), Counter[str]()

    def hook(operation: str, volume: str) -> None:
        if operation == "commit sync":
            raise DeviceFailed("the folder can't be synced", where="memory, offset 0")
        if operation == "clear":
            clears[volume] += 1
            if len(clears) == 2:
                raise Crash

    world.site.journals.hook = hook
    with pytest.raises(Crash):
        run_rounds(world, 40)
    world.site.journals.hook = None
    assert point_of(world) == before
    world.site.recover_journals()
    assert point_of(world) == before


def test_snapshots_that_are_taken_one_after_the_other_are_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = ready_world()

    def one_by_one(self: MemorySecondaries, volumes: Sequence[Volume]) -> dict[str, TakenSnapshot]:
        taken = {}
        for volume in volumes:
            taken[volume.volume] = self.take_snapshot(volume)
            write_both(world)
        return taken

    monkeypatch.setattr(MemorySecondaries, "take_snapshots", one_by_one)
    with pytest.raises(AssertionError):
        run_to_point(world)


def test_a_member_that_cant_be_copied_keeps_the_group_at_its_point() -> None:
    world = ready_world()
    before = point_of(world)
    world.site.secondaries.missing.add("u")
    run_rounds(world, 40)
    assert point_of(world) == before
    secondary = world.site.site.secondaries["v"]
    assert secondary.state is SiteState.CONSISTENT
    report = world.site.site.progress(secondary)
    assert report.behind_blocks == 3
    assert "group db stays at its common point: the secondary of u" in (report.reason or "")
    assert world.site.secondary_equals_primary("w")
    world.site.secondaries.missing.clear()
    run_to_point(world)
    assert point_of(world) not in (None, before)


def test_a_group_without_journals_is_copied_one_by_one_and_says_so() -> None:
    world = group_world(3, site_consistency="eventual")
    world.hold_primaries_still()
    write_both(world)
    run_rounds(world, 10)
    for name in MEMBERS:
        assert world.site.secondary_equals_primary(name)
        report = world.site.site.progress(world.site.site.secondaries[name])
        assert "has no common point: the site runs without --consistency crash" in (
            report.reason or ""
        )
    assert point_of(world) is None


def test_a_member_that_isnt_copied_here_leaves_the_others_to_themselves() -> None:
    world = group_world(3, site_volumes=("v", "w"))
    world.hold_primaries_still()
    write_both(world)
    run_rounds(world, 10)
    assert world.site.secondary_equals_primary("v")
    report = world.site.site.progress(world.site.site.secondaries["v"])
    assert "volume u isn't copied by this process" in (report.reason or "")


def reported_points(world: World) -> set[str | None]:
    """Return the common points that the site's last reports on the members name."""
    reports = {
        reported.progress.volume: reported.progress for reported in world.site.site.reported()
    }
    return {reports[name].common_point_id for name in MEMBERS}


def test_the_reports_of_the_members_name_their_common_point() -> None:
    world = ready_world(site_report_s=1e6)  # so nothing is reported just because it is time
    before_us = world.site.clock.now_us()
    run_to_point(world)
    assert reported_points(world) == {point_of(world)}
    for reported in world.site.site.reported():
        report = reported.progress
        if report.volume not in MEMBERS:
            assert (report.group, report.common_point_id) == (None, None)
            continue
        state = world.site.states.load(report.volume)
        assert state is not None and state.common_point is not None
        assert (report.group, report.group_reason) == ("db", None)
        assert report.common_point_position == state.common_point.position
        assert report.common_point_at_us == state.common_point.at_us
        assert before_us <= (report.common_point_at_us or 0) <= world.site.clock.now_us()


def test_a_report_says_why_the_group_reaches_no_new_point_although_nothing_is_written() -> None:
    world = ready_world()
    run_to_point(world)
    run_rounds(world, 5)
    world.site.secondaries.missing.add("u")
    run_rounds(world, 100)
    reports = {
        reported.progress.volume: reported.progress for reported in world.site.site.reported()
    }
    assert "the secondary of u can't be used now" in (reports["v"].group_reason or "")
    assert reports["v"].common_point_id == point_of(world)
    (figures,) = world.site.site.group_figures()
    assert not figures.is_at_point
    world.site.secondaries.missing.clear()
    run_to_point(world)
    run_rounds(world, 5)
    (figures,) = world.site.site.group_figures()
    assert figures.is_at_point and figures.common_point_at_us is not None
    assert figures.common_points > 0


@pytest.mark.parametrize("failures", [1, 2])
def test_snapshots_that_fail_once_or_twice_are_asked_for_again_within_seconds(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = ready_world()
    world.site.clock.look_s = 0.01
    before, failed_at_s, take = point_of(world), list[float](), MemorySecondaries.take_snapshots

    def fail(self: MemorySecondaries, volumes: Sequence[Volume]) -> dict[str, TakenSnapshot]:
        if len(failed_at_s) < failures:
            failed_at_s.append(world.site.clock.now_s)
            raise DeviceFailed("the host is slow", where="memory, offset 0")
        return take(self, volumes)

    monkeypatch.setattr(MemorySecondaries, "take_snapshots", fail)
    for _ in range(1000):
        write_both(world)  # so it is never quiet
        run_rounds(world, 1)
        if point_of(world) != before:
            break
    assert world.site.clock.now_s - failed_at_s[0] < 5 * 2**failures  # by the site's own clock


@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 6, 8])
def test_a_group_whose_hosts_ended_reaches_its_point_within_seconds(rounds: int) -> None:
    """What is written while the group is read ends its cycle. No command follows."""
    world = group_world(3, has_snapshots=False)
    world.hold_primaries_still()
    world.site.clock.look_s = 0.01
    run_rounds(world, rounds)
    write_both(world)
    world.host.close()
    world.fold_and_commit()
    closed_s = world.site.clock.now_s
    while saved_point(world) is None or not all(
        world.site.secondary_equals_primary(name) for name in MEMBERS
    ):
        world.site.site.run_once(0)
        assert world.site.clock.now_s < closed_s + 15, world.site.site.secondaries["u"].status


def test_a_busy_group_without_snapshots_is_staged_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = ready_world(has_snapshots=False)
    run_to_point(world)
    staged_at_s, stage = list[float](), GroupJournals.stage

    def noted(self: GroupJournals, *arguments: object) -> object:
        staged_at_s.append(world.site.clock.now_s)
        return stage(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(GroupJournals, "stage", noted)
    world.site.clock.look_s = 0.02
    began_s = world.site.clock.now_s
    while world.site.clock.now_s < began_s + 60:
        write_both(world)
        run_rounds(world, 1)
    assert 2 < len(staged_at_s) < 10
    while saved_point(world) is None:
        run_rounds(world, 1)
