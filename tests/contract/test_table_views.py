"""Views of a partition's table, and a volume's log read through them. One suite runs over rows in
memory and over RocksDB."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faust
import pytest
from deadlines import DEADLINE_S
from http_world import MemoryView
from notation import GENERATION, record, volume

from mirrorlog.codec.events import encode
from mirrorlog.errors import KafkaFailed, NodeUnavailable, OutOfRetention
from mirrorlog.ports.clock import SystemClock
from mirrorlog.streams.faust_worker.faust_store import FaustStore
from mirrorlog.streams.table.local_store import Row, TableView
from mirrorlog.streams.web.table_logs import TableLogSource
from mirrorlog.tracking_log.heads import VolumeHead, Watermark
from mirrorlog.tracking_log.keys import head_key, record_key, record_prefix, watermark_key


class MemoryTable:
    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.lock = threading.Lock()

    def write(self, rows: Sequence[Row]) -> None:
        with self.lock:
            for key, value in rows:
                self.rows.pop(key, None)
                if value is not None:
                    self.rows[key] = value

    def view(self) -> TableView:
        with self.lock:
            return MemoryView(self.rows)


class RocksTable:
    """The node's own store, with an app that isn't started."""

    def __init__(self, folder: Path) -> None:
        app = faust.App(
            "t", store="rocksdb://", datadir=folder, autodiscover=False, web_enabled=False
        )
        self.store = FaustStore(app, "log", {})
        self.positions = 0

    def write(self, rows: Sequence[Row]) -> None:
        self.positions += len(rows)
        self.store.write(0, rows, range(self.positions - len(rows), self.positions))

    def view(self) -> TableView:
        return self.store.open_view(0)


@pytest.fixture(params=["memory", "rocksdb"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return MemoryTable() if request.param == "memory" else RocksTable(tmp_path)


def rows(*texts: str, head: int, watermark: int, blocks: str = "1") -> list[Row]:
    records = [record(text, blocks) for text in texts]
    return [
        *((record_key(log_record), encode(log_record)) for log_record in records),
        (head_key("v"), encode(VolumeHead("v", volume().generation, through=head))),
        (watermark_key(0), encode(Watermark(partition=0, through=watermark, at_us=0))),
    ]


def logs(table: Any, checkpoint: Callable[[], None] = lambda: None) -> TableLogSource:
    return TableLogSource(lambda _: table.view(), SystemClock(), checkpoint, lambda _: None)


def test_a_view_shows_the_rows_of_its_prefix_in_order_and_no_other(table: Any) -> None:
    table.write(
        [
            (record_prefix("v") + b"2", b"b"),
            (record_prefix("v") + b"1", b"a"),
            (head_key("v"), b"h"),
        ]
    )
    table.write(
        [
            (record_prefix("v1") + b"1", b"x"),
            (record_prefix("u") + b"1", b"y"),
            (record_prefix("v")[:-1], b"z"),
        ]
    )
    view = table.view()
    assert [value for _, value in view.scan(record_prefix("v"))] == [b"a", b"b"]
    assert (view.get(head_key("v")), view.get(head_key("w")), view.get(b"zzz")) == (
        b"h",
        None,
        None,
    )
    assert list(view.scan(b"zzz")) == []
    assert view.first_from(record_prefix("v")) == (record_prefix("v") + b"1", b"a")
    assert view.first_from(record_prefix("v") + b"1\0") == (record_prefix("v") + b"2", b"b")
    assert view.first_from(b"zzz") is None
    assert (view.has(head_key("v")), view.has(head_key("w")), view.has(b"zzz")) == (
        True,
        False,
        False,
    )
    view.close()


def test_a_view_does_not_show_what_is_written_later(table: Any) -> None:
    table.write([(b"a", b"1"), (b"b", b"1")])
    view = table.view()
    table.write([(b"a", b"2"), (b"b", None), (b"c", b"2")])
    assert view.get(b"a") == b"1"
    assert list(view.scan(b""))[-2:] == [(b"a", b"1"), (b"b", b"1")]
    assert (view.get(b"b"), view.get(b"c")) == (b"1", None)
    view.close()


def test_a_view_shows_whole_batches_while_another_thread_writes(table: Any) -> None:
    def batch(number: int) -> list[Row]:
        return [(b"%02d" % key, b"%d" % number) for key in range(20)]

    table.write(batch(0))
    seen: list[set[bytes | None]] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            view = table.view()
            seen.append(
                {
                    view.get(b"19"),
                    *(value for key, value in view.scan(b"") if len(key) == 2),
                    view.get(b"00"),
                }
            )
            view.close()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=look)
    try:
        thread.start()
        number, until = 1, time.monotonic() + DEADLINE_S
        while number < 3000 or (len(seen) <= 10 and time.monotonic() < until):
            table.write(batch(number))
            number += 1
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(before)
    assert len(seen) > 10
    assert [values for values in seen if len(values) != 1] == []


@pytest.mark.parametrize("rolled_at", range(1, 6))
def test_a_roll_up_at_any_step_of_a_reading_leaves_no_hole_and_no_part(
    table: Any, rolled_at: int
) -> None:
    parts = ["-1..1", "1..3", "3..5"]
    for number, text in enumerate(parts):
        table.write(rows(text, head=5, watermark=5, blocks=str(number + 1)))
    steps = 0

    def roll_up() -> None:
        nonlocal steps
        steps += 1
        if steps == rolled_at:
            coarse = record("-1..5", "1-3")
            table.write([(record_key(coarse), encode(coarse))])
            table.write([(record_key(record(text)), None) for text in parts])

    view = logs(table, roll_up).read(volume(), 5, 0)
    while steps < 5:
        roll_up()
    assert view.log.hole(after=-1, through=view.complete_through) is None
    parts_read = [part for group in view.log.complete_records() for part in view.parts(group)]
    assert {block for part in parts_read for block in part.changed} == {1, 2, 3}
    view.close()


def test_a_log_is_read_only_once_it_is_complete(table: Any) -> None:
    table.write(rows("-1..3", head=3, watermark=3))
    with pytest.raises(KafkaFailed, match="isn't complete through position 4"):
        logs(table).read(volume(), 4, 0)
    looks = 0

    def checkpoint() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            table.write(rows("3..7", head=7, watermark=7))

    view = logs(table, checkpoint).read(volume(), 4, 5)
    assert (view.complete_through, [group[0].through for group in view.log.complete_records()]) == (
        7,
        [3, 7],
    )
    view.close()


def test_a_log_of_another_history_is_complete_through_nothing(table: Any) -> None:
    table.write(rows("-1..3", head=3, watermark=3))
    renewed = volume(epoch=2, history_id=GENERATION)
    with pytest.raises(KafkaFailed, match="isn't complete through position 2"):
        logs(table).read(renewed, 2, 0)


def test_a_damaged_record_is_a_hole(table: Any) -> None:
    table.write(rows("-1..1", "1..3", "3..5", head=5, watermark=5))
    key = record_key(record("1..3"))
    table.write([(key, encode(record("1..3"))[:-30])])
    view = logs(table).read(volume(), 5, 0)
    hole = view.log.hole(after=-1, through=5)
    assert hole is not None
    assert (hole.after, hole.through) == (1, 3)
    view.close()


def test_damaged_bitmaps_are_found_when_the_record_is_used(table: Any) -> None:
    table.write(rows("-1..1", "1..3", "3..5", head=5, watermark=5, blocks="1 7 9"))
    content = encode(record("1..3", "1 7 9"))
    (at,) = (n for n in range(len(content)) if content.startswith(bytes([7, 0, 9, 0]), n))
    table.write([(record_key(record("1..3")), content[:at] + b"\x08" + content[at + 1 :])])
    view = logs(table).read(volume(), 5, 0)
    good, damaged, last = view.log.complete_records()
    assert [list(part.changed) for part in (*view.parts(good), *view.parts(last))] == [
        [1, 7, 9]
    ] * 2
    with pytest.raises(OutOfRetention, match="fails its checksum"):
        view.parts(damaged)
    view.close()


def test_of_a_large_record_two_parts_are_read_until_it_is_used(table: Any) -> None:
    parts = [record(f"-1..3/{number}of40", f"{number}") for number in range(40)]
    table.write([(record_key(part), encode(part)) for part in parts])
    table.write(rows("3..5", head=5, watermark=5))
    view = logs(table).read(volume(), 5, 0)
    first, _ = view.log.complete_records()
    blocks = [block for part in view.parts(first) for block in part.changed]
    assert (len(first), blocks) == (1, list(range(40)))
    view.close()
    for missing in (0, 39):
        table.write([(record_key(parts[missing]), None)])
        view = logs(table).read(volume(), 5, 0)
        assert view.log.hole(after=-1, through=5) is not None
        view.close()
        table.write([(record_key(parts[missing]), encode(parts[missing]))])
    table.write([(record_key(parts[7]), None)])
    view = logs(table).read(volume(), 5, 0)
    first, _ = view.log.complete_records()
    with pytest.raises(OutOfRetention, match="part 7 of the record"):
        view.parts(first)
    view.close()


def test_a_view_never_opens_a_table_and_releases_it_when_it_is_closed(tmp_path: Path) -> None:
    table = RocksTable(tmp_path)
    with pytest.raises(NodeUnavailable):
        table.view()
    table.write([(b"a", b"1")])
    view = table.view()
    store: Any = table.store.table.data
    store._dbs.clear()  # as Faust does when it loses the partition
    with pytest.raises(Exception, match="lock"):
        store._db_for_partition(0)
    view.close()
    assert store._db_for_partition(0).get(b"a") == b"1"
