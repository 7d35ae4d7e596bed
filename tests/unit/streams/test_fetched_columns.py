"""Columns of fetched messages are the messages that aiokafka's own reader of a fetch returns."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import (
    READ_UNCOMMITTED,
    Fetcher,
    FetchError,
    FetchResult,
    PartitionRecords,
)
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from mirrorlog.streams.faust_worker import record_batches
from mirrorlog.streams.faust_worker.fetched_columns import (
    FetchedColumns,
    FetchedPartition,
    FetchedResults,
)
from mirrorlog.streams.faust_worker.record_batches import BatchReader

COMMANDS = TopicPartition("commands", 0)
OTHER = TopicPartition("log", 0)
UNCOMPRESSED, LZ4 = 0, 3
CODECS = range(5)  # none, gzip, snappy, lz4, zstd
_ATTRIBUTES_AT = 21
_CRC_AT = 17
_LOG_APPEND_TIME, _CONTROL = 0x08, 0x20


def record_batch(
    base: int, values: Sequence[bytes | None], codec: int = UNCOMPRESSED, flags: int = 0
) -> bytes:
    """Return a batch from offset `base` on, as a broker keeps it."""
    builder = DefaultRecordBatchBuilder(
        2,
        codec,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=0,
        batch_size=1 << 20,
    )
    for number, value in enumerate(values):
        headers = [("code", bytes([number]))] * (number % 2)
        key = f"key {number % 3}".encode()
        builder.append(number, 1000 + base + number, key, value, headers)
    data = bytearray(builder.build())
    data[:8] = base.to_bytes(8, "big")
    data[_ATTRIBUTES_AT + 1] |= flags
    return bytes(data)


def fetched(data: bytes, first: int, *, check_crcs: bool = False) -> Any:
    records = MemoryRecords(data)
    return PartitionRecords(COMMANDS, records, [], first, None, None, check_crcs, READ_UNCOMMITTED)


def expected(data: bytes, first: int) -> tuple[list[tuple[Any, ...]], int]:
    """Return what aiokafka's reader returns of a fetch, and where it goes on."""
    partition = fetched(data, first)
    rows = [(e.offset, e.key, e.value, e.timestamp, e.headers) for e in partition]
    return rows, partition.next_fetch_offset


def columns_of(data: bytes, first: int) -> tuple[list[tuple[Any, ...]], int]:
    partition = FetchedPartition(fetched(data, first), BatchReader(), with_headers=True)
    rows = [
        row
        for columns in partition
        for row in zip(
            columns.offsets,
            columns.keys,
            columns.values,
            columns.timestamps,
            columns.headers or (),
            strict=True,
        )
    ]
    return rows, partition.next_fetch_offset


@pytest.mark.parametrize("seed", range(20))
def test_columns_are_what_the_clients_own_reader_returns(seed: int) -> None:
    chance = random.Random(seed)
    data, base = b"", chance.randrange(100)
    begin = base
    for _ in range(chance.randrange(1, 6)):
        values = [chance.choice([None, b"", chance.randbytes(20)]) for _ in range(7)]
        flags = chance.choice([0, 0, _LOG_APPEND_TIME, _CONTROL])
        values = values[:1] if flags == _CONTROL else values[: chance.randrange(1, 8)]
        codec = UNCOMPRESSED if flags == _CONTROL else chance.choice(CODECS)
        data += record_batch(base, values, codec, flags)
        base += len(values) + chance.choice([0, 0, 3])
    for first in (begin, begin + 1, begin + 4):
        assert columns_of(data, first) == expected(data, first)


@pytest.mark.parametrize("magic", [0, 1])
def test_columns_of_older_formats_are_those_that_the_clients_own_reader_returns(magic: int) -> None:
    data = b""
    for number in range(4):
        builder = LegacyRecordBatchBuilder(magic, UNCOMPRESSED, 1 << 20)
        builder.append(0, 1000 + number, b"key", b"command %d" % number)
        data += number.to_bytes(8, "big") + bytes(builder.build())[8:]
    for first in (0, 2):
        assert columns_of(data, first) == expected(data, first)
    # aiokafka can't read these together (findings/aiokafka-older-format-before-newer.sh).
    newer = record_batch(4, [b"newer"], LZ4)
    rows, end = columns_of(data + newer, 0)
    assert (rows, end) == (expected(data, 0)[0] + expected(newer, 4)[0], 5)


@pytest.mark.parametrize("size_bytes", [100, 5 << 20])
def test_a_batch_may_be_larger_than_what_is_kept_for_it(size_bytes: int) -> None:
    data = record_batch(0, [bytes(size_bytes), b"b"], LZ4) + record_batch(2, [b"c"], LZ4)
    assert columns_of(data, 0) == expected(data, 0)


@pytest.mark.parametrize("codec", CODECS)
def test_any_flipped_bit_behind_the_checksum_is_found(codec: int) -> None:
    data = record_batch(0, [b"first command", b"second command"], codec)
    for at in range(_CRC_AT, len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(CorruptRecordException):
            next(FetchedPartition(fetched(bytes(damaged), 0, check_crcs=True), BatchReader()))


def test_an_incomplete_batch_is_left_for_the_next_fetch() -> None:
    whole, cut = record_batch(0, [b"a", b"b"], LZ4), record_batch(2, [b"c"], LZ4)
    for size in range(len(cut)):
        assert columns_of(whole + cut[:size], 0) == expected(whole + cut[:size], 0)


@pytest.mark.parametrize("length", [-1, 0, 13, 48])
def test_a_batch_too_short_for_its_header_is_refused(length: int) -> None:
    data = bytearray(record_batch(0, [b"a"]) + record_batch(1, [b"b"]))
    data[8:12] = length.to_bytes(4, "big", signed=True)
    with pytest.raises(CorruptRecordException):
        next(FetchedPartition(fetched(bytes(data), 0), BatchReader()))


def test_the_bytes_of_a_fetch_are_not_copied() -> None:
    """As aiokafka's classes are made now. A copy would be slower, and nothing else."""
    data = record_batch(0, [b"command"])
    assert record_batches._bytes_of(MemoryRecords(data)) is data


def test_markers_alone_bring_no_message_and_are_passed() -> None:
    data = record_batch(5, [b"marker"], flags=_CONTROL) + record_batch(
        6, [b"marker"], flags=_CONTROL
    )
    assert columns_of(data, 5) == ([], 7)


# the flags of the batches | the last message has the broker's time | all have it
TIMES = [
    ([_LOG_APPEND_TIME, _LOG_APPEND_TIME], True, True),
    ([0, _LOG_APPEND_TIME], True, False),
    ([_LOG_APPEND_TIME, 0], False, False),
]


@pytest.mark.parametrize(("flags", "ends_by_broker", "all_by_broker"), TIMES)
def test_whose_times_they_are(flags: list[int], ends_by_broker: bool, all_by_broker: bool) -> None:
    data = b"".join(
        record_batch(number, [b"command"], flags=flag) for number, flag in enumerate(flags)
    )
    (columns,) = FetchedPartition(fetched(data, 0), BatchReader())
    assert (columns.ends_by_broker, columns.all_by_broker) == (ends_by_broker, all_by_broker)
    assert (columns.last.offset, columns.last.value) == (1, b"command")
    assert columns.headers is None


def test_a_damaged_batch_is_fetched_again() -> None:
    data = bytearray(record_batch(0, [b"first"]) + record_batch(1, [b"second"]))
    data[-1] ^= 1
    partition = FetchedPartition(fetched(bytes(data), 0, check_crcs=True), BatchReader())
    with pytest.raises(CorruptRecordException):
        next(partition)
    assert list(partition) == []
    assert partition.next_fetch_offset == 0


def test_what_was_fetched_is_freed_when_it_was_read() -> None:
    """Without a collection of garbage, which comes only after some fetches of megabytes."""
    records = fetched(record_batch(0, [b"command"]), 0)
    partition, kept = FetchedPartition(records, BatchReader()), weakref.ref(records)
    del records
    gc.disable()
    try:
        (columns,) = partition
        assert kept() is None
    finally:
        gc.enable()
    assert columns.values == [b"command"]


def test_only_the_commands_are_handed_on_by_column() -> None:
    def result(tp: TopicPartition) -> FetchResult:
        records = fetched(record_batch(0, [b"a", b"b"]), 0)
        return FetchResult(tp, assignment=None, partition_records=records, backoff=0)

    before = {COMMANDS: result(COMMANDS)}
    results = FetchedResults("commands", before)
    results[OTHER] = result(OTHER)
    error = results[TopicPartition("commands", 1)] = FetchError(error=ValueError(), backoff=0)
    (columns,) = results[COMMANDS]._partition_records
    assert isinstance(columns, FetchedColumns)
    assert [record.value for record in results[OTHER]._partition_records] == [b"a", b"b"]
    assert results[TopicPartition("commands", 1)] is error


def test_an_idle_partition_is_not_asked_for_alone_while_others_wait_to_be_read() -> None:
    """The broker would keep that request for 1.5 s, and nothing else is asked meanwhile."""
    assert asyncio.run(asked_for(unread=[COMMANDS], unread_for_s=1.0)) == []


@pytest.mark.parametrize("unread_for_s", [0.0, 60.0])
def test_every_partition_is_asked_for_when_nothing_waits_to_be_read(unread_for_s: float) -> None:
    assert asyncio.run(asked_for(unread=[], unread_for_s=unread_for_s)) == [0, 1]


def test_what_is_never_read_does_not_keep_the_others_for_ever() -> None:
    assert asyncio.run(asked_for(unread=[COMMANDS], unread_for_s=60.0)) == [1]


async def asked_for(unread: Sequence[TopicPartition], *, unread_for_s: float) -> list[int]:
    """Return the partitions that aiokafka asks the broker for next, of two.

    unread: those of which something was fetched `unread_for_s` ago, and wasn't read.
    """
    partitions = [COMMANDS, TopicPartition("commands", 1)]
    subscriptions = SubscriptionState()
    subscriptions.assign_from_user(partitions)
    assignment = subscriptions.subscription.assignment
    for tp in partitions:
        assignment.state_value(tp).reset_to(0)
    leader_of = SimpleNamespace(leader_for_partition=lambda tp: 1)
    client = SimpleNamespace(
        _loop=asyncio.get_running_loop(), _metadata_max_age_ms=1000, cluster=leader_of
    )
    fetcher = Fetcher(client, subscriptions)
    try:
        fetcher._records = FetchedResults("commands", {})
        for tp in unread:
            records = fetched(record_batch(0, [b"command"]), 0)
            result = FetchResult(tp, assignment=assignment, partition_records=records, backoff=0.1)
            result._created -= unread_for_s
            fetcher._records[tp] = result
        requests, *_ = fetcher._get_actions_per_node(assignment)
        return sorted(
            number
            for _, request in requests
            for _, of_topic in request.topics
            for number, *_ in of_topic
        )
    finally:
        await fetcher.close()
