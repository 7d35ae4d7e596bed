"""The local store: RocksDB and the simulation's store give the same rows in the same order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import faust
import pytest

from mirrorlog.simulation.memory_engine import MemoryStore
from mirrorlog.streams.faust_worker.faust_store import FaustStore
from mirrorlog.streams.table.local_store import LocalStore


def in_rocksdb(folder: Path) -> FaustStore:
    app = faust.App("contract", store="rocksdb://", datadir=folder, autodiscover=False)
    return FaustStore(app, "changelog", {"block_cache_size": 1 << 20})


@pytest.mark.parametrize("make", [in_rocksdb, lambda _: MemoryStore()], ids=["rocksdb", "memory"])
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
    store.empty_write_buffer(0)
    assert table.property_int_value("rocksdb.cur-size-all-mem-tables") < 1 << 20
    assert table.property_int_value("rocksdb.total-sst-files-size") > 0
    assert (store.changelog_position(0), store.get(0, b"3")) == (3, bytes(1 << 20))
