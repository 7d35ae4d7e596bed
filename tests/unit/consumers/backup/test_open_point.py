"""A point that is opened while a prune replaces and removes the images on which it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from shutil import copytree

import pytest
from plain_images import BackupWorld
from qcow2_points import SmallQcow2

from mirrorlog.adapters.backup_folder import FolderBackups
from mirrorlog.consumers.backup.repository.image_files import (
    FileDamage,
    ImageFacts,
    ImageIdentity,
)
from mirrorlog.consumers.backup.repository.open_point import open_point
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.errors import BadUse


class Interrupted(SmallQcow2):
    """Images of which something else is done before or after the call number `left`."""

    def __init__(self, left: int, meanwhile: Callable[[], object]) -> None:
        super().__init__()
        self.left, self.meanwhile = left, meanwhile

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.meanwhile()

    def identify(self, beginning: bytes, where: str) -> ImageIdentity:
        self.step()
        identity = super().identify(beginning, where)
        self.step()
        return identity

    def check(self, path: Path, image: ImageFacts, *, size_bytes: int) -> list[FileDamage]:
        self.step()
        damages = super().check(path, image, size_bytes=size_bytes)
        self.step()
        return damages


def world_of(folder: Path) -> BackupWorld:
    """Return a folder with five points, each on the one before it."""
    world = BackupWorld(FolderBackups(folder), images=SmallQcow2())
    world.write(*range(world.blocks))
    for _ in range(5):
        world.backup()
        world.write_some()
    return world


def copy_of(made: BackupWorld, folder: Path) -> BackupWorld:
    """Return a world again, with a copy of its folder."""
    copytree(made.store.where, folder)
    world = copy(made)
    world.store = FolderBackups(folder)
    world.repository = Repository.open(world.store, world.images)
    return world


def pruned_at(world: BackupWorld, call: int, *, drop: Sequence[int], opens: int) -> bool:
    """Open a point while others are pruned at a call. It reads as it must.

    drop, opens: numbers of points. Return whether there were so many calls.
    """
    names = list(world.points)
    images = Interrupted(call, lambda: world.prune({names[number] for number in drop}))
    repository = Repository.open(world.store, images)
    catalog, point = repository.catalog(world.volume), names[opens]
    with open_point(repository, catalog, point, reads_all=True) as device:
        octets = device.pread(offset=0, length=device.size_bytes)
    assert images.versions(octets) == world.points[point]
    return images.left <= 0


@pytest.mark.parametrize("drop", [[1, 2], [0], [0, 1, 2, 3]], ids=str)
def test_a_point_reads_as_it_must_at_whatever_step_a_prune_comes(
    drop: list[int], tmp_path: Path
) -> None:
    made, calls = world_of(tmp_path / "made"), 1
    while pruned_at(copy_of(made, tmp_path / str(calls)), calls, drop=drop, opens=4):
        calls += 1
    assert calls > 8


def test_a_point_that_is_pruned_meanwhile_is_gone(tmp_path: Path) -> None:
    with pytest.raises(BadUse, match="has no point"):
        pruned_at(world_of(tmp_path), 1, drop=[2], opens=2)
