"""Who may lock a folder together; and files that are replaced whole, whatever lies beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mirrorlog.adapters import folders
from mirrorlog.adapters.folders import lock_folder, replace_files, spare_of
from mirrorlog.errors import BadUse


def test_one_process_alone_locks_a_folder(tmp_path: Path) -> None:
    held = lock_folder(tmp_path / "a" / "b")
    with pytest.raises(BadUse, match=f"process {os.getpid()} on"):
        lock_folder(tmp_path / "a" / "b")
    os.close(held)
    os.close(lock_folder(tmp_path / "a" / "b"))


def test_those_of_one_name_lock_a_folder_together_and_exclude_all_others(tmp_path: Path) -> None:
    first = lock_folder(tmp_path, shared_by="the workers of a")
    second = lock_folder(tmp_path, shared_by="the workers of a")
    os.close(first)
    for shared_by in (None, "the workers of b"):
        with pytest.raises(BadUse, match="the workers of a on"):
            lock_folder(tmp_path, shared_by=shared_by)
    third = lock_folder(tmp_path, shared_by="the workers of a")
    os.close(second)
    os.close(third)
    os.close(lock_folder(tmp_path, shared_by="the workers of b"))
    alone = lock_folder(tmp_path)
    with pytest.raises(BadUse):
        lock_folder(tmp_path, shared_by="the workers of a")
    os.close(alone)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_file_and_its_spare_exchange_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(folders, "_renameat2", lambda: None)
    path = tmp_path / "a.json"
    for content in (b"the first one", b"second", b"the third", b"4"):
        replace_files({path: content}, keeps_spares=True)
        assert path.read_bytes() == content
    if can_exchange:
        assert spare_of(path).read_bytes() == b"the third"
        inodes = {path.stat().st_ino, spare_of(path).stat().st_ino}
        replace_files({path: b"fifth"}, keeps_spares=True)
        assert {path.stat().st_ino, spare_of(path).stat().st_ino} == inodes
    replace_files({path: b"last"})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("other", ["a.json", "b"])
def test_a_spare_that_is_another_name_of_a_file_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    path, linked = tmp_path / "a.json", tmp_path / other
    linked.write_bytes(b"old")
    os.link(linked, spare_of(path))  # as a rename that a power cut has torn may leave it
    seen = []

    def before_rename(spare: Path, path: Path) -> bool:
        seen.append(linked.read_bytes())
        return False

    monkeypatch.setattr(folders, "exchange_names", before_rename)
    replace_files({path: b"new"}, keeps_spares=True)
    assert (seen, path.read_bytes()) == ([b"old"], b"new")
