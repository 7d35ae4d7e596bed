"""Who may lock a folder together, and who is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mirrorlog.adapters.folders import lock_folder
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
