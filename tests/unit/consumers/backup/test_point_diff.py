"""The blocks in which two points differ, against a comparison of all their bytes."""

from __future__ import annotations

from random import Random

import pytest
from plain_images import BackupWorld
from qcow2_points import FORMS, SmallQcow2

from mirrorlog.consumers.backup.repository.open_point import open_point
from mirrorlog.consumers.backup.repository.point_diff import (
    ChainOfPoint,
    PointDiff,
    differing_blocks,
    maybe_different,
)
from mirrorlog.simulation.memory_backups import MemoryBackups


def diff(world: BackupWorld, first: str, second: str) -> tuple[PointDiff, int]:
    """Return the difference, and how many bytes may differ by their places."""
    catalog = world.repository.catalog(world.volume)
    with (
        open_point(world.repository, catalog, first) as one,
        open_point(world.repository, catalog, second) as two,
    ):
        chains = ChainOfPoint(one, catalog.chain(first)), ChainOfPoint(two, catalog.chain(second))
        runs = maybe_different(*chains)
        return differing_blocks(*chains, world.images.block), int((runs.ends - runs.firsts).sum())


@pytest.mark.parametrize("images", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("seed", range(2))
def test_every_pair_of_points(images: SmallQcow2, seed: int) -> None:
    world = BackupWorld(MemoryBackups(), images=images, random=Random(seed), max_depth=5)
    for _ in range(6):
        world.write_some()
        world.backup()
    drop = set(list(world.points)[1:3])
    world.prune(drop)
    kept = {name: content for name, content in world.points.items() if name not in drop}
    for first, before in kept.items():
        for second, after in kept.items():
            longer = [*before, *[0] * (len(after) - len(before))]
            changed = [block for block, version in enumerate(after) if longer[block] != version]
            difference, _ = diff(world, first, second)
            assert list(difference.changed) == changed
            assert list(difference.zeroed) == [block for block in changed if not after[block]]


def test_what_two_points_share_is_not_read() -> None:
    world = BackupWorld(MemoryBackups(), images=SmallQcow2(), blocks=4096)
    world.write(*range(4096))
    first = world.backup()
    world.write(3000)
    second = world.backup()
    difference, maybe_bytes = diff(world, first, second)
    assert list(difference.changed) == [3000]
    assert maybe_bytes == 4096
    assert diff(world, first, first) == (PointDiff(difference.zeroed, difference.zeroed), 0)
