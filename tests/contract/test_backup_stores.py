"""What every store of a backup repository does: the port mirrorlog.ports.backup_stores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import pytest
from s3_server import options, s3_server

from mirrorlog.adapters.backup_bucket import BucketBackups, open_backup_bucket
from mirrorlog.adapters.backup_folder import FolderBackups
from mirrorlog.errors import BadUse, RepositoryFailed
from mirrorlog.ports.backup_stores import BackupStore, RepositoryInUse
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_backups import MemoryBackups


def _bucket(folder: Path) -> BackupStore:
    """The adapter on the memory of its own client; `server` below is a real server."""
    pytest.importorskip("obstore")
    from obstore.store import MemoryStore

    return BucketBackups(MemoryStore(), "s3://bucket")


_STORES: dict[str, Callable[[Path], BackupStore]] = {
    "memory": lambda folder: MemoryBackups(),
    "folder": lambda folder: FolderBackups(folder / "repository"),
    "bucket": _bucket,
}


@pytest.fixture(params=[*sorted(_STORES), pytest.param("server", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BackupStore]:
    if request.param != "server":
        yield _STORES[request.param](tmp_path)
        return
    pytest.importorskip("obstore")
    with s3_server(tmp_path / "s3") as port:
        yield open_backup_bucket("s3://bucket/some/prefix", options(port))


def _file(store: BackupStore, folder: Path, content: bytes) -> Path:
    path = folder / f"file{len(list(folder.iterdir()))}"
    path.write_bytes(content)
    return path


def test_an_object_is_created_once_and_stays_as_it_was(store: BackupStore) -> None:
    assert store.create("a/b/c.json", b"first")
    assert not store.create("a/b/c.json", b"second")
    assert store.read("a/b/c.json") == b"first"
    assert store.size_bytes("a/b/c.json") == 5


def test_what_is_not_there_is_none(store: BackupStore, tmp_path: Path) -> None:
    assert store.read("a/none") is None
    assert store.read_range("a/none", offset=0, length=3) is None
    assert store.size_bytes("a/none") is None
    assert not store.download("a/none", tmp_path / "target")
    assert list(store.names("a/")) == []
    store.delete("a/none")


def test_names_are_those_below_a_part_in_order(store: BackupStore) -> None:
    for name in ("v/p1/10", "v/p1/9", "v/p10/1", "v/p1/%2E/x", "n/p1/1"):
        store.create(name, b"x")
    assert list(store.names("v/p1/")) == ["v/p1/%2E/x", "v/p1/10", "v/p1/9"]
    assert list(store.names("v/")) == ["v/p1/%2E/x", "v/p1/10", "v/p1/9", "v/p10/1"]


def test_a_file_becomes_an_object_once_and_is_replaced_whole(store: BackupStore) -> None:
    large = bytes(range(256)) * (1 << 16)  # of several parts in S3
    store.create("header", b"x")
    with store.work_folder() as folder:
        assert store.upload("v/image", _file(store, folder, large))
        assert not store.upload("v/image", _file(store, folder, b"second"))
        assert store.read("v/image") == large
        store.replace("v/image", _file(store, folder, b"third"))
        store.replace("v/new", _file(store, folder, b""))
    assert store.read("v/image") == b"third"
    assert store.read("v/new") == b""
    assert list(store.names("v/")) == ["v/image", "v/new"]
    assert not folder.exists()


def test_ranges_end_at_the_object_s_end(store: BackupStore) -> None:
    store.create("v/image", b"0123456789")
    assert store.read_range("v/image", offset=0, length=4) == b"0123"
    assert store.read_range("v/image", offset=8, length=4) == b"89"
    assert store.read_range("v/image", offset=10, length=4) == b""


def test_downloads_and_local_paths_have_the_content(store: BackupStore, tmp_path: Path) -> None:
    store.create("v/image", b"content" * 1000)
    assert store.download("v/image", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"content" * 1000
    path = store.local_path("v/image")
    assert path is None or path.read_bytes() == b"content" * 1000


def test_what_was_deleted_is_gone(store: BackupStore) -> None:
    store.create("v/image", b"x")
    store.create("v/other", b"y")
    store.delete("v/image")
    assert store.read("v/image") is None
    assert list(store.names("v/")) == ["v/other"]


def test_of_many_creators_of_one_name_one_wins(store: BackupStore) -> None:
    contents = [bytes([number]) * 1000 for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        created = list(pool.map(lambda content: store.create("x/raced", content), contents))
    assert created.count(True) == 1
    assert store.read("x/raced") == contents[created.index(True)]


def test_a_second_writer_is_refused_until_the_first_has_ended(store: BackupStore) -> None:
    for _ in range(3):
        lock = store.lock("backup of vol1")
        lock.check()
        with pytest.raises(
            RepositoryInUse, match=r"another process writes to the repository: .*process \d+ on"
        ):
            store.lock("prune")
        lock.release()
        lock.release()


def test_a_killed_writer_s_lease_ends_and_its_holder_notices() -> None:
    clock = ManualClock(now_s=1e9)
    store = MemoryBackups(clock, lease_s=60.0)
    killed = store.lock("backup of vol1")
    clock.now_s += 59
    with pytest.raises(BadUse, match=r"backup of vol1, process .*its lock ends at 2001-09-09"):
        store.lock("prune")
    with pytest.raises(RepositoryFailed, match="run out"):
        killed.check()
    clock.now_s += 2
    store.lock("prune").check()


def test_a_renewed_lease_lasts_and_no_object_of_it_is_replaced() -> None:
    clock = ManualClock(now_s=1e9)
    store = MemoryBackups(clock, lease_s=60.0)
    lock = store.lock("backup of vol1")
    for _ in range(5):
        clock.now_s += 50
        lock.renew()
    clock.now_s += 50
    lock.check()
    with pytest.raises(BadUse, match="another process"):
        store.lock("prune")
    lock.release()
    store.lock("prune").release()
    assert sorted(store.objects) == ["locks/0000000002.json", "locks/0000000002.released.json"]


@pytest.mark.parametrize("operation", ["upload", "upload again", "replace"])
def test_a_file_of_another_file_system_leaves_no_copy(operation: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        folders = [
            Path(stack.enter_context(TemporaryDirectory(dir=parent)))
            for parent in ("/dev/shm", gettempdir())
            if os.access(parent, os.W_OK)
        ]
        device = tmp_path.stat().st_dev
        others = [folder for folder in folders if folder.stat().st_dev != device]
        if not others:
            pytest.skip("all folders are in one file system")
        store, source = FolderBackups(tmp_path / "repository"), others[0] / "file"
        store.create("header", b"")
        source.write_bytes(b"content")
        if operation == "upload again":
            store.create("a/b", b"content")
        if operation == "replace":
            store.replace("a/b", source)
        else:
            assert store.upload("a/b", source) is (operation == "upload")
        assert store.read("a/b") == b"content"
        assert list((tmp_path / "repository" / ".unfinished").iterdir()) == []
