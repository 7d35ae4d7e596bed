"""Backups for weeks, pruned after each one: what is kept, and how much that takes."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from random import Random

import pytest
from plain_images import BLOCK, BackupWorld

from mirrorlog.consumers.backup.repository.keep import ALL, KeepRules
from mirrorlog.consumers.backup.repository.prune_by_rules import prune_by_rules
from mirrorlog.consumers.backup.repository.repository_writer import MAX_DEPTH
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_backups import MemoryBackups

HOUR_S = 3600
TWO_WEEKS = KeepRules(hourly=24, daily=7, weekly=4)


@dataclass
class Schedule:
    """Hourly backups of a volume of which a few blocks change each hour, and prunes after each.

    changes: the blocks that changed before each point, by its name. objects, images, fulls, blocks:
    how many objects, images and images that stand alone there were after each prune, and blocks in
    all images; after each prune of hour `note_each`.
    """

    rules: KeepRules
    max_depth: int = MAX_DEPTH
    seed: int = 1
    note_each: int = 1
    changes: dict[str, Set[int]] = field(default_factory=dict)
    objects: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    fulls: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = ManualClock(now_s=1e9)
        self.store = MemoryBackups(self.clock)
        self.world = BackupWorld(
            self.store, Random(self.seed), blocks=200, max_depth=self.max_depth
        )
        self.world.write(*range(self.world.blocks))

    def run(self, hours: int, check_each: int) -> None:
        """Take points and prune. Each kept point is read every `check_each` hours."""
        world = self.world
        for hour in range(hours):
            self.clock.now_s += HOUR_S
            world.write(*world.random.sample(range(world.blocks), 4))
            changed = set(world.changed)
            self.changes[world.backup(seconds=HOUR_S)] = changed
            prune_by_rules(world.repository, world.volume, self.rules)
            if hour % self.note_each == self.note_each - 1:
                self._note()
            if hour % check_each == check_each - 1:
                for point in world.visible():
                    assert world.reads_as(point) == world.points[point]

    def _note(self) -> None:
        catalog = self.world.repository.catalog(self.world.volume)
        images = [record.image for record in catalog.records.values()]
        names = [name for name in self.store.names("") if not name.startswith("locks/")]
        self.objects.append(len(names))
        self.images.append(len(images))
        self.fulls.append(sum(image.base is None for image in images))
        self.blocks.append(sum(image.data_bytes for image in images) // BLOCK)
        for record in catalog.records.values():
            assert len(catalog.chain(record.point)) <= self.max_depth
            if record.image.base is not None:
                names_between = [
                    name for name in self.changes if record.image.base < name <= record.point
                ]
                changed = set().union(*(self.changes[name] for name in names_between))
                assert record.image.data_bytes <= len(changed) * BLOCK


def test_two_weeks_of_points_take_one_full_image_and_what_changed_between_them() -> None:
    """Hourly for a day, daily for a week, weekly.

    24 + 7 + 4 points at the most, fewer as rules keep the same ones, and one image that only
    carries others: so a chain never gets so long that it is merged to a further full image. Each
    overlay holds at most what changed since its base, 4 blocks an hour and at most the volume.
    """
    schedule = Schedule(TWO_WEEKS)
    schedule.run(14 * 24, check_each=24)
    most = 24 + 7 + 4
    assert max(schedule.fulls) == 1
    assert max(schedule.images) <= most + 1
    assert max(schedule.objects) <= 1 + 2 * (most + 1)
    world = schedule.world
    visible = world.visible()
    kept_hours = 14 * 24
    assert max(schedule.blocks) <= world.blocks + min(4 * kept_hours, world.blocks * len(visible))
    assert len(visible) >= 24 + 7 - 2


@pytest.mark.slow
def test_half_a_year_of_weekly_points_takes_a_full_image_for_each_long_chain() -> None:
    """A chain holds the points of a day, a week and so many weeks. Then the next one begins."""
    weeks, weeks_a_chain = 26, 8
    schedule = Schedule(
        KeepRules(hourly=24, daily=7, weekly=ALL),
        max_depth=24 + 7 + 1 + weeks_a_chain,
        note_each=24,
    )
    schedule.run(weeks * 7 * 24, check_each=24 * 91)
    most_fulls = 1 + -(-weeks // weeks_a_chain)
    assert 1 < max(schedule.fulls) <= most_fulls
    assert max(schedule.images) <= 24 + 7 + weeks + 1 + most_fulls
