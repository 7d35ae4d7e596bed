"""A restore that is killed with -9 at each system call, and the one after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from killing import run_script
from plain_images import BackupWorld
from qcow2_points import SmallQcow2

from mirrorlog.adapters.backup_folder import FolderBackups
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.consumers.backup.repository.open_point import open_point
from mirrorlog.consumers.backup.restoring import open_target, restore
from mirrorlog.errors import BadUse
from mirrorlog.ports.task_runner import OneAtATime

pytestmark = pytest.mark.integration

KILLER = """
import sys
from pathlib import Path
from killing import kill_everywhere
from qcow2_points import SmallQcow2
from mirrorlog.adapters.backup_folder import FolderBackups
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.consumers.backup import restoring
from mirrorlog.consumers.backup.repository.open_point import open_point
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.ports.task_runner import OneAtATime

backups, folders, point, filler_bytes = *map(Path, sys.argv[1:3]), sys.argv[3], int(sys.argv[4])
CALLS = ("open", "ftruncate", "pwrite", "fdatasync", "fsync", "link", "unlink", "rename", "replace")
restoring._BATCH_BYTES = 1024

def new_folder(number):
    folder = folders / str(number)
    folder.mkdir()
    if filler_bytes:
        (folder / "v.img").write_bytes(b"x" * filler_bytes)
    return folder

def act(folder):
    repository = Repository.open(FolderBackups(backups), SmallQcow2())
    catalog = repository.catalog("vol1")
    marks = PrimaryMarkFiles(folder / "marks")
    with (
        open_point(repository, catalog, point, reads_all=True) as device,
        restoring.open_target(
            str(folder / "v.img"), device.size_bytes, marks, may_overwrite=filler_bytes > 0
        ) as target,
    ):
        volume = catalog.records[point].manifest.as_volume()
        restoring.restore(device, target, volume=volume, tasks=OneAtATime())

print(kill_everywhere(new_folder, act, CALLS))
"""


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    """Two points; what they hold has several pieces, and zeros between them and at the end."""
    world = BackupWorld(FolderBackups(tmp_path / "backups"), blocks=100, images=SmallQcow2())
    world.write(*range(6), *range(40, 45), 80)
    world.backup()
    world.write(3, 42, 60)
    world.backup()
    return world


def killed_restores(world: BackupWorld, folders: Path, *, filler_bytes: int) -> Iterator[Path]:
    """Yield the folder of each restore that was killed, in the order of the calls."""
    folders.mkdir()
    arguments = (world.store.where, str(folders), str(world.last), str(filler_bytes))
    kills = int(run_script(KILLER, *arguments))
    assert kills > 10
    yield from (folders / str(kill) for kill in range(1, kills + 1))


def restore_again(world: BackupWorld, path: Path, *, may_overwrite: bool) -> None:
    """Restore the newest point."""
    catalog, point = world.repository.catalog("vol1"), str(world.last)
    marks = PrimaryMarkFiles(path.parent / "marks")
    with (
        open_point(world.repository, catalog, point, reads_all=True) as device,
        open_target(str(path), device.size_bytes, marks, may_overwrite=may_overwrite) as target,
    ):
        volume = catalog.records[point].manifest.as_volume()
        restore(device, target, volume=volume, tasks=OneAtATime())


def test_a_file_has_its_name_only_if_it_is_whole(world: BackupWorld, tmp_path: Path) -> None:
    content = SmallQcow2().octets(world.content)
    whole = halves = 0
    for folder in killed_restores(world, tmp_path / "new", filler_bytes=0):
        path, unfinished = folder / "v.img", folder / "v.img.restoring"
        if path.exists():
            whole += 1
            assert path.read_bytes() == content
            with pytest.raises(BadUse, match="holds data"):
                restore_again(world, path, may_overwrite=False)
        else:
            halves += unfinished.exists() and unfinished.read_bytes() != content
            restore_again(world, path, may_overwrite=False)
        assert path.read_bytes() == content
        assert [one.name for one in folder.iterdir() if one.name != "marks"] == ["v.img"]
    assert halves > 5
    assert whole > 0


def test_a_restore_over_a_file_is_repeated(world: BackupWorld, tmp_path: Path) -> None:
    content = SmallQcow2().octets(world.content)
    filler = b"x" * (len(content) + 512)
    mixed = 0
    for folder in killed_restores(world, tmp_path / "over", filler_bytes=len(filler)):
        path = folder / "v.img"
        mixed += path.read_bytes() not in (filler, content + filler[len(content) :])
        restore_again(world, path, may_overwrite=True)
        assert path.read_bytes() == content + filler[len(content) :]
    assert mixed > 5
