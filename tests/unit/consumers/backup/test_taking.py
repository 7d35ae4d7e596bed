"""A point is taken in steps; whatever fails or is killed, the points that were there stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from backup_taking import FAILURES, Killed, TakingWorld
from deadlines import wait_until

from mirrorlog.consumers.backup.repository.object_names import image_name
from mirrorlog.consumers.backup.sources.hooks import HookFailed, Hooks
from mirrorlog.consumers.backup.sources.live_reads import SourceChanged
from mirrorlog.consumers.backup.sources.source_point import ChangesUnknown
from mirrorlog.consumers.backup.taking.attempts import Attempt, AttemptEnd, next_attempt
from mirrorlog.consumers.backup.taking.image_writers import Qcow2Writer
from mirrorlog.consumers.backup.taking.taking import PointRefused
from mirrorlog.domain.site_progress import Rung
from mirrorlog.errors import BadUse, KafkaFailed, MirrorlogError, OutOfRetention


@pytest.fixture
def world() -> TakingWorld:
    world = TakingWorld()
    world.write_some()
    return world


def _several(world: TakingWorld, count: int) -> list[str]:
    names = []
    for _ in range(count):
        names.append(world.take().manifest.point)
        world.write_some()
    return names


def _first_reads(events: list[str]) -> list[str]:
    """Return the events without repetitions of reads."""
    return [event for number, event in enumerate(events) if event not in events[:number]]


def test_the_steps_come_in_their_order(world: TakingWorld) -> None:
    taken = world.take().manifest
    assert _first_reads(world.events) == [
        "create lock",
        "registered",
        "describe",
        "open",
        "begin",
        "read",
        "upload qcow2",
        "create json",
        "finished",
    ]
    report = world.registered()
    assert report is not None
    assert (report.point, report.position) == (taken.point, taken.position.position)
    assert (taken.rung, taken.rung_reason, taken.image.base) == (Rung.ALLOCATED, None, None)
    world.check()


def test_each_point_stands_on_the_last_one_and_holds_what_changed(world: TakingWorld) -> None:
    names = _several(world, 5)
    world.check()
    records = world.repository.catalog("v").records
    assert [records[name].image.base for name in names] == [None, *names[:-1]]
    assert all(records[name].image.data_bytes <= 4 * 4096 for name in names[1:])
    assert world.said == []


def test_the_base_is_the_point_of_the_highest_position_and_not_of_the_last_name(
    world: TakingWorld,
) -> None:
    _several(world, 2)
    latest = world.take().manifest.point
    world.clock.now_s -= 1000  # another machine's clock
    world.write_some()
    behind = world.take().manifest.point
    assert behind < latest
    world.write_some()
    assert world.take().manifest.image.base == behind
    world.check()


def test_points_of_an_ended_generation_come_last(world: TakingWorld) -> None:
    world.log += [set()] * 50
    world.take()
    world.volume = replace(world.volume, generation="99999999-9999-4999-8999-999999999999")
    world.changes = ChangesUnknown("the generation changed")
    del world.log[3:]
    world.write_some()
    present = world.take().manifest
    assert (present.rung, present.rung_reason) == (Rung.ALLOCATED, "the generation changed")
    world.changes = None
    world.write_some()
    assert world.take().manifest.image.base == present.point


@pytest.mark.parametrize("step", FAILURES)
@pytest.mark.parametrize("points", [0, 2])
def test_an_error_in_any_step_leaves_the_points_as_they_were(
    world: TakingWorld, step: str, points: int
) -> None:
    _several(world, points)
    before, registered = world.names(), world.registered()

    def fail(event: str) -> None:
        if event == step:
            raise FAILURES[step]

    world.on_event = fail
    with pytest.raises(MirrorlogError) as raised:
        world.take()
    assert raised.value is FAILURES[step]
    assert world.names() == before
    after = world.registered()
    if registered is not None:
        assert after is not None
        assert (after.position, after.point) == (registered.position, registered.point)
        told = step not in ("create lock", "registered")
        assert (after.failure is not None) == told
    world.reboot()
    world.take()
    world.check()
    last = world.registered()
    assert last is not None
    assert last.failure is None


@pytest.mark.parametrize("points", [0, 2])
def test_a_kill_before_any_step_leaves_the_points_as_they_were(
    world: TakingWorld, points: int
) -> None:
    _several(world, points)
    number, is_killed = 0, True
    while is_killed:
        left, is_killed = number, False

        def kill(_: str) -> None:
            nonlocal left, is_killed
            left -= 1
            if left < 0:
                is_killed = True
                raise Killed

        names = world.names()
        world.on_event = kill
        try:
            world.take()
        except Killed:
            content = list(world.content)
            for name in set(world.names()) - set(names):  # killed behind the manifest
                world.points[name] = content
        world.reboot()
        world.check()
        report, catalog = world.registered(), world.repository.catalog("v")
        if report is not None and report.point is not None:
            # What the next point can stand on needs no log at or below the registered position.
            assert report.point in catalog.records
            newest = max(record.manifest.position.position for record in catalog.points)
            assert report.position <= newest
        number += 1
        world.write_some()
    assert number > 8
    world.take()
    world.check()


def test_an_inconsistent_point_is_refused_unless_it_is_asked_for_and_is_marked(
    world: TakingWorld,
) -> None:
    world.is_consistent = False
    with pytest.raises(PointRefused, match="it moved") as raised:
        world.take()
    assert "--allow-inconsistent" in raised.value.next
    assert "read" not in world.events
    assert world.names() == []
    assert world.registered() is None
    taken = world.take(allows_inconsistent=True).manifest
    assert (taken.position.is_consistent, taken.reason) == (False, "it moved")
    report = world.registered()
    assert report is not None
    assert (report.is_consistent, report.reason) == (False, "it moved")
    assert "INCONSISTENT" in world.said[-1]
    world.is_consistent = True
    world.write_some()
    assert world.take().manifest.image.base == taken.point


def test_what_retention_took_is_said_and_the_image_stands_alone(world: TakingWorld) -> None:
    world.take()
    world.write_some()
    world.changes = ChangesUnknown("the log begins at 7", lost_log=True)
    taken = world.take().manifest
    assert (taken.rung, taken.image.base) == (Rung.ALLOCATED, None)
    assert taken.rung_reason is not None
    assert "node_keep_past_sites_after_s" in taken.rung_reason
    assert taken.rung_reason in world.said[-1]
    world.check()


def test_a_full_image_is_taken_when_it_is_asked_for(world: TakingWorld) -> None:
    world.take()
    world.write_some()
    taken = world.take(is_full=True).manifest
    assert (taken.rung, taken.image.base) == (Rung.ALLOCATED, None)
    assert taken.rung_reason == "a full image was asked for"
    assert world.openings[-1].base is None
    world.check()


def _name(world: TakingWorld, point: str) -> str:
    return image_name("v", point, world.repository.images.suffix)


@pytest.mark.parametrize("damage", ["missing", "short", "header", "manifest"])
def test_a_damaged_base_is_passed_over_loudly(world: TakingWorld, damage: str) -> None:
    first, second = _several(world, 2)
    name = _name(world, second)
    content = world.store.objects[name]
    if damage == "missing":
        del world.store.objects[name]
    elif damage == "short":
        world.store.objects[name] = content[:-4096]
    elif damage == "header":
        world.store.objects[name] = b"\0" * 4096 + content[4096:]
    else:
        manifest = name.replace(".qcow2", ".1.json")
        world.store.objects[manifest] = world.store.objects[manifest][:-9]
    taken = world.take().manifest
    assert taken.image.base == first
    assert second in world.said[0]
    assert "backup check" in world.said[0]
    if damage == "manifest":
        del world.points[second]
        world.check()


def test_without_a_sound_base_the_image_stands_alone_and_says_why(world: TakingWorld) -> None:
    (only,) = _several(world, 1)
    del world.store.objects[_name(world, only)]
    taken = world.take().manifest
    assert (taken.rung, taken.image.base) == (Rung.ALLOCATED, None)
    assert taken.rung_reason is not None
    assert only in taken.rung_reason


def test_damage_that_a_merge_finds_begins_again_with_an_image_that_stands_alone(
    world: TakingWorld,
) -> None:
    names = [world.take(max_depth=3).manifest.point]
    for _ in range(2):
        world.write_some()
        names.append(world.take(max_depth=3).manifest.point)
    name = _name(world, names[0])
    content = bytearray(world.store.objects[name])
    content[-1] ^= 1
    world.store.objects[name] = bytes(content)
    world.write_some()
    taken = world.take(max_depth=3).manifest
    assert (taken.rung, taken.image.base) == (Rung.ALLOCATED, None)
    assert taken.rung_reason is not None
    assert names[0] in taken.rung_reason
    assert any("begins again" in text for text in world.said)
    assert set(world.names()) == {*names, taken.point}


def test_a_volume_that_changes_meanwhile_begins_again_a_few_times(world: TakingWorld) -> None:
    failures = 2

    def fail(event: str) -> None:
        nonlocal failures
        if event == "read" and failures:
            failures -= 1
            world.volume = replace(world.volume, primary=f"memory:{failures}")
            raise SourceChanged("the volume's size changed", where="v", next="Begin again.")

    world.on_event = fail
    world.take()
    assert [opening.volume.primary for opening in world.openings] == [
        "memory:primary",
        "memory:1",
        "memory:0",
    ]
    failures = 99
    world.write_some()
    with pytest.raises(SourceChanged):
        world.take()
    assert failures == 95
    world.check()


def test_a_snapshot_that_breaks_begins_again_without_snapshots(world: TakingWorld) -> None:
    def fail(event: str) -> None:
        if event == "read" and world.openings[-1].attempt.uses_snapshots:
            raise FAILURES["read"]

    world.on_event = fail
    world.take()
    assert [opening.attempt.uses_snapshots for opening in world.openings] == [True, False]
    world.check()


def test_a_point_that_kafka_is_not_told_of_stays(world: TakingWorld) -> None:
    def fail(event: str) -> None:
        if event == "finished":
            raise KafkaFailed("the broker is away")

    world.on_event = fail
    taken = world.take()
    assert taken.unregistered is not None
    assert "away" in taken.unregistered
    world.check()
    report = world.registered()
    assert report is not None
    assert report.point is None


def test_commands_freeze_until_the_point_is_fixed_and_are_named(
    world: TakingWorld, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    seen: list[str] = []
    hooks = Hooks(before=f"echo freeze >> {log}", after=f"echo thaw >> {log}", timeout_s=30)

    def look(event: str) -> None:
        if event in ("open", "begin"):
            seen.append(log.read_text())

    world.on_event = look
    taken = world.take(hooks=hooks)
    assert seen == ["freeze\n", "freeze\nthaw\n"]
    assert taken.manifest.hooks == (f"before: {hooks.before}", f"after: {hooks.after}")
    assert taken.frozen_s is not None


def test_a_freeze_that_ended_too_early_is_refused_or_marked(
    world: TakingWorld, tmp_path: Path
) -> None:
    thawed = tmp_path / "thawed"
    hooks = Hooks(before=None, after=f"touch {thawed}", timeout_s=0.05)

    def wait(event: str) -> None:
        if event == "open":
            wait_until(thawed.exists)

    world.on_event = wait
    with pytest.raises(HookFailed, match="had thawed") as raised:
        world.take(hooks=hooks)
    assert "--hook-timeout-s" in raised.value.next
    assert world.names() == []
    thawed.unlink()
    taken = world.take(hooks=hooks, allows_inconsistent=True).manifest
    assert "had thawed" in taken.hooks[-1]


def test_a_second_writer_is_refused_and_disturbs_nothing(world: TakingWorld) -> None:
    world.take()
    registered = world.registered()
    world.write_some()
    lock = world.store.lock("prune of v")
    with pytest.raises(BadUse, match="prune of v"):
        world.take()
    lock.release()
    assert world.registered() == registered
    world.take()
    world.check()


def test_attempts_end_and_each_lacks_what_the_one_before_failed_of() -> None:
    random = Random(1)
    for _ in range(200):
        attempt: Attempt | None = Attempt(uses_base=random.random() < 0.5)
        count = 0
        while attempt is not None:
            end, before = random.choice(list(AttemptEnd)), attempt
            attempt = next_attempt(attempt, end)
            count += 1
            if attempt is not None:
                assert attempt.uses_base <= before.uses_base
                assert attempt.uses_snapshots <= before.uses_snapshots
                assert attempt.uses_base or end is not AttemptEnd.BASE_DAMAGED or before.uses_base
        assert count <= 4


def test_only_clusters_are_compressed() -> None:
    with pytest.raises(BadUse, match="can't be compressed"):
        Qcow2Writer(is_compressed=True)


def test_an_error_without_a_registration_is_told_to_nobody(world: TakingWorld) -> None:
    def fail(event: str) -> None:
        if event == "open":
            raise OutOfRetention("no")

    world.on_event = fail
    with pytest.raises(OutOfRetention):
        world.take()
    assert "failed" not in world.events
    assert world.registered() is None
