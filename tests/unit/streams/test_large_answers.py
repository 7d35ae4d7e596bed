"""Answers that are received in place are those that aiokafka reads from its own stream."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.conn import AIOKafkaConnection, AIOKafkaProtocol
from aiokafka.errors import CorrelationIdError, KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest, FetchResponse_v11
from deadlines import DEADLINE_S

from mirrorlog.streams.faust_worker import large_answers
from mirrorlog.streams.faust_worker.large_answers import AnswerProtocol, receive_in_place

REQUEST = FetchRequest(0, 1, 1, 0, [("commands", [(0, 0, 1)])])
SIZES = [0, 1, large_answers._LARGE_BYTES - 100, large_answers._LARGE_BYTES, 1 << 20, 3 << 20]


def answer(number: int, size_bytes: int, *, seed: int = 1) -> bytes:
    """Return the frame that answers a request: two partitions, with so many bytes each."""
    parts = [
        (partition, 0, 9, 9, 0, [], -1, random.Random(seed + partition).randbytes(size_bytes))
        for partition in range(2)
    ]
    body = FetchResponse_v11(0, 0, 0, [("commands", parts)]).encode()
    frame = number.to_bytes(4, "big") + body
    return len(frame).to_bytes(4, "big") + frame


@asynccontextmanager
async def connected(*, in_place: bool) -> AsyncIterator[tuple[Any, socket.socket]]:
    """Yield a connection of aiokafka, past its handshake, and the broker's end."""
    loop = asyncio.get_running_loop()
    ours, broker = socket.socketpair()
    connection: Any = AIOKafkaConnection("broker", 1)
    connection._versions = {1: (4, 11)}
    connection._closed_fut = loop.create_future()
    reader = asyncio.StreamReader(loop=loop)
    protocol = AIOKafkaProtocol(connection._closed_fut, reader, loop=loop)
    transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
    connection._reader, connection._protocol = reader, protocol
    connection._writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    connection._read_task = connection._create_reader_task()
    if in_place:
        transport.set_protocol(AnswerProtocol(connection))
    try:
        yield connection, broker
    finally:
        connection.close()
        broker.close()
        await asyncio.sleep(0)


async def send_pieces(broker: socket.socket, data: bytes, pieces: int, seed: int = 1) -> None:
    cuts = sorted(random.Random(seed).randrange(len(data) + 1) for _ in range(pieces - 1))
    broker.setblocking(False)
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        await asyncio.get_running_loop().sock_sendall(broker, data[start:end])
        await asyncio.sleep(0)


async def answers(sizes: Sequence[int], pieces: int, *, in_place: bool) -> list[Any]:
    async with connected(in_place=in_place) as (connection, broker), asyncio.timeout(DEADLINE_S):
        waiting = [asyncio.ensure_future(connection.send(REQUEST)) for _ in sizes]
        await asyncio.sleep(0)
        frames = b"".join(answer(n + 1, size, seed=n) for n, size in enumerate(sizes))
        await send_pieces(broker, frames, pieces)
        return [(await future).topics for future in waiting]


@pytest.mark.parametrize("pieces", [1, 2, 30])
def test_answers_are_those_of_the_clients_own_stream(pieces: int) -> None:
    sizes = [*SIZES, *reversed(SIZES)]
    expected = asyncio.run(answers(sizes, pieces, in_place=False))
    assert asyncio.run(answers(sizes, pieces, in_place=True)) == expected
    assert [len(parts[0][-1]) for ((_, parts),) in expected] == sizes


def test_the_space_of_large_answers_is_freed_by_a_small_one() -> None:
    async def scenario() -> None:
        async with connected(in_place=True) as (connection, broker), asyncio.timeout(DEADLINE_S):
            protocol = connection._writer.transport.get_protocol()
            for number, size_bytes in enumerate([1 << 20, 1 << 19, 1], start=1):
                waiting = asyncio.ensure_future(connection.send(REQUEST))
                await asyncio.sleep(0)
                await send_pieces(broker, answer(number, size_bytes), 2)
                await waiting
                assert (len(protocol._large) >= 2 << 20) == (size_bytes > 1)

    asyncio.run(scenario())


# what the broker sends in the place of an answer to request 1 | what its caller gets
BROKEN = [
    pytest.param(answer(7, 1 << 17), CorrelationIdError, id="another request's"),
    pytest.param(answer(7, 1), CorrelationIdError, id="another request's, small"),
    pytest.param((-1).to_bytes(4, "big", signed=True), KafkaConnectionError, id="a negative size"),
    pytest.param(bytes(4), KafkaConnectionError, id="a size of nothing"),
    pytest.param(b"HTTP/1.1 400 Bad Request", KafkaConnectionError, id="not Kafka"),
    pytest.param(answer(1, 1 << 17)[:-1], KafkaConnectionError, id="a byte too few, then the end"),
    pytest.param(
        (1 << 17).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\x7f" * (1 << 17),
        KafkaConnectionError,
        id="no answer to a fetch",
    ),
]


@pytest.mark.parametrize(("sent", "error"), BROKEN)
def test_what_is_no_answer_closes_the_connection(sent: bytes, error: type[Exception]) -> None:
    async def scenario() -> None:
        async with connected(in_place=True) as (connection, broker), asyncio.timeout(DEADLINE_S):
            waiting = asyncio.ensure_future(connection.send(REQUEST))
            await asyncio.sleep(0)
            await send_pieces(broker, sent, 3)
            broker.shutdown(socket.SHUT_WR)
            with pytest.raises(error):
                await waiting
            assert not connection.connected()
            await connection._closed_fut

    asyncio.run(scenario())


def test_an_answer_that_nobody_waits_for_is_passed_over() -> None:
    async def scenario() -> None:
        async with connected(in_place=True) as (connection, broker), asyncio.timeout(DEADLINE_S):
            given_up = asyncio.ensure_future(connection.send(REQUEST))
            waiting = asyncio.ensure_future(connection.send(REQUEST))
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.sleep(0)
            await send_pieces(broker, answer(1, 1 << 17) + answer(2, 1 << 17, seed=5), 4)
            ((_, parts),) = (await waiting).topics
            assert parts[0][-1] == random.Random(5).randbytes(1 << 17)

    asyncio.run(scenario())


def test_each_connection_of_a_client_receives_in_place() -> None:
    async def scenario() -> None:
        async with connected(in_place=False) as (connection, _):
            client = SimpleNamespace(_get_conn=lambda *_, **__: given(connection))
            receive_in_place(client)
            for _ in range(2):
                assert await client._get_conn(1, group=0) is connection
            first = connection._writer.transport.get_protocol()
            assert isinstance(first, AnswerProtocol)
            client = SimpleNamespace(_get_conn=lambda *_, **__: given(None))
            receive_in_place(client)
            assert await client._get_conn(1) is None

    async def given(thing: Any) -> Any:
        return thing

    asyncio.run(scenario())
