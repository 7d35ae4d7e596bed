"""A disk that is full at a write, or at any flush, while points are taken or removed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from plain_images import BackupWorld
from qcow2_points import SmallQcow2

from mirrorlog.adapters.backup_folder import FolderBackups
from mirrorlog.errors import DeviceFailed, RepositoryFailed

pytestmark = pytest.mark.integration


class KeptWorld:
    """A repository of qcow2 images in a folder, that can be put back to what it was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "repository"
        self.world = BackupWorld(FolderBackups(self.folder), max_depth=4, images=SmallQcow2())
        for _ in range(4):
            self.change()
            self.world.backup()
        self._copy = folder / "copy"

    def change(self) -> None:
        """Write some blocks, and leave the size as it is."""
        self.world.write(*self.world.random.sample(range(self.world.blocks), 3))

    def keep(self) -> None:
        """Remember the repository and the volume as they are, for put_back()."""
        shutil.copytree(self.folder, self._copy)
        world = self.world
        self._state = (set(world.changed), world.seconds, dict(world.points), world.last)

    def put_back(self) -> None:
        """Make the repository and the volume what they were."""
        shutil.rmtree(self.folder)
        shutil.copytree(self._copy, self.folder)
        self.forget()

    def forget(self) -> None:
        """Make the volume what it was, and leave the repository as it is."""
        world = self.world
        changed, world.seconds, points, world.last = self._state
        world.changed, world.points = set(changed), dict(points)

    def check(self, points: set[str]) -> None:
        """Each of these points is there, reads as it must, and no byte of a file is damaged."""
        self.world.check_points({point: self.world.points[point] for point in points})

    def check_tidy(self, points: set[str]) -> None:
        """There are these points, hidden ones that they need, and no file besides."""
        self.world.check_tidy(points)
        needed = self.world.repository.catalog(self.world.volume).records
        files = {path for path in self.folder.rglob("*") if path.is_file()}
        assert len(files) == 2 + 2 * len(needed), "the header, the lock, images and manifests"


def works(action: Callable[[], object]) -> bool:
    """Do something. Return whether it worked; if not, it said that the space was used up."""
    try:
        action()
    except (DeviceFailed, RepositoryFailed) as error:
        assert os.strerror(errno.ENOSPC).lower() in str(error).lower()
        return False
    return True


def after_a_full_disk(kept: KeptWorld, points: set[str], drop: set[str]) -> None:
    """There is space again: the points are as they were, and the next backup and prune work."""
    kept.check(points)
    finished = set(kept.world.visible()) - points - drop
    new = kept.world.backup(seconds=120)
    kept.world.prune((finished | drop) & set(kept.world.visible()))
    kept.check({*points, new})
    kept.check_tidy({*points, new})


@pytest.mark.parametrize("action", ["backup", "prune"])
def test_a_disk_that_is_full_at_any_flush_leaves_all_points(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a write that was delayed comes from fsync(2)."""
    kept = KeptWorld(tmp_path)
    kept.change()
    points = set(kept.world.points)
    drop = set(sorted(points)[1:3]) if action == "prune" else set()
    do = (lambda: kept.world.prune(drop)) if drop else kept.world.backup
    kept.keep()
    fsync = os.fsync
    failures = 0
    while True:
        left = failures

        def flush(descriptor: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", flush)
        has_worked = works(do)
        monkeypatch.setattr(os, "fsync", fsync)
        if has_worked:
            break
        kept.forget()
        after_a_full_disk(kept, points - drop, drop)
        kept.put_back()
        failures += 1
    assert failures >= (6 if drop else 4)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("a file system can't be mounted: that needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_a_backup_and_leaves_all_points(small_disk: Path) -> None:
    world = BackupWorld(FolderBackups(small_disk / "repository"), Random(5), images=SmallQcow2())
    world.write(*range(world.blocks))
    with pytest.raises((RepositoryFailed, DeviceFailed), match=r"[Nn]o space left"):
        for _ in range(200):
            world.backup()
            world.write(1, 2)
    assert len(world.points) > 3
    world.check_points(world.points)
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    world.backup()
    drop = set(list(world.points)[1:-1])
    for point in drop:
        del world.points[point]
    world.prune(drop)
    world.check_points(world.points)
    world.check_tidy(set(world.points))
