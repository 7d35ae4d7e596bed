"""No event makes the node send a message that its topic refuses: that would stop the node.

Each event is folded by the real fold, whose messages pass the limits of a cluster with defaults.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha256

import numpy as np
import pytest
from notation import GENERATION, command, volume
from sources import NoCompaction, NoHistories

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.commands import (
    LEFT_OUT_SESSIONS,
    CommandKind,
    CommandStatus,
    ForkOutcomes,
    Quarantined,
    StatusCode,
    TrackingCommand,
)
from mirrorlog.domain.extents import Extent, ExtentColumns
from mirrorlog.domain.volumes import MAX_RESIZES, EarlierSize, Volume
from mirrorlog.errors import ChangelogRefused
from mirrorlog.ports.streams import Message
from mirrorlog.reading.catalog import Catalog
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.fold.fold_batch import BatchFolder
from mirrorlog.streams.fold.named_sessions import MAX_OPEN_SESSIONS
from mirrorlog.streams.table.local_store import Row
from mirrorlog.streams.table.log_table import LogTable
from mirrorlog.streams.table.outgoing import Outgoing
from mirrorlog.topics import QUARANTINE_MAX_BYTES, Topics
from mirrorlog.tracking_log.heads import VolumeHead
from mirrorlog.tracking_log.keys import head_key, key_kind
from mirrorlog.tracking_log.records import MAX_HOSTS, LogRecord

TOPICS = Topics()
KAFKA_MAX_BYTES = 1_048_588
"""message.max.bytes of a broker, and so max.message.bytes of a topic, unless they are set."""
OVERHEAD_BYTES = 100
"""More than a batch of one message takes beside the key and the value."""
MIB = 1 << 20


class Node:
    """A fold of partition 0 whose broker refuses what is too large, as Kafka does."""

    def __init__(self, *volumes: Volume) -> None:
        self.broker = MemoryBroker()
        self.broker.create(TOPICS.specs(single_copy=True), 4)
        for described in volumes:
            self.broker.append(TOPICS.volumes, 0, described.volume.encode(), encode(described))
        self.rows: dict[bytes, bytes] = {}
        clock = ManualClock()
        gate = CommitGate(TOPICS.commands)
        gate.assign(0, position=0)
        catalog = Catalog(self.broker.reader(), self.broker, TOPICS, clock)
        self.folder = BatchFolder(
            LogTable(self.send, self, TOPICS, gate),  # type: ignore[arg-type]
            gate,
            catalog,
            None,  # type: ignore[arg-type]
            clock=clock,
            record_max_bytes=900_000,
            compactor=NoCompaction(),
            histories=NoHistories(),
        )
        self.position = 0

    def fold(self, *events: TrackingCommand | bytes, key: bytes = b"v") -> None:
        """Fold events in one batch."""
        values = [encode(e) if isinstance(e, TrackingCommand) else e for e in events]
        messages = [
            Message(TOPICS.commands, 0, position, key, value)
            for position, value in enumerate(values, start=self.position)
        ]
        self.position += len(messages)
        asyncio.run(self.folder.record(EventBatch.from_messages(messages)))

    def sent(self, topic: str) -> list[Message]:
        return self.broker.messages(topic)

    def statuses(self) -> list[CommandStatus]:
        return [decode(m.value or b"", CommandStatus) for m in self.sent(TOPICS.status)]

    async def send(self, messages: Sequence[Outgoing]) -> list[int]:
        for message in messages:
            is_quarantine = message.topic == TOPICS.quarantine
            limit = QUARANTINE_MAX_BYTES if is_quarantine else KAFKA_MAX_BYTES
            size_bytes = len(message.key or b"") + len(message.value or b"") + OVERHEAD_BYTES
            if size_bytes > limit:
                raise ChangelogRefused(f"{size_bytes} bytes for topic {message.topic}")
        return [self.broker.append(m.topic, m.partition or 0, m.key, m.value) for m in messages]

    def changelog_position(self, partition: int) -> int | None:
        return None

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def write(self, partition: int, rows: Sequence[Row], positions: Sequence[int]) -> None:
        for key, value in rows:
            self.rows.pop(key, None) if value is None else self.rows.update({key: value})


def many_extents(count: int, **more: object) -> TrackingCommand:
    """Return a command with `count` extents far outside of any volume."""
    columns = ExtentColumns(
        np.full(count, 1 << 40, np.uint64), np.full(count, 4096, np.uint64), None
    )
    text = command("", **{"sequence": -1, **more})
    return TrackingCommand(**{f: getattr(text, f) for f in text.__slots__} | {"extents": columns})


def test_a_refused_event_larger_than_the_quarantine_is_kept_in_part() -> None:
    node = Node(volume())
    zeros, key = bytes(5 * MIB), b"k" * MIB
    node.fold(zeros, key=key)
    (kept,) = [decode(m.value or b"", Quarantined) for m in node.sent(TOPICS.quarantine)]
    assert (kept.position, kept.reason) == (0, "UNDECODABLE")
    assert kept.value is not None and zeros.startswith(kept.value) and len(kept.value) >= MIB
    assert (kept.value_length, kept.value_sha256) == (5 * MIB, sha256(zeros).digest())
    assert kept.key is not None and key.startswith(kept.key)
    assert (kept.key_length, kept.key_sha256) == (MIB, sha256(key).digest())
    assert node.statuses()[0].code is StatusCode.REJECTED


def test_a_refused_event_that_fits_is_kept_whole() -> None:
    node = Node(volume())
    value = bytes(MIB)
    node.fold(value)
    (kept,) = [decode(m.value or b"", Quarantined) for m in node.sent(TOPICS.quarantine)]
    assert (kept.key, kept.value) == (b"v", value)
    assert (kept.key_length, kept.key_sha256, kept.value_length, kept.value_sha256) == (None,) * 4


def test_a_large_event_for_another_partition_is_forwarded_as_the_whole_volume() -> None:
    elsewhere = volume("other", size_bytes=1 << 30, partition=3)
    node = Node(elsewhere)
    sent = many_extents(200_000, name="other", sequence=7, note="n" * MIB)
    node.fold(sent, command("0+4096", "other"))
    large, small = [decode(m.value or b"", TrackingCommand) for m in node.sent(TOPICS.commands)]
    assert list(large.extents) == [Extent(0, 1 << 30)]
    assert (large.session, large.sequence, large.kind) == ("s", 7, sent.kind)
    assert list(small.extents) == [Extent(0, 4096)]


LARGE = {
    "extents outside": lambda: many_extents(300_000),
    "a generation": lambda: command("0+4096", generation="g" * 3 * MIB),
    "a note": lambda: command("0+4096", note="n" * 3 * MIB),
    "a host": lambda: command("0+4096", host="h" * 3 * MIB),
    "a volume": lambda: command("0+4096", "v" * 3 * MIB),
    "forks": lambda: command("", forks=tuple(ForkOutcomes("s" * 200) for _ in range(20_000))),
    "a new generation": lambda: command(
        kind=CommandKind.NEW_GENERATION, new_generation="g" * 3 * MIB
    ),
    "the whole of the largest volume 60,000 times": lambda: command(
        "0+2**63-1 " * 60_000, "largest", sequence=-1
    ),
}


@pytest.mark.parametrize("large", LARGE.values(), ids=LARGE)
def test_the_node_goes_on_after_a_large_event(large: Callable[[], TrackingCommand]) -> None:
    node = Node(volume(), volume("largest", size_bytes=(1 << 63) - 1, block_size=1 << 26))
    node.fold(large())
    node.fold(command("4096+4096", sequence=-1))
    assert node.statuses()[-1].code is StatusCode.ACCEPTED
    assert node.statuses()[-1].position == 1


LONG_NAME = "n" * 250


def test_sessions_that_never_close_fit_into_the_head() -> None:
    node = Node(volume())
    for start in (0, 3000):
        node.fold(
            *(
                command("0+4096", host=f"{LONG_NAME}{n}", session=f"{LONG_NAME}{n}")
                for n in range(start, start + 3000)
            )
        )
    head = decode(node.rows[head_key("v")], VolumeHead)
    assert head.has_left_out
    assert len(head.sessions) == MAX_OPEN_SESSIONS + 1
    assert not head.settled_after(0, {})
    (record,) = [decode(v, LogRecord) for k, v in node.rows.items() if key_kind(k) is LogRecord][
        -1:
    ]
    assert (len(record.hosts), record.has_more_hosts) == (MAX_HOSTS, True)
    assert "3000 open sessions aren't named" in node.statuses()[-1].text


def test_closing_the_sessions_that_were_left_out_makes_the_whole_volume_dirty() -> None:
    node = Node(volume())
    node.fold(*(command("0+4096", host=f"h{n}", session=f"s{n}") for n in range(300)))
    node.fold(command(kind=CommandKind.SESSION_CLOSE, session=LEFT_OUT_SESSIONS, sequence=-1))
    head = decode(node.rows[head_key("v")], VolumeHead)
    assert not head.has_left_out
    records = [decode(v, LogRecord) for k, v in node.rows.items() if key_kind(k) is LogRecord]
    assert records[-1].changed == BlockSet(range(256))


def test_a_session_that_was_left_out_is_named_again_and_its_gap_is_not_counted() -> None:
    node = Node(volume())
    node.fold(*(command("0+4096", host=f"h{n}", session=f"s{n}") for n in range(300)))
    node.fold(command("0+4096", host="h0", session="s0", sequence=1))
    head = decode(node.rows[head_key("v")], VolumeHead)
    assert "s0" in {session.session for session in head.sessions}
    assert node.statuses()[-1].code is StatusCode.ACCEPTED
    assert "too many open sessions" in node.statuses()[-1].text
    assert not node.sent(TOPICS.commands)  # no MARK_DIRTY for a gap


def test_a_volume_grows_only_as_often_as_its_description_can_say() -> None:
    sizes = tuple(
        EarlierSize(before_position=number, size_bytes=4096 * (number + 1))
        for number in range(MAX_RESIZES)
    )
    grown = volume(size_bytes=1 << 30, earlier_sizes=sizes, described_position=MAX_RESIZES - 1)
    node = Node(grown)
    node.position = MAX_RESIZES
    node.folder._gate.assign(0, position=MAX_RESIZES)  # type: ignore[attr-defined]
    node.fold(command(kind=CommandKind.RESIZE, size_bytes=1 << 31, generation=GENERATION))
    assert node.statuses()[0].reason == "DESCRIPTION_TOO_LARGE"


def test_a_change_of_a_volume_whose_description_is_too_large_is_refused() -> None:
    node = Node(volume(primary="file:///" + "p" * 2 * MIB))
    node.fold(command(kind=CommandKind.RETIRE))
    assert node.statuses()[0].reason == "DESCRIPTION_TOO_LARGE"
