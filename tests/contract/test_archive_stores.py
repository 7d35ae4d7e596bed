"""What every store of an archive does: the port mirrorlog.ports.archive_stores."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mirrorlog.adapters.archive_bucket import BucketArchive
from mirrorlog.adapters.archive_folder import FolderArchive
from mirrorlog.ports.archive_stores import ArchiveStore
from mirrorlog.simulation.memory_archive import MemoryArchive


def _bucket(folder: Path) -> ArchiveStore:
    """The adapter on the memory of its own client: tests/integration has a real server."""
    pytest.importorskip("obstore")
    from obstore.store import MemoryStore

    return BucketArchive(MemoryStore(), "s3://bucket")


_STORES: dict[str, Callable[[Path], ArchiveStore]] = {
    "memory": lambda folder: MemoryArchive(),
    "folder": lambda folder: FolderArchive(folder / "archive"),
    "bucket": _bucket,
}


@pytest.fixture(params=sorted(_STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArchiveStore:
    return _STORES[request.param](tmp_path)


def test_an_object_is_created_once_and_stays_as_it_was(store: ArchiveStore) -> None:
    assert store.create("a/b/c.json", b"first")
    assert not store.create("a/b/c.json", b"second")
    assert store.read("a/b/c.json") == b"first"
    assert store.size_bytes("a/b/c.json") == 5


def test_what_is_not_there_is_none(store: ArchiveStore) -> None:
    assert store.read("a/none") is None
    assert store.size_bytes("a/none") is None
    assert list(store.names("a/")) == []


def test_names_are_those_below_a_part_in_order(store: ArchiveStore) -> None:
    for name in ("m/p1/10", "m/p1/9", "m/p10/1", "m/p1/%2E/x", "n/p1/1"):
        store.create(name, b"x")
    assert list(store.names("m/p1/")) == ["m/p1/%2E/x", "m/p1/10", "m/p1/9"]
    assert list(store.names("m/")) == ["m/p1/%2E/x", "m/p1/10", "m/p1/9", "m/p10/1"]


def test_empty_and_large_contents_come_back(store: ArchiveStore) -> None:
    for name, content in (("x/empty", b""), ("x/large", bytes(range(256)) * (1 << 14))):
        store.create(name, content)
        assert store.read(name) == content


def test_of_many_writers_of_one_name_one_wins(store: ArchiveStore) -> None:
    contents = [bytes([number]) * 1000 for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        created = list(pool.map(lambda content: store.create("x/raced", content), contents))
    assert created.count(True) == 1
    assert store.read("x/raced") == contents[created.index(True)]
