"""Limits on the connections of HTTP clients, so that these never take the fold's descriptors.

A connection counts from its beginning, whether or not a request arrives. One too many is answered
with status 503 and closed. A connection that doesn't bring the whole header of a request in time is
closed, from its beginning and after each answer: so it makes no difference whether a client is idle
or sends its header slowly. While a request is answered no time is measured here.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, cast

from aiohttp import web
from aiohttp.typedefs import Handler

from mirrorlog.errors import NodeUnavailable
from mirrorlog.streams.web.responses import encode_json

_BACKLOG: Final = 64
_ACCEPTED_AT_A_TIME: Final = 8
"""asyncio accepts so many connections before the first of them is counted here."""
_REFUSALS_MAX: Final = 8
"""Refused connections that wait for their client to read the refusal. Further ones are cut off."""
_REFUSAL_S: Final = 1.0
_DESCRIPTORS_SHARE: Final = 4
"""Clients get at most one in so many of the descriptors that the process may have."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """connections: how many may be open. header_s: the time for the header of a request."""

    connections: int
    header_s: float


def connection_limit(wanted: int) -> int:
    """Return how many connections may be open: `wanted`, or fewer if descriptors are scarce.

    The rest of the process's descriptors is for the table, the topics and the questions' clients.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, allowed // _DESCRIPTORS_SHARE))


async def serve(
    runner: web.AppRunner, listening: socket.socket, limits: ConnectionLimits
) -> asyncio.Server:
    """Accept connections for a runner that is set up. Close the server before the runner."""
    handlers = runner.server
    assert handlers is not None
    connections = Connections(cast(Callable[[], asyncio.Protocol], handlers), limits)
    server = await asyncio.get_running_loop().create_server(
        connections.accept, sock=listening, backlog=_ACCEPTED_AT_A_TIME
    )
    listening.listen(_BACKLOG)  # asyncio has one number for both
    return server


@web.middleware
async def untimed_answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a request, and measure no time for its connection meanwhile. The outermost one."""
    protocol = None if request.transport is None else request.transport.get_protocol()
    if not isinstance(protocol, LimitedConnection):
        return await handler(request)
    with protocol.answering():
        return await handler(request)


class Connections:
    """The open connections of a server.

    make_handler: makes the protocol of an accepted connection.
    """

    def __init__(
        self, make_handler: Callable[[], asyncio.Protocol], limits: ConnectionLimits
    ) -> None:
        self._make_handler, self.limits = make_handler, limits
        self.open = self.refused = 0

    def accept(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        if self.open >= self.limits.connections:
            return RefusedConnection(self)
        return LimitedConnection(self, self._make_handler())


class LimitedConnection(asyncio.Protocol):
    """Passes everything on to `handler`, and aborts the connection if no header comes in time."""

    def __init__(self, connections: Connections, handler: asyncio.Protocol) -> None:
        self._connections, self._handler = connections, handler
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unsent_bytes = 0

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Stop the time, and start it anew at the end."""
        self._stop_timer()
        try:
            yield
        finally:
            if self._transport is not None:
                self._start_timer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and start its time."""
        self._transport = cast(asyncio.Transport, transport)
        self._connections.open += 1
        self._start_timer()
        self._handler.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Count it no longer."""
        self._transport = None
        self._connections.open -= 1
        self._stop_timer()
        self._handler.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on."""
        self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass the end of the client's bytes on."""
        return self._handler.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the client reads too slowly."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client reads again."""
        self._handler.resume_writing()

    def _start_timer(self) -> None:
        assert self._transport is not None
        self._unsent_bytes = self._transport.get_write_buffer_size()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._connections.limits.header_s, self._time_is_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _time_is_up(self) -> None:
        """Abort the connection, unless its client still reads the answer before."""
        assert self._transport is not None
        if 0 < self._transport.get_write_buffer_size() < self._unsent_bytes:
            self._start_timer()
        else:
            self._transport.abort()


class RefusedConnection(asyncio.Protocol):
    """Answers with status 503 whatever comes, and ends the connection."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the refusal. A client has a moment to read it: a reset would take it back."""
        self._connections.refused += 1
        self._transport = cast(asyncio.Transport, transport)
        if self._connections.refused > _REFUSALS_MAX:
            self._transport.abort()
            return
        self._transport.write(_refusal(self._connections.limits.connections))
        self._transport.write_eof()
        self._timer = asyncio.get_running_loop().call_later(_REFUSAL_S, self._transport.abort)

    def connection_lost(self, error: Exception | None) -> None:
        """Count it no longer."""
        del error
        self._connections.refused -= 1
        if self._timer is not None:
            self._timer.cancel()


def _refusal(limit: int) -> bytes:
    """Return the answer to a connection that is one too many."""
    error = NodeUnavailable(
        f"{limit} connections are open, and no more at a time",
        next="Ask again in a moment, or raise node_http_connections.",
    )
    content = encode_json(error.as_message())
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + content
