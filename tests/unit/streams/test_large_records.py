"""A batch of large records has the bytes that aiokafka's own builder gives it."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from deadlines import DEADLINE_S
from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.streams.faust_worker.large_records import _LARGE_BYTES, BatchOfParts, send_in_place

LIMIT_BYTES = 4 * _LARGE_BYTES


def own_builder() -> Any:
    return DefaultRecordBatchBuilder(
        2,
        0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=0,
        batch_size=LIMIT_BYTES,
    )


def sized_bytes(*sizes: int) -> st.SearchStrategy[bytes]:
    seeds = st.tuples(st.sampled_from(sizes), st.integers(0, 1 << 16))
    return seeds.map(lambda drawn: random.Random(drawn[1]).randbytes(drawn[0]))


VALUES = sized_bytes(0, 1, 200, _LARGE_BYTES - 1, _LARGE_BYTES, LIMIT_BYTES // 2, LIMIT_BYTES)
RECORDS = st.tuples(
    st.integers(0, 1 << 45),
    st.none() | sized_bytes(0, 20, 300),
    st.none() | VALUES,
    st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=2),
)


@given(st.lists(RECORDS, min_size=1, max_size=6))
def test_a_batch_has_the_same_bytes_and_takes_the_same_records(records: list[Any]) -> None:
    expected, batch = own_builder(), BatchOfParts(own_builder(), LIMIT_BYTES)
    taken = 0
    for timestamp, key, value, headers in records:
        wanted = expected.append(taken, timestamp, key=key, value=value, headers=headers)
        given = batch.append(taken, timestamp, key=key, value=value, headers=headers)
        assert (wanted is None) == (given is None)
        if wanted is not None:
            taken += 1
            assert (given.offset, given.size, given.timestamp) == (
                wanted.offset,
                wanted.size,
                wanted.timestamp,
            )
        assert batch.size() == expected.size()
    assert bytes(batch.build()) == bytes(expected.build())


def test_a_record_without_a_time_has_that_of_now() -> None:
    before, after = (
        builder.append(0, None, key=b"k", value=bytes(_LARGE_BYTES), headers=[]).timestamp
        for builder in (own_builder(), BatchOfParts(own_builder(), LIMIT_BYTES))
    )
    assert 0 <= after - before < DEADLINE_S * 1000


@pytest.mark.parametrize("options", [{}, {"compression_type": "lz4"}, {"enable_idempotence": True}])
def test_only_batches_that_are_sent_as_they_are_have_parts(options: dict[str, Any]) -> None:
    async def scenario() -> None:
        producer: Any = AIOKafkaProducer(**options)
        send_in_place(producer)
        builder = producer._message_accumulator.create_builder()._builder
        assert isinstance(builder, BatchOfParts) == (options == {})

    asyncio.run(scenario())


def test_what_the_socket_does_not_take_at_once_is_sent_as_well() -> None:
    data = random.Random(1).randbytes(8 << 20)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        ours, broker = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=ours)
        producer: Any = AIOKafkaProducer()

        class Connection:
            _writer = writer

            @staticmethod
            def connected() -> bool:
                return True

        async def connection(*_: Any, **__: Any) -> Any:
            return Connection

        producer.client._get_conn = connection
        send_in_place(producer)
        (await producer.client._get_conn(1))._writer.write(data)
        broker.setblocking(False)
        received = bytearray()
        async with asyncio.timeout(DEADLINE_S):
            while len(received) < len(data):
                received += await loop.sock_recv(broker, 1 << 20)
        assert received == data
        writer.close()
        broker.close()

    asyncio.run(scenario())
