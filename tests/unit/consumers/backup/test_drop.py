"""Single points are removed, damaged or not; all others stay, whenever that is killed."""

from __future__ import annotations

from contextlib import suppress

import pytest
from plain_images import BackupWorld

from mirrorlog.consumers.backup.repository.drop import drop_points, is_prunable, plan_drop
from mirrorlog.consumers.backup.repository.prune import prune_volume
from mirrorlog.consumers.backup.repository.repository_writer import open_writer
from mirrorlog.errors import BadUse, StateDamaged
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_backups import MemoryBackups


class Killed(BaseException):
    """The end of the process."""


def _world() -> tuple[BackupWorld, list[str]]:
    """Return a repository with two chains: of three points, and of two."""
    world = BackupWorld(MemoryBackups(ManualClock()))
    world.write(*range(world.blocks))
    for base in ("", "", "", None, ""):
        world.write_some(3)
        world.backup(base)
    return world, list(world.points)


def _spoil(world: BackupWorld, point: str) -> None:
    name = f"volumes/vol1/{point}.1.json"
    world.store.objects[name] = world.store.objects[name][:-9]  # type: ignore[attr-defined]


def _drop(world: BackupWorld, *points: str, with_dependents: bool = False) -> list[str]:
    with open_writer(world.repository, "drop") as writer:
        catalog = world.repository.catalog("vol1")
        order = plan_drop(catalog, set(points), with_dependents=with_dependents)
        drop_points(writer, "vol1", order)
    return order


def _check(world: BackupWorld, kept: list[str]) -> None:
    assert world.visible() == kept
    for point in kept:
        assert world.reads_as(point) == world.points[point]


def test_an_unreadable_point_on_which_nothing_stands_is_removed_and_prunes_go_on() -> None:
    world, names = _world()
    _spoil(world, names[2])
    assert not is_prunable(world.repository.catalog("vol1"), {names[1]})
    with open_writer(world.repository, "prune") as writer, pytest.raises(StateDamaged):
        prune_volume(writer, "vol1", {names[1]})
    assert _drop(world, names[2]) == [names[2]]
    _check(world, [*names[:2], *names[3:]])
    assert not any(names[2] in name for name in world.store.objects)  # type: ignore[attr-defined]
    assert is_prunable(world.repository.catalog("vol1"), {names[1]})
    world.prune({names[1]})
    _check(world, [names[0], *names[3:]])


@pytest.mark.parametrize("is_readable", [True, False])
def test_what_stands_on_a_point_goes_only_if_that_is_said(is_readable: bool) -> None:
    world, names = _world()
    if not is_readable:
        _spoil(world, names[1])
    with pytest.raises(BadUse, match=f"{names[2]} can't be read without {names[1]}") as raised:
        _drop(world, names[1])
    assert "--with-dependents" in raised.value.next
    assert _drop(world, names[1], with_dependents=True) == [names[2], names[1]]
    _check(world, [names[0], *names[3:]])


def test_what_stands_on_a_point_through_an_unreadable_one_goes_along() -> None:
    world, names = _world()
    _spoil(world, names[1])
    assert _drop(world, names[0], with_dependents=True) == [names[2], names[1], names[0]]
    _check(world, names[3:])


def test_points_that_are_named_together_need_no_word() -> None:
    world, names = _world()
    assert _drop(world, names[0], names[1], names[2], names[4]) == [
        names[2],
        names[4],
        names[1],
        names[0],
    ]
    _check(world, names[3:4])


def test_a_point_whose_image_is_gone_is_removed() -> None:
    world, names = _world()
    del world.store.objects[f"volumes/vol1/{names[1]}.tiny"]  # type: ignore[attr-defined]
    _drop(world, names[1], with_dependents=True)
    _check(world, [names[0], *names[3:]])


def test_a_dropped_point_that_carries_others_goes_with_them() -> None:
    world, names = _world()
    world.prune({names[0]})
    assert _drop(world, names[1], with_dependents=True) == [names[2], names[1]]
    _check(world, names[3:])


def test_an_unknown_point_is_refused() -> None:
    world, names = _world()
    with pytest.raises(BadUse, match="no point"):
        _drop(world, "20200101T000000Z-00000000")
    _check(world, names)


@pytest.mark.parametrize("operation", ["before", "after"])
def test_a_kill_at_any_step_leaves_the_others_as_they_were(operation: str) -> None:
    number, is_killed = 0, True
    while is_killed:
        world, names = _world()
        _spoil(world, names[1])
        left, is_killed = number, False

        def kill(step: str, name: str) -> None:
            nonlocal left, is_killed
            left -= step == "delete"
            if left < 0:
                is_killed = True
                raise Killed

        setattr(world.store, operation, kill)
        with suppress(Killed):
            _drop(world, names[1], with_dependents=True)
        setattr(world.store, operation, lambda *_: None)
        world.store._clock.now_s += 3600  # type: ignore[attr-defined]
        catalog = world.repository.catalog("vol1")
        for record in catalog.points:
            assert world.reads_as(record.point) == world.points[record.point]
        assert set(world.visible()) >= {names[0], *names[3:]}
        if names[1] in catalog.unreadable:
            _drop(world, names[1], with_dependents=True)
        world.prune(set())
        _check(world, [names[0], *names[3:]])
        number += 1
    assert number >= 4
