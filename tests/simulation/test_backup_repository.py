"""A repository whose writers are killed at every call of the store."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from plain_images import BackupWorld, TinyImages, WritableImages
from qcow2_points import SmallQcow2

from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_backups import MemoryBackups


class Killed(BaseException):
    """The process ends here."""


class _KillAt:
    """Ends the process at one call of the store, before its effect or after it."""

    def __init__(self, store: MemoryBackups, call: int) -> None:
        self.calls, self._at = 0, call
        store.before = store.after = self._count

    def _count(self, step: str, name: str) -> None:
        if step != "read":
            self.calls += 1
            if self.calls == self._at:
                raise Killed
            if self._at and self.calls > self._at:
                raise Killed  # a process that was killed does nothing more


def _do_nothing(step: str, name: str) -> None: ...


def _world(
    seed: int, images: WritableImages | None = None
) -> tuple[BackupWorld, MemoryBackups, ManualClock]:
    clock = ManualClock(now_s=1e9)
    store = MemoryBackups(clock)
    random = Random(seed)
    world = BackupWorld(
        store, random, max_depth=random.choice((3, 5, 30)), images=images or TinyImages()
    )
    for number in range(random.randrange(2, 12)):
        world.write_some(random.choice((4, 40)))
        base: str | None = ""
        if number and random.random() < 0.2:
            base = random.choice([*world.points, None])  # type: ignore[list-item]
        world.backup(base)
    return world, store, clock


def _killed_everywhere(
    world: BackupWorld,
    store: MemoryBackups,
    clock: ManualClock,
    action: Callable[[], object],
    check: Callable[[], None],
) -> int:
    """Do something from the same state on, killed at each call, and check after each kill.

    Return the number of kills. Nothing of the last run, which isn't killed, is undone.
    """
    before = dict(store.objects)
    kill = 0
    while True:
        kill += 1
        store.objects = dict(before)
        killer = _KillAt(store, kill)
        try:
            action()
        except Killed:
            store.before = store.after = _do_nothing
            clock.now_s += 1000  # the lease of the killed writer ends
            check()
        else:
            store.before = store.after = _do_nothing
            assert killer.calls < kill
            return kill - 1


SEEDS = pytest.mark.parametrize(
    ("seed", "images"),
    [
        *(pytest.param(seed, TinyImages(), id=f"tiny-{seed}") for seed in range(6)),
        pytest.param(1, SmallQcow2(), id="qcow2-1", marks=pytest.mark.slow),
        pytest.param(4, SmallQcow2(), id="qcow2-4", marks=pytest.mark.slow),
    ],
)


@SEEDS
def test_a_prune_killed_anywhere_leaves_each_kept_point_and_the_next_one_ends_it(
    seed: int, images: WritableImages
) -> None:
    world, store, clock = _world(seed, images)
    for _ in range(2):
        *older, _ = world.visible()
        drop = {point for point in older if world.random.random() < 0.6}
        kept = {point: text for point, text in world.points.items() if point not in drop}

        def check() -> None:
            world.check_points(kept)  # noqa: B023
            world.prune(drop & set(world.visible()))  # noqa: B023
            world.check_points(kept)  # noqa: B023
            world.check_tidy(kept.keys())  # noqa: B023

        kills = _killed_everywhere(world, store, clock, lambda: world.prune(drop), check)  # noqa: B023
        assert kills >= 4
        world.points = kept
        world.check_points(kept)
        world.check_tidy(kept.keys())
        for _ in range(3):
            world.write_some()
            world.backup()


@SEEDS
def test_a_backup_killed_anywhere_leaves_all_points_and_the_next_one_works(
    seed: int, images: WritableImages
) -> None:
    world, store, clock = _world(seed, images)
    earlier, last = dict(world.points), world.last
    world.write_some()
    content, changed, seconds = list(world.content), set(world.changed), world.seconds

    def restart() -> None:
        world.content, world.changed, world.seconds = list(content), set(changed), seconds
        world.points, world.last = dict(earlier), last

    def backup() -> None:
        restart()
        world.backup()

    def check() -> None:
        restart()
        world.check_points(earlier)
        world.backup()
        world.check_points(world.points)
        assert world.repository.catalog(world.volume).leftovers == ()

    assert _killed_everywhere(world, store, clock, backup, check) >= 4
    world.check_points(world.points)
