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


FILES = {b"a": b"first " * 500, b"b": b"", b"c": b"third " * 900}
FILES_KILLER = f"""
import sys
from functools import partial
from pathlib import Path
from killing import kill_everywhere
from mirrorlog.consumers.backup.files import tree_writer
from mirrorlog.consumers.backup.files.records import (
    BeginFile, EndFile, EnterFolder, FileData, FileFacts, Finished, LeaveFolder
)
from mirrorlog.consumers.backup.files.restoring import write_records

folders, is_unnamed = Path(sys.argv[1]), sys.argv[2] == "unnamed"
tree_writer.NamedWhenWhole = partial(tree_writer.NamedWhenWhole, is_unnamed=is_unnamed)
CALLS = ("open", "mkdir", "pwrite", "ftruncate", "fchmod", "utime", "link", "unlink", "close")

def records():
    yield EnterFolder(b"folder", FileFacts(), True)
    for name, content in {FILES!r}.items():
        yield BeginFile(name, FileFacts(), len(content))
        for offset in range(0, len(content), 1024):
            yield FileData(offset, content[offset : offset + 1024])
        yield EndFile(None)
    yield LeaveFolder()
    yield Finished()

def act(folder):
    write_records(records(), folder, tree_writer.WriteOptions(), print)

print(kill_everywhere(lambda number: folders / str(number), act, CALLS))
"""


@pytest.mark.parametrize("way", ["unnamed", "named"])
def test_a_file_out_of_a_point_has_its_name_only_if_it_is_whole(way: str, tmp_path: Path) -> None:
    kills = int(run_script(FILES_KILLER, str(tmp_path), way))
    assert kills > 20
    seen: set[bytes] = set()
    left = 0
    for kill in range(1, kills + 2):
        for path in tmp_path.glob(f"{kill}/folder/*"):
            name = path.name.encode()
            if name.startswith(b".restoring-"):
                left += 1
            else:
                assert path.read_bytes() == FILES[name]
                seen.add(name)
    assert seen == {*FILES}
    assert (left > 10) == (way == "named")
    assert len([*tmp_path.glob(f"{kills + 1}/folder/*")]) == len(FILES), (
        "the last one wasn't killed"
    )
