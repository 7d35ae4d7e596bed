"""The files of a log in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirrorlog.adapters.log_folder import LogFolders
from mirrorlog.errors import DeviceFailed


def test_files_are_written_replaced_and_removed(tmp_path: Path) -> None:
    folders = LogFolders(tmp_path / "logs")
    assert folders.folders(0) == []
    log = folders.open("partition-0/history-0")
    assert log.read("tree-head") is None
    log.write({"tile/0/000.p/3": b"abc", "tile/0/000.p/4": b"abcd", "tile/1/000.p/1": b"x"})
    log.replace("tree-head", b"old")
    log.replace("tree-head", b"new")
    assert (log.read("tree-head"), log.read("tile/0/000.p/4")) == (b"new", b"abcd")
    log.write({"tile/0/000": b"full"})
    log.drop_partial(["tile/0/000"])
    assert log.read("tile/0/000.p/4") is None
    assert log.read("tile/1/000.p/1") == b"x"
    assert folders.folders(0) == ["partition-0/history-0"]
    assert folders.folders(1) == []
    assert log.where == str(tmp_path / "logs/partition-0/history-0")


def test_what_the_system_refuses_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "partition-0").write_text("a file")
    log = LogFolders(tmp_path).open("partition-0/history-0")
    with pytest.raises(DeviceFailed, match="partition-0"):
        log.write({"tile/0/000": b""})
    with pytest.raises(DeviceFailed, match="partition-0"):
        log.read("tile/0/000")
