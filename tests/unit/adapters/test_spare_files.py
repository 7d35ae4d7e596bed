"""Files that are replaced by an exchange of names: whole contents, and spares that nobody needs."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from mirrorlog.adapters import spare_files
from mirrorlog.adapters.spare_files import SPARES, exchange_names, replace_files_often


def names(folder: Path) -> set[str]:
    """Return the names in a folder."""
    return {path.name for path in folder.iterdir()}


def inodes(folder: Path) -> set[int]:
    """Return the inodes of the files in a folder."""
    return {path.stat().st_ino for path in folder.iterdir()}


def test_files_that_are_there_are_replaced_without_a_new_file(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.json" for number in range(3)]
    for round_number, content in enumerate((b"the first one", b"second", b"the third", b"4")):
        before = inodes(tmp_path)
        replace_files_often(dict.fromkeys(paths, content))
        assert [path.read_bytes() for path in paths] == [content] * 3
        if round_number >= 2:
            assert inodes(tmp_path) == before
    spares = {f".mirrorlog-spares-{number}" for number in range(3)}
    assert names(tmp_path) == {".mirrorlog-spares", "0.json", "1.json", "2.json"} | spares
    assert (tmp_path / ".mirrorlog-spares-1").read_bytes() == b"the third"


@pytest.mark.parametrize("reason", ["no exchange", "another process", "another thread", "too many"])
def test_files_are_replaced_by_new_ones_where_spares_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    path, contents = tmp_path / "a.json", dict[Path, bytes]()
    replace_files_often({path: b"old"})
    if reason == "no exchange":
        monkeypatch.setattr(spare_files, "_renameat2", lambda: None)
    elif reason == "another process":
        monkeypatch.setattr(spare_files, "_known", {})  # the lock is that of the first call
    elif reason == "another thread":
        spare_files._known[tmp_path]._is_used.acquire()
    else:
        contents = {tmp_path / f"{number}.json": b"new" for number in range(SPARES)}
    replace_files_often({path: b"new", **contents})
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == {".mirrorlog-spares", "a.json", *(path.name for path in contents)}


def test_spares_are_made_safe_when_their_lock_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    os.link(path, tmp_path / ".mirrorlog-spares-0")  # a power cut tore an exchange
    (tmp_path / ".mirrorlog-spares-1").symlink_to(path)
    synced = []
    monkeypatch.setattr(spare_files, "sync_folder", synced.append)
    seen = []

    def failing(spare: Path, path: Path) -> bool:
        seen.append(path.read_bytes())
        raise OSError(errno.EIO, "torn")

    monkeypatch.setattr(spare_files, "exchange_names", failing)
    with pytest.raises(OSError, match="torn"):
        replace_files_often({path: b"new"})
    assert (synced, seen, path.read_bytes()) == ([tmp_path], [b"old"], b"old")
    assert names(tmp_path) == {".mirrorlog-spares", "a.json"}


def test_a_folder_that_was_made_anew_is_locked_anew(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    for _ in range(2):
        folder.mkdir()
        replace_files_often({folder / "a": b"x"})
        with (folder / ".mirrorlog-spares").open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_a_failed_exchange_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(FileNotFoundError):
        exchange_names(tmp_path / "a", tmp_path / "b")
