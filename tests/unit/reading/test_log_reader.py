"""Which rows of the changelog count for a reader, and when."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import UUID

import pytest
from notation import GENERATION, record

from mirrorlog.codec.events import encode
from mirrorlog.domain.histories import History
from mirrorlog.errors import BadInput, WrongCluster
from mirrorlog.ports.streams import Message
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryReader
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.heads import SessionBeat, VolumeHead, Watermark
from mirrorlog.tracking_log.keys import (
    beat_key,
    head_key,
    position_time_key,
    record_key,
    watermark_key,
)

TOPIC = Topics().changelog


class BusyReader(MemoryReader):
    """Returns one message a poll. `before` is called before each poll."""

    def __init__(self, broker: MemoryBroker, before: Callable[[], object]) -> None:
        super().__init__(broker)
        self.before = before

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
        self.before()
        return super().poll(timeout_s, max_messages=1)


class World:
    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.broker.create(Topics().specs(single_copy=True), 1)
        self.flushed = -1

    def put(self, text: str) -> None:
        """Append rows to the log: `4..9` is a record, `W9` a watermark, `H9` a head, `B9` a beat.

        `W9e2` is a watermark of epoch 2. Each epoch has a generation of its own.
        """
        text, _, epoch_text = text.partition("e")
        epoch, number = int(epoch_text or 0), text[1:]
        generation = str(UUID(int=epoch)) if epoch else GENERATION
        if text.startswith("W"):
            history = History(cluster=None, topic=None, epoch=epoch, id=generation)
            watermark = Watermark(
                partition=0, through=int(number), at_us=0, history=history if epoch else None
            )
            self.broker.append(TOPIC, 0, watermark_key(0), encode(watermark))
        elif text.startswith("H"):
            head = VolumeHead("v", generation, through=int(number), epoch=epoch)
            self.broker.append(TOPIC, 0, head_key("v"), encode(head))
        elif text.startswith("B"):
            beat = SessionBeat(
                session="s",
                host="h",
                position=int(number) + 1,
                acknowledged_position=int(number),
                at_us=0,
                epoch=epoch,
            )
            self.broker.append(TOPIC, 0, beat_key("s"), encode(beat))
        else:
            log_record = replace(record(text, "1"), generation=generation)
            self.broker.append(TOPIC, 0, record_key(log_record), encode(log_record))

    def flush(self) -> None:
        self.put(f"{self.flushed}..{self.flushed + 1}")
        self.flushed += 1
        self.put(f"W{self.flushed}")

    def reader(self, before: Callable[[], object] = lambda: None) -> LogReader:
        return LogReader(BusyReader(self.broker, before), self.broker, TOPIC)


def test_heads_that_no_watermark_follows_dont_count() -> None:
    world = World()
    for text in ("-1..4", "H4", "W4", "4..9", "H9"):
        world.put(text)
    log = world.reader()
    for _ in range(5):
        log.poll(0)
    assert log.caught_up()
    head = log.logs["v"].head
    assert head is not None
    assert (log.watermarks[0].through, head.through) == (4, 4)


def test_a_roll_up_written_twice_leaves_no_hole_once_its_first_copy_is_compacted_away() -> None:
    world = World()
    for text in ("-1..4", "4..9", "-1..9", "W9"):
        world.put(text)
    for text in ("-1..4", "4..9"):
        world.broker.append(TOPIC, 0, record_key(record(text)), None)
    for text in ("W9", "-1..9"):  # another worker's copy, before its watermark
        world.put(text)
    world.broker.compact(TOPIC, 0)
    log = LogReader(world.broker.reader(), world.broker, TOPIC)
    log.poll(0)
    assert log.logs["v"].hole(after=-1, through=9) is None


def test_nothing_counts_before_the_end_was_reached() -> None:
    world = World()
    for _ in range(4):
        world.flush()
    log = world.reader()
    for _ in range(7):
        assert log.poll(0) == set()
        assert not log.caught_up()
    log.poll(0)
    assert log.caught_up()
    assert log.watermarks[0].through == 3


def test_a_reader_that_never_meets_the_end_gets_on_all_the_same() -> None:
    world = World()
    polls = iter(range(10**6))
    log = world.reader(lambda: world.flush() if next(polls) % 2 == 0 else None)
    for _ in range(200):
        log.poll(0)
    assert log.caught_up()
    assert log.watermarks[0].through >= 60
    assert log.logs["v"].hole(after=-1, through=log.watermarks[0].through) is None


def test_what_was_compacted_away_before_a_reader_came_counts_by_what_took_its_place() -> None:
    """The reader never meets the end. A record and its head are gone, their watermark isn't yet."""
    world = World()
    for text in ("-1..4", "H4", "W4", "W9", *["B3"] * 30):
        world.put(text)
    rolled_up = replace(record("-1..9", "1 7"), tier=1)
    world.broker.append(TOPIC, 0, record_key(rolled_up), encode(rolled_up))
    world.put("W9")
    world.broker.append(TOPIC, 0, record_key(record("4..9", "7")), None)
    for text in ("9..12", "H12", "W12"):
        world.put(text)
    world.flushed = 12
    log = world.reader(world.flush)
    while not log.watermarks:
        log.poll(0)
    assert log.watermarks[0].through == 9
    assert set(log.logs["v"].changed(after=4, through=9)) == {1, 7}
    assert log.logs["v"].is_ahead, "nobody knows the head as of the watermark"


def test_what_the_log_drops_goes_only_where_the_reader_says_so() -> None:
    world = World()
    for text in ("-1..4", "4..9", "W9"):
        world.put(text)
    for text in ("-1..4", "4..9"):
        world.broker.append(TOPIC, 0, record_key(record(text)), None)
    kept, dropped = (
        LogReader(world.broker.reader(), world.broker, TOPIC, forget_deleted=forget_deleted)
        for forget_deleted in (False, True)
    )
    for log in (kept, dropped):
        log.poll(0)
    assert [
        [g[0].through for g in log.logs["v"].complete_records()] for log in (kept, dropped)
    ] == [
        [4, 9],
        [],
    ]


def test_a_watermark_of_a_worker_that_lost_the_partition_takes_nothing_back() -> None:
    world = World()
    for text in ("-1..9", "W9", "W4"):
        world.put(text)
    log = world.reader()
    for _ in range(3):
        log.poll(0)
    world.put("W5")
    log.poll(0)
    assert log.watermarks[0].through == 9


def test_heads_and_beats_of_a_flush_that_broke_off_wait_for_its_watermark() -> None:
    """Before it, the worker that continues writes the watermark of the flush before."""
    world = World()
    for text in ("-1..4", "H4", "B3", "W4", "4..9", "H9", "B8", "W4"):
        world.put(text)
    log = LogReader(world.broker.reader(), world.broker, TOPIC)
    log.poll(0)
    head = log.logs["v"].head
    assert head is not None
    assert (log.watermarks[0].through, head.through, log.beats[0]) == (4, 4, {"s": 3})
    world.put("W9")
    log.poll(0)
    head = log.logs["v"].head
    assert head is not None
    assert (log.watermarks[0].through, head.through, log.beats[0]) == (9, 9, {"s": 8})


def test_rows_that_arent_for_this_reader_are_passed_over_and_damaged_ones_are_loud(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.broker.append(
        TOPIC,
        0,
        position_time_key(0, at_us=5_000_000),
        encode(Watermark(partition=0, through=1, at_us=5_000_000)),
    )
    for key in (b"\x01?new", b"\x01?other", b"\x07r"):
        world.broker.append(TOPIC, 0, key, b"what a newer node writes")
    world.put("-1..4")
    world.broker.append(TOPIC, 0, record_key(record("4..9")), b"junk")
    world.put("W9")
    log = world.reader()
    with caplog.at_level(logging.WARNING):
        for _ in range(8):
            log.poll(0)
    assert [g[0].through for g in log.logs["v"].complete_records()] == [4]
    assert caplog.text.count("a newer node writes it") == 2
    assert "a log record is damaged" in caplog.text
    world.broker.append(TOPIC, 0, watermark_key(0), b"junk")
    with pytest.raises(BadInput):
        log.poll(0)


# Rows in the order of the changelog, `;` where the reader looks | watermark, ends of the records
# that count, end of the head, heartbeat.
HISTORIES = """
-1..4 H4 B3 W4                                   | 4 4 4 3
-1..9 H9 B8 W9 ; H-1e2 W-1e2                     | -1 - -1 -
-1..9 H9 B8 W9 H-1e2 W-1e2                       | -1 - -1 -
-1..9 H9 W9 ; H-1e2 W-1e2 ; -1..3e2 H3e2 B2e2 W3e2 | 3 3 3 2
-1..9 H9 W9 H-1e2 W-1e2 -1..3e2 H3e2 B2e2 W3e2   | 3 3 3 2
H-1e2 W-1e2 -1..3e2 H3e2 B2e2 W3e2 ; 9..12 H12 B11 W12 | 3 3 3 2
H-1e2 W-1e2 -1..3e2 H3e2 B2e2 W3e2 9..12 H12 B11 W12 | 3 3 3 2
-1..9 H9 W9 H4e2 W10 ; W4e2                      | 4 - 4 -
-1..9 H9 W9 ; H4e2 ; W10 ; W4e2                  | 4 - 4 -
-1..9 H9 W9 ; -1..3e2 H3e2 B2e2 W3e2             | 3 3 3 2
"""


@pytest.mark.parametrize("case", HISTORIES.strip().splitlines())
def test_what_belongs_to_an_earlier_history_never_counts_again(case: str) -> None:
    rows, expected = (part.strip() for part in case.split("|"))
    world = World()
    log = LogReader(world.broker.reader(), world.broker, TOPIC)
    for looks in rows.split(";"):
        for text in looks.split():
            world.put(text)
        log.poll(0)
    ends = [record[0].through for record in log.logs["v"].complete_records()]
    head = log.logs["v"].head
    counted = (
        log.watermarks[0].through,
        ",".join(map(str, ends)) or "-",
        head.through if head else "-",
        log.beats[0].get("s", "-"),
    )
    assert " ".join(map(str, counted)) == expected


def test_the_log_of_a_mirror_on_another_cluster_is_refused() -> None:
    mirror = MemoryBroker(cluster_id="mirror")
    mirror.create(Topics().specs(single_copy=True), 1)
    history = History(cluster="source", topic="t", epoch=1, id=GENERATION)
    watermark = Watermark(partition=0, through=4, at_us=1, history=history)
    mirror.append(TOPIC, 0, watermark_key(0), encode(watermark))
    reader = LogReader(mirror.reader(), mirror, TOPIC)
    with pytest.raises(WrongCluster, match="the positions are those of cluster source"):
        reader.poll(0)
    assert not reader.watermarks


def test_a_partition_that_is_left_is_forgotten_and_can_be_read_again() -> None:
    world = World()
    for text in ("-1..4", "H4", "B4", "W4", "4..9", "H9"):
        world.put(text)
    log = LogReader(world.broker.reader(), world.broker, TOPIC)
    log.poll(0)
    assert log.logs["v"].head is not None
    log.leave_partition(0)
    log.leave_partition(0)  # it isn't read any more
    assert not log.logs and not log.watermarks and not log.beats
    assert log.caught_up()
    world.put("W9")
    assert log.poll(0) == set()
    log.follow_partition(0)
    assert not log.caught_up()
    assert log.poll(0) == {"v"}
    assert log.watermarks[0].through == 9
    assert log.logs["v"].hole(after=-1, through=9) is None
