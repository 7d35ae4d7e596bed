"""An archive in a folder whose disk is full, or fails, at any step."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from archiving import ArchiveWorld

from mirrorlog.adapters import object_folder
from mirrorlog.adapters.archive_folder import FolderArchive
from mirrorlog.archive.archive import Archive
from mirrorlog.consumers.archive.verify import verify_archive
from mirrorlog.errors import ArchiveFailed

pytest.importorskip("pyarrow")


def _world(folder: Path) -> ArchiveWorld:
    world = ArchiveWorld()
    for number in range(12):
        world.write("v", [(number * 4096, 4096)] * 30)
    world.record()
    world.store = FolderArchive(folder)  # type: ignore[assignment]
    return world


def _check_whole(world: ArchiveWorld) -> None:
    world.archiver(range_bytes=2000).run_partition(0)
    assert world.in_archive() == world.in_topic()
    (checked,) = verify_archive(Archive(world.store))
    assert checked.commands == 12


@contextmanager
def _small_files(limit_bytes: int) -> Iterator[None]:
    """Let the kernel refuse to let any file of this process grow beyond a size (RLIMIT_FSIZE)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit_bytes", [0, 1, 700, 2000])
def test_a_file_that_finds_no_room_leaves_nothing_under_its_name(
    tmp_path: Path, limit_bytes: int
) -> None:
    world = _world(tmp_path)
    with _small_files(limit_bytes), pytest.raises(ArchiveFailed, match="can't be written"):
        world.archiver(range_bytes=2000).run_partition(0)
    assert list(world.store.names("manifests/")) == []
    assert list(world.store.names(".unfinished/")) == []
    _check_whole(world)


@pytest.mark.parametrize("operation", ["write", "fsync", "link", "open"])
def test_a_disk_that_is_full_at_any_step_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    real: Any = getattr(os, operation)
    at, was_reached = 0, True
    while was_reached:
        at, count = at + 1, 0
        world = _world(tmp_path / f"{operation}{at}")

        def fail(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:  # noqa: B023
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **options)

        monkeypatch.setattr(object_folder.os, operation, fail)
        try:
            world.archiver(range_bytes=2000).run_partition(0)
        except ArchiveFailed as error:
            assert "No space left" in str(error)
        else:
            was_reached = False
        monkeypatch.undo()
        _check_whole(world)
        assert list(world.store.names(".unfinished/")) == []
        if at > 6 and operation != "link":
            break
    assert at > 3


def test_what_a_killed_process_left_is_removed_and_a_running_one_s_is_not(tmp_path: Path) -> None:
    store = FolderArchive(tmp_path)
    store.create("a/1", b"x")
    left = tmp_path / ".unfinished"
    (left / "4194999-of-a-dead-process").write_bytes(b"half")
    (left / f"{os.getppid()}-of-a-running-one").write_bytes(b"half")
    store.create("a/2", b"y")
    assert [path.name for path in left.iterdir()] == [f"{os.getppid()}-of-a-running-one"]
    assert list(store.names("a/")) == ["a/1", "a/2"]


def test_a_name_never_leads_out_of_the_archive(tmp_path: Path) -> None:
    with pytest.raises(ArchiveFailed, match="out of the archive"):
        FolderArchive(tmp_path / "archive").create("rows/../../outside", b"x")
