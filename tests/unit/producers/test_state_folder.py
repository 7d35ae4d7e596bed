"""Both state folders, on disk and in memory, do the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.ports.folders import StateFolder, replace_file
from mirrorlog.producers.durable.disk_folder import DiskFolder
from mirrorlog.simulation.memory_folder import MemoryFolder


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> StateFolder:
    return DiskFolder(tmp_path / "state" / "host") if request.param == "disk" else MemoryFolder()


def test_a_file_is_replaced_whole_and_stays_open(folder: StateFolder) -> None:
    folder.lock()
    assert folder.read("name") is None
    replace_file(folder, "name", b"old and long").close()
    file = replace_file(folder, "name", b"new")
    assert folder.read("name") == b"new"
    file.pwrite(2, b"xt")
    file.sync()
    assert folder.read("name") == b"next"
    assert folder.read("name.new") is None
    file.close()
    file.close()
    with pytest.raises(DeviceFailed):
        file.pwrite(0, b"late")


def test_one_process_at_a_time(folder: StateFolder, tmp_path: Path) -> None:
    folder.lock()
    other = DiskFolder(tmp_path / "state" / "host") if isinstance(folder, DiskFolder) else folder
    with pytest.raises(BadUse, match="another process"):
        other.lock()
    folder.close()
    other.lock()
    other.close()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DeviceFailed, match=str(tmp_path)):
        DiskFolder(tmp_path / "file" / "state").lock()
