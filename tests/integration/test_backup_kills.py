"""A repository in a folder whose writers are killed with -9 at each system call."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest
from killing import run_script
from plain_images import BackupWorld
from qcow2_points import SmallQcow2

from mirrorlog.adapters.backup_folder import FolderBackups
from mirrorlog.consumers.backup.repository.manifests import encode_point
from mirrorlog.consumers.backup.repository.prune import prune_volume
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.consumers.backup.repository.repository_writer import open_writer

pytestmark = pytest.mark.integration

KILLER = """
import shutil, sys
from pathlib import Path
from killing import kill_everywhere
from qcow2_points import SmallQcow2
from mirrorlog.adapters.backup_folder import FolderBackups
from mirrorlog.consumers.backup.repository.prune import prune_volume
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.consumers.backup.repository.repository_writer import open_writer
from mirrorlog.consumers.backup.repository.manifests import decode_point

whole, copies, action, argument = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
CALLS = ("link", "unlink", "replace", "rename", "fsync", "write", "pwrite", "mkdir", "ftruncate")

def copied(number):
    return shutil.copytree(whole, copies / str(number))

def act(folder):
    repository = Repository.open(FolderBackups(folder), SmallQcow2())
    with open_writer(repository, action, max_depth=4) as writer:
        if action == "prune":
            prune_volume(writer, "vol1", set(argument.split()))
        else:
            new = Path(argument)
            path = writer.work / "new"
            shutil.copyfile(new / "image", path)
            writer.add_point(decode_point((new / "manifest").read_bytes(), "new"), path)

print(kill_everywhere(copied, act, CALLS))
"""


def _killed_everywhere(whole: Path, copies: Path, action: str, argument: str) -> list[Path]:
    """Do something to copies of a repository, and kill it at the n-th call in copy number n.

    Return the copies in this order; the last one wasn't killed.
    """
    copies.mkdir()
    kills = int(run_script(KILLER, str(whole), str(copies), action, argument))
    assert kills > 20
    return [copies / str(kill) for kill in range(1, kills + 2)]


def _world(folder: Path) -> BackupWorld:
    world = BackupWorld(FolderBackups(folder), Random(5), images=SmallQcow2(), max_depth=4)
    world.write(*range(world.blocks))
    for _ in range(4):
        world.backup()
        world.write_some()
    return world


def _open(folder: Path) -> Repository:
    return Repository.open(FolderBackups(folder), SmallQcow2())


def _prune(repository: Repository, drop: set[str]) -> None:
    with open_writer(repository, "prune") as writer:
        visible = {record.point for record in repository.catalog("vol1").points}
        prune_volume(writer, "vol1", drop & visible)


def _files(folder: Path) -> set[str]:
    """Return the files of a repository, without what isn't finished."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
    }


def test_a_prune_killed_by_the_kernel_at_any_call_keeps_all_other_points(tmp_path: Path) -> None:
    world = _world(tmp_path / "whole")
    drop = set(list(world.points)[1:3])
    kept = {point: text for point, text in world.points.items() if point not in drop}
    copies = _killed_everywhere(
        tmp_path / "whole", tmp_path / "copies", "prune", " ".join(sorted(drop))
    )
    for copy in copies:
        repository = _open(copy)
        world.check_points(kept, repository.store)
        _prune(repository, drop)
        world.check_points(kept, repository.store)
        assert len(_files(copy)) == len(_files(copies[-1])) == 1 + 2 * len(kept)


def test_a_backup_killed_by_the_kernel_at_any_call_keeps_all_points(tmp_path: Path) -> None:
    """The new point begins a chain, so that its image is merged from all of the old one."""
    world = _world(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "before")
    before, last = dict(world.points), world.last
    new = tmp_path / "new"
    new.mkdir()
    catalog = world.repository.catalog("vol1")
    assert last is not None
    assert len(catalog.chain(last)) == 4
    point = "20270101T000000Z-00000000"
    image = world.images.write(
        new / "image",
        world.content,
        set(range(len(world.content))),
        base=last,
        image_id="0a1b2c3d-0000-4000-8000-000000000000",
    )
    (new / "manifest").write_bytes(encode_point(world.manifest(point, image)))
    copies = _killed_everywhere(tmp_path / "before", tmp_path / "copies", "backup", str(new))
    for copy in copies:
        repository = _open(copy)
        world.check_points(before, repository.store)
        is_there = point in {record.point for record in repository.catalog("vol1").points}
        assert is_there or copy != copies[-1]
        if is_there:
            world.check_points({**before, point: world.content}, repository.store)
        _prune(repository, set())
        assert len(_files(copy)) == 1 + 2 * (len(before) + is_there)
