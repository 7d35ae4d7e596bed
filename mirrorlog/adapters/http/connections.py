"""Limits on the connections of HTTP clients, so that these never take the descriptors of a role.

A connection counts from its beginning, whether or not a request arrives. One too many, of all or of
one client, is answered with status 503 and closed. A connection that doesn't bring the whole header
of a request in time is closed, from its beginning and after each answer: so it makes no difference
whether a client is idle or sends its header slowly. While a request is answered no time is measured
here. One that brings more bytes than a request may have is closed, too.
"""

from __future__ import annotations

import asyncio
import ipaddress
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, cast

from aiohttp import web
from aiohttp.typedefs import Handler

from mirrorlog.adapters.http.responses import encode_json
from mirrorlog.errors import BadUse, MirrorlogError, NodeUnavailable

_REFUSALS_MAX: Final = 8
"""Refused connections that wait for their client to read the refusal. Further ones are cut off."""
_REFUSAL_S: Final = 1.0
_DESCRIPTORS_SHARE: Final = 4
"""Clients get at most one in so many of the descriptors that the process may have."""
_NETWORK_BITS: Final = 64
"""Addresses of IPv6 that begin with the same bits are one client: a machine may use all of them."""
_REQUEST_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of a server.

    connections:   how many may be open. of_one_client: from one address; None: as many.
    header_s:      the time for the header of a request, and for a TLS handshake.
    request_bytes: the most that a connection may bring for one request, with its header.
    setting:       the name of the setting of `connections`, for errors.
    """

    connections: int
    header_s: float
    of_one_client: int | None = None
    request_bytes: int = _REQUEST_BYTES
    setting: str = "node_http_connections"


def connection_limit(wanted: int) -> int:
    """Return how many connections may be open: `wanted`, or fewer if descriptors are scarce.

    The rest of the process's descriptors is for the table, the topics and the questions' clients.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, allowed // _DESCRIPTORS_SHARE))


@web.middleware
async def untimed_answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a request, and measure no time for its connection meanwhile. The outermost one."""
    protocol = None if request.transport is None else request.transport.get_protocol()
    if not isinstance(protocol, LimitedConnection):
        return await handler(request)
    with protocol.answering():
        return await handler(request)


class Connections:
    """The open connections of a server."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.open = self.refused = 0
        self.by_client: Counter[str] = Counter()

    def take(self, client: str) -> ClientPlace | MirrorlogError:
        """Count a connection of a client. Return its place, or why there is none."""
        limits = self.limits
        if self.open >= limits.connections:
            return NodeUnavailable(
                f"{limits.connections} connections are open, and no more at a time",
                next=f"Ask again in a moment, or raise {limits.setting}.",
            )
        if limits.of_one_client is not None and self.by_client[client] >= limits.of_one_client:
            return NodeUnavailable(
                f"this client has {limits.of_one_client} connections open, and no more at a time",
                next="Close one, or ask again in a moment.",
            )
        self.open += 1
        self.by_client[client] += 1
        return ClientPlace(self, client)


class ClientPlace:
    """A connection that counts until it is given back."""

    def __init__(self, connections: Connections, client: str) -> None:
        self._connections, self._client = connections, client
        self._is_taken = True
        self.limits: Final = connections.limits

    def give_back(self) -> None:
        """Count the connection no longer. A second call does nothing."""
        if not self._is_taken:
            return
        self._is_taken = False
        connections = self._connections
        connections.open -= 1
        connections.by_client[self._client] -= 1
        if not connections.by_client[self._client]:
            del connections.by_client[self._client]


class AcceptedConnection(asyncio.Protocol):
    """Decides who serves a connection, and hands it over at once.

    begin: makes the protocol of a connection that has a place. is_plain: a client understands an
    answer without TLS.
    """

    def __init__(
        self,
        connections: Connections,
        begin: Callable[[ClientPlace], asyncio.Protocol],
        *,
        is_plain: bool,
    ) -> None:
        self._connections, self._begin, self._is_plain = connections, begin, is_plain

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand the connection over."""
        place = self._connections.take(_client_of(transport))
        protocol = (
            self._begin(place)
            if isinstance(place, ClientPlace)
            else RefusedConnection(self._connections, place if self._is_plain else None)
        )
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class LimitedConnection(asyncio.Protocol):
    """Passes everything on to `handler`, and aborts the connection if no header comes in time.

    What comes before connection_made is kept: that is so at the end of a TLS handshake.
    """

    def __init__(self, place: ClientPlace, handler: asyncio.Protocol) -> None:
        self._place, self._handler = place, handler
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._early: list[bytes] = []
        self._is_lost = self._is_answering = False
        self._received_bytes = self._unsent_bytes = 0

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Stop the time, and start it anew at the end."""
        self._stop_timer()
        self._is_answering = True
        try:
            yield
        finally:
            self._is_answering, self._received_bytes = False, 0
            if self._transport is not None:
                self._start_timer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time of the connection."""
        if self._is_lost:
            return
        self._transport = cast(asyncio.Transport, transport)
        self._start_timer()
        self._handler.connection_made(transport)
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Count it no longer."""
        self._is_lost = True
        self._place.give_back()
        self._stop_timer()
        if self._transport is not None:
            self._transport = None
            self._handler.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on, unless they are more than a request may have."""
        if self._transport is None:
            self._early.append(data)
            return
        self._received_bytes += len(data)
        if self._received_bytes <= self._place.limits.request_bytes:
            self._handler.data_received(data)
        elif self._is_answering:
            self._transport.abort()
        elif not self._transport.is_closing():
            self._transport.write(_too_large(self._place.limits.request_bytes))
            self._transport.close()

    def eof_received(self) -> bool | None:
        """Pass the end of the client's bytes on."""
        return None if self._transport is None else self._handler.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the client reads too slowly."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client reads again."""
        self._handler.resume_writing()

    def give_up(self) -> None:
        """Count it no longer: its handshake failed."""
        self.connection_lost(None)

    def _start_timer(self) -> None:
        assert self._transport is not None
        self._unsent_bytes = self._transport.get_write_buffer_size()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._place.limits.header_s, self._time_is_up)

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
    """Answers with status 503 whatever comes, and ends the connection.

    error: what the answer says; None: the connection is cut off.
    """

    def __init__(self, connections: Connections, error: MirrorlogError | None) -> None:
        self._connections, self._error = connections, error
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the refusal. A client has a moment to read it: a reset would take it back."""
        self._connections.refused += 1
        self._transport = cast(asyncio.Transport, transport)
        if self._error is None or self._connections.refused > _REFUSALS_MAX:
            self._transport.abort()
            return
        self._transport.write(_raw_answer("503 Service Unavailable", self._error))
        self._transport.write_eof()
        self._timer = asyncio.get_running_loop().call_later(_REFUSAL_S, self._transport.abort)

    def connection_lost(self, error: Exception | None) -> None:
        """Count it no longer."""
        del error
        self._connections.refused -= 1
        if self._timer is not None:
            self._timer.cancel()


def _client_of(transport: asyncio.BaseTransport) -> str:
    """Return what counts as one client: an address of IPv4, or a network of IPv6."""
    peer = transport.get_extra_info("peername")
    if not peer:
        return ""
    address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _NETWORK_BITS), strict=False))
    return str(address)


def _too_large(limit: int) -> bytes:
    """Return the answer to a request with too many bytes."""
    error = BadUse(f"the request has more than {limit} bytes", next="Send less.")
    return _raw_answer("431 Request Header Fields Too Large", error)


def _raw_answer(status: str, error: MirrorlogError) -> bytes:
    """Return an answer that is sent without aiohttp."""
    content = encode_json(error.as_message())
    retry = "Retry-After: 1\r\n" if status.startswith("503") else ""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{retry}"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + content
