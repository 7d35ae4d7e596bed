"""Both places of journals keep what the port says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from mirrorlog.consumers.journal.journal_folder import JournalFolder
from mirrorlog.consumers.journal.journal_store import JournalFullError, JournalStore
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.simulation.memory_journals import MemoryJournals


class JournalRig(Protocol):
    @property
    def store(self) -> JournalStore: ...

    def reopened(self) -> JournalStore: ...
    def fill(self, monkeypatch: pytest.MonkeyPatch) -> None: ...


class FolderRig:
    def __init__(self, folder: Path) -> None:
        self._folder = folder / "a" / "b"
        self.store = JournalFolder(self._folder)

    def reopened(self) -> JournalStore:
        self.store.close()
        self.store = JournalFolder(self._folder)
        return self.store

    def fill(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "pwrite", refuse)


class MemoryJournalRig:
    def __init__(self) -> None:
        self.store = MemoryJournals()

    def reopened(self) -> JournalStore:
        self.store.crash()
        return self.store

    def fill(self, monkeypatch: pytest.MonkeyPatch) -> None:
        del monkeypatch
        self.store.max_bytes = 0


@pytest.fixture(params=["folder", "memory"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JournalRig]:
    made: FolderRig | MemoryJournalRig = (
        FolderRig(tmp_path) if request.param == "folder" else MemoryJournalRig()
    )
    yield made
    if isinstance(made, FolderRig):
        made.store.close()


def test_what_was_synced_is_there_again(rig: JournalRig) -> None:
    assert (rig.store.volumes(), rig.store.open("v")) == ([], None)
    for volume in ("w", "v"):
        file = rig.store.create(volume)
        file.pwrite(4, b"efgh")
        file.pwrite(0, b"abcd")
        file.sync()
        file.close()
        file.close()
    again = rig.reopened().open("v")
    assert again is not None
    assert again.pread(offset=2, length=4) == b"cdef"
    assert again.pread(offset=6, length=100) == b"gh"
    assert again.pread(offset=8, length=1) == b""
    assert rig.store.volumes() == ["v", "w"]
    again.close()


def test_a_journal_is_emptied_and_begun_again(rig: JournalRig) -> None:
    for end in (rig.store.clear, lambda volume: rig.store.create(volume).close()):
        file = rig.store.create("v")
        file.pwrite(0, b"abcd")
        file.close()
        end("v")
        assert rig.store.volumes() == []
        file = rig.store.create("v")
        assert file.pread(offset=0, length=4) == b""
        file.close()
    rig.store.clear("unknown")


def test_a_full_disk_is_told_apart(rig: JournalRig, monkeypatch: pytest.MonkeyPatch) -> None:
    file = rig.store.create("v")
    with monkeypatch.context() as patch:
        rig.fill(patch)
        with pytest.raises(JournalFullError):
            file.pwrite(0, b"abcd")
    file.close()
    with pytest.raises((DeviceFailed, OSError)):
        file.pread(offset=0, length=1)


def test_a_commit_record_is_there_again_and_is_no_journal(rig: JournalRig) -> None:
    assert rig.store.read_commit("db") is None
    for content in (b"first", b"second"):
        rig.store.write_commit("db", content)
        assert rig.reopened().read_commit("db") == content
    assert rig.store.read_commit("d") is None
    assert rig.store.volumes() == []


def test_a_commit_record_that_isnt_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = JournalFolder(tmp_path)
    store.write_commit("db", b"first")

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(JournalFullError):
            store.write_commit("db", b"second")
    assert store.read_commit("db") == b"first"
    store.close()


@pytest.mark.parametrize("name", ["", ".v", "a/b", "../a", "a\n"])
def test_a_name_never_leads_out_of_the_place(rig: JournalRig, name: str) -> None:
    for on_group in (rig.store.read_commit, lambda group: rig.store.write_commit(group, b"")):
        with pytest.raises(BadUse):
            on_group(name)
    for call in (rig.store.create, rig.store.open, rig.store.clear):
        with pytest.raises(BadUse):
            call(name)


def test_one_process_has_a_folder_of_journals(tmp_path: Path) -> None:
    store = JournalFolder(tmp_path)
    with pytest.raises(BadUse):
        JournalFolder(tmp_path)
    store.close()
    JournalFolder(tmp_path).close()


def test_a_disk_that_fails_stops_the_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = JournalFolder(tmp_path)
    file = store.create("v")

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(DeviceFailed, match="Input/output error"):
        file.sync()
    file.close()
    store.close()
