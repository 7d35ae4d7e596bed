"""The local store: RocksDB and the simulation's store give the same rows in the same order."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import faust
import pytest

from mirrorlog.codec.events import encode
from mirrorlog.simulation.memory_engine import MemoryStore
from mirrorlog.streams.engine import WorkerStore
from mirrorlog.streams.faust_worker.faust_store import FaustStore
from mirrorlog.streams.table.acknowledged_end import AcknowledgedEnd
from mirrorlog.streams.table.local_store import LocalStore
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import head_key, watermark_key


def in_rocksdb(folder: Path) -> FaustStore:
    app = faust.App("contract", store="rocksdb://", datadir=folder, autodiscover=False)
    return FaustStore(app, "changelog", {"block_cache_size": 1 << 20})


stores = pytest.mark.parametrize(
    "make", [in_rocksdb, lambda _: MemoryStore()], ids=["rocksdb", "memory"]
)


def after_kill(store: WorkerStore, folder: Path) -> WorkerStore:
    """Return the store of a worker that is started again after it was killed now."""
    if isinstance(store, MemoryStore):
        store.lose_write_buffer(0)
        return store
    killed = folder.with_name(f"{folder.name}, killed")
    shutil.copytree(folder, killed)
    return in_rocksdb(killed)


def after_stop(store: WorkerStore, folder: Path) -> WorkerStore:
    """Return the store of a worker that is started again after it was stopped in order now."""
    if isinstance(store, FaustStore):
        asyncio.run(store.table.data.stop())
        return in_rocksdb(folder)
    return store


def watermark(through: int) -> bytes:
    return encode(Watermark(partition=0, through=through, at_us=0))


@stores
def test_rows_by_key(make: Callable[[Path], LocalStore], tmp_path: Path) -> None:
    store = make(tmp_path)
    names = [
        b"\x01a",
        b"\x01r",
        b"\x01rv\x00\x00",
        b"\x01rv\x00\x01",
        b"\x01rv\x01",
        b"\x01rw",
        b"\x01s",
    ]
    store.write(0, [(name, name * 2) for name in reversed(names)], list(range(len(names))))
    store.write(0, [(names[3], None), (names[5], b"new"), (b"missing", None)], [10, 11, 12])
    there = [name for name in names if name != names[3]]
    assert [store.get(0, name) for name in (names[0], names[3], names[5])] == [
        names[0] * 2,
        None,
        b"new",
    ]
    assert store.keys(0, b"", b"\xff", 3) == there[:3]
    assert store.keys(0, b"\x01r", b"\x01r\xff") == there[1:5]
    assert store.keys(0, names[2], names[5]) == there[2:4]
    assert store.keys(0, names[2] + b"\0", names[5], 1) == [names[4]]
    assert store.keys(0, b"\x01x", b"\x01y") == []


def test_rows_that_rocksdb_gathered_in_memory_go_to_a_file(tmp_path: Path) -> None:
    store = in_rocksdb(tmp_path)
    store.write(0, [(b"%d" % number, bytes(1 << 20)) for number in range(4)], range(4))
    table = store.table.data._db_for_partition(0)
    assert table.property_int_value("rocksdb.cur-size-all-mem-tables") > 4 << 20
    store.empty_write_buffer(0, wait=True)
    assert table.property_int_value("rocksdb.cur-size-all-mem-tables") < 1 << 20
    assert table.property_int_value("rocksdb.total-sst-files-size") > 0
    assert (store.changelog_position(0), store.get(0, b"3")) == (3, bytes(1 << 20))


HEAD, MARK = head_key("v"), watermark_key(0)


@stores
def test_a_worker_that_is_killed_loses_the_newest_rows_and_knows_where_they_ended(
    make: Callable[[Path], WorkerStore], tmp_path: Path
) -> None:
    folder = tmp_path / "node"
    store = make(folder)
    store.reset(0, "the changelog")
    store.write(0, [(b"\x01a", b"1"), (HEAD, b"old"), (MARK, watermark(4))], [5, 6, 7])
    store.empty_write_buffer(0, wait=True)
    store.write(0, [(b"\x01a", b"2"), (HEAD, b"new"), (MARK, watermark(9))], [8, 9, 10])
    store.write(0, [(b"\x01b", b"3")], [11])
    killed = after_kill(store, folder)
    assert (killed.changelog_position(0), killed.changelog_identity(0)) == (7, "the changelog")
    names = [b"\x01a", b"\x01b", HEAD, MARK]
    assert [killed.get(0, name) for name in names] == [b"1", None, b"old", watermark(4)]
    end = AcknowledgedEnd(position=11, watermark_position=10)
    assert (killed.acknowledged_end(0), killed.acknowledged_watermark(0)) == (end, watermark(9))

    # What it reads again doesn't take the place of what it knows.
    killed.write(0, [(b"\x01a", b"other"), (HEAD, b"other"), (MARK, watermark(5))], [8, 9, 10])
    assert (killed.acknowledged_end(0), killed.acknowledged_watermark(0)) == (end, watermark(9))
    killed.reset(0, "another changelog")
    assert killed.discarded(0) == {HEAD: b"new", MARK: watermark(9)}
    assert (killed.acknowledged_end(0), killed.acknowledged_watermark(0)) == (None, None)
    again = after_kill(killed, folder.with_name(f"{folder.name}, killed"))
    assert again.discarded(0) == {HEAD: b"new", MARK: watermark(9)}
    assert again.changelog_identity(0) == "another changelog"


@stores
def test_a_worker_that_stops_in_order_loses_nothing(
    make: Callable[[Path], WorkerStore], tmp_path: Path
) -> None:
    store = make(tmp_path)
    store.write(0, [(HEAD, b"head"), (MARK, watermark(9))], [8, 9])
    store.write(0, [(HEAD, None), (b"\x01a", b"1")], [10, 11])
    again = after_stop(store, tmp_path)
    assert (again.changelog_position(0), again.get(0, b"\x01a")) == (11, b"1")
    assert again.acknowledged_end(0) == AcknowledgedEnd(position=11, watermark_position=9)
    again.reset(0, "another changelog")
    assert again.discarded(0) == {MARK: watermark(9)}
