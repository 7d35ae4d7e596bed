"""HTTP clients never take the descriptors that the fold needs, whatever they send or don't send."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from deadlines import DEADLINE_S

from mirrorlog.adapters.http.connections import (
    ConnectionLimits,
    connection_limit,
    untimed_answer,
)
from mirrorlog.adapters.http.http_server import serve
from mirrorlog.adapters.listening import ListeningWords, listen_at

LONG_S = 10 * DEADLINE_S
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Served:
    """A server at a port. Requests of /hold are answered when `released` is set."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.held, self.released = asyncio.Event(), asyncio.Event()
        self.opened: list[Connection] = []

    async def connect(self, *parts: bytes) -> Connection:
        connection = await asyncio.open_connection("127.0.0.1", self.port)
        self.opened.append(connection)
        for part in parts:
            connection[1].write(part)
        return connection

    async def hold(self, request: web.Request) -> web.Response:
        # A busy machine may read a header just when its time is up: the connection has ended then.
        if request.transport is not None and not request.transport.is_closing():
            self.held.set()
        await self.released.wait()
        return web.Response(text="held")


@asynccontextmanager
async def served(limits: ConnectionLimits) -> AsyncIterator[Served]:
    words = ListeningWords(who="a test", option="--http", token="nothing")
    listening = listen_at("127.0.0.1:0", words, is_guarded=False)
    listening.setblocking(False)
    world = Served(listening.getsockname()[1])
    app = web.Application(middlewares=[untimed_answer])

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="answered")

    app.router.add_get("/", answer)
    app.router.add_get("/hold", world.hold)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    server = await serve(runner, listening, limits)
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield world
    finally:
        server.close()
        for _, writer in world.opened:
            writer.close()
        await runner.cleanup()


async def status(connection: Connection) -> int:
    """Return the status of the next answer, whose body is read too."""
    head = await connection[0].readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Len"))
    await connection[0].readexactly(length)
    return int(head.split()[1])


async def held_request(world: Served) -> Connection:
    """Return a connection whose request is held. A busy machine may read a header too late."""
    is_held = asyncio.create_task(world.held.wait())
    while True:
        connection = await world.connect(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
        is_ended = asyncio.create_task(ended(connection))
        await asyncio.wait({is_held, is_ended}, return_when=asyncio.FIRST_COMPLETED)
        if is_held.done():
            is_ended.cancel()
            await asyncio.wait({is_ended})
            return connection


async def ended(connection: Connection) -> bytes:
    """Return what is still sent until the server ends the connection."""
    try:
        return await connection[0].read()
    except ConnectionResetError:
        return b""


def test_a_connection_too_many_is_told_to_come_back_and_another_is_taken_once_one_ends() -> None:
    async def scenario() -> None:
        async with served(ConnectionLimits(3, LONG_S)) as world:
            idle = [await world.connect() for _ in range(2)]
            client = await world.connect(REQUEST)
            assert await status(client) == 200
            refused = await ended(await world.connect(REQUEST))
            head, body = refused.split(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503") and b"Retry-After" in head
            assert json.loads(body)["code"] == "NodeUnavailable"
            client[1].write(REQUEST)
            assert await status(client) == 200
            idle[0][1].close()
            while b" 503 " in (answer := await ended(await world.connect(REQUEST_AND_END))):
                await asyncio.sleep(0)
            assert answer.startswith(b"HTTP/1.1 200")

    asyncio.run(scenario())


REQUEST_AND_END = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
# what a client sends before it sends nothing more
IDLE = {
    "nothing": (),
    "half a header": (b"GET / HTTP/1.1\r\nHost:",),
    "half a header after a request": (REQUEST, b"GET / HT"),
    "nothing after a request": (REQUEST,),
    "a request whose body doesn't come": (
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
    ),
}


@pytest.mark.parametrize("parts", IDLE.values(), ids=IDLE)
def test_a_connection_without_the_whole_header_of_a_request_is_closed(
    parts: tuple[bytes, ...],
) -> None:
    has_request = len(parts) > 0 and b"\r\n\r\n" in parts[0]

    async def scenario() -> None:
        async with served(ConnectionLimits(3, 0.05)) as world:
            answers = b""
            while answers.count(b"answered") < has_request:  # read too late by a busy machine
                answers = await ended(await world.connect(*parts))
            assert answers.count(b"answered") == has_request

    asyncio.run(scenario())


def test_a_client_that_sends_a_byte_at_a_time_is_closed() -> None:
    async def scenario() -> None:
        async with served(ConnectionLimits(3, 0.05)) as world:
            reader, writer = await world.connect(b"GET / HTTP/1.1\r\nX: ")
            while not writer.is_closing() and not reader.at_eof():
                writer.write(b"x")
                await asyncio.sleep(0.001)

    asyncio.run(scenario())


def test_an_answer_may_take_longer_than_a_header() -> None:
    async def scenario() -> None:
        async with served(ConnectionLimits(3, 0.02)) as world:
            connection = await held_request(world)
            # Its time is up, and so would be the other's.
            assert await ended(await world.connect()) == b""
            world.released.set()
            assert await status(connection) == 200

    asyncio.run(scenario())


def test_a_thousand_idle_connections_take_a_quarter_of_the_descriptors_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    limit = connection_limit(128)
    assert limit == 64

    async def scenario() -> None:
        async with served(ConnectionLimits(limit, LONG_S)) as world:
            kept = [await world.connect() for _ in range(limit)]
            for _ in range(1000 - limit):
                connection = await world.connect()
                await ended(connection)
                connection[1].close()
            kept[0][1].write(REQUEST)
            assert await status(kept[0]) == 200

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("allowed", "wanted", "limit"),
    [(1024, 128, 128), (256, 128, 64), (3, 128, 1), (resource.RLIM_INFINITY, 128, 128)],
)
def test_clients_get_a_quarter_of_the_descriptors_at_most(
    monkeypatch: pytest.MonkeyPatch, allowed: int, wanted: int, limit: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (allowed, allowed))
    assert connection_limit(wanted) == limit
