"""Accepts connections for an application until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

from aiohttp import web

from mirrorlog.adapters.http.connections import (
    AcceptedConnection,
    ClientPlace,
    ConnectionLimits,
    Connections,
    LimitedConnection,
)
from mirrorlog.adapters.http.tls_handshakes import TlsHandshake

_protocol_log = logging.getLogger("mirrorlog.http.protocol")
_STOP_S: Final = 1.0
_BACKLOG: Final = 64
_ACCEPTED_AT_A_TIME: Final = 8
"""asyncio accepts so many connections before the first of them is counted."""


class HttpServer:
    """Serves `app` at a socket.

    app:       of HttpGuard.application(), with its routes.
    listening: the socket; it is closed by stop().
    limits:    of connections, and of what each may send.
    context:   for TLS (HttpAccess.server_context); None: without.
    """

    def __init__(
        self,
        app: web.Application,
        listening: socket.socket,
        limits: ConnectionLimits,
        context: ssl.SSLContext | None = None,
    ) -> None:
        # handler_cancellation: a client that disconnects cancels its handler, and so its question
        # (aiohttp documentation, "Peer disconnection").
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            logger=_quiet_log(),
            shutdown_timeout=_STOP_S,
            lingering_time=_STOP_S,
        )
        self._listening, self._limits, self._context = listening, limits, context
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to accept requests."""
        await self._runner.setup()
        self._server = await serve(self._runner, self._listening, self._limits, self._context)

    async def stop(self) -> None:
        """Cancel the requests that run and close the socket."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()


async def serve(
    runner: web.AppRunner,
    listening: socket.socket,
    limits: ConnectionLimits,
    context: ssl.SSLContext | None = None,
) -> asyncio.Server:
    """Accept connections for a runner that is set up. Close the server before the runner.

    context: for TLS; None: without.
    """
    handlers = runner.server
    assert handlers is not None
    make_handler = cast(Callable[[], asyncio.Protocol], handlers)
    connections = Connections(limits)

    def begin(place: ClientPlace) -> asyncio.Protocol:
        limited = LimitedConnection(place, make_handler())
        return limited if context is None else TlsHandshake(limited, context, limits.header_s)

    server = await asyncio.get_running_loop().create_server(
        lambda: AcceptedConnection(connections, begin, is_plain=context is None),
        sock=listening,
        backlog=_ACCEPTED_AT_A_TIME,
    )
    listening.listen(_BACKLOG)  # asyncio has one number for both
    return server


class _FailuresOfServer(logging.Filter):
    """Passes on what is a defect of the server, and not what clients send that isn't HTTP."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record. aiohttp logs a bad request with its traceback."""
        from aiohttp.http_exceptions import HttpProcessingError

        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError)


def _quiet_log() -> logging.Logger:
    """Return the logger of aiohttp's protocol: strangers can't fill the log with it."""
    if not any(isinstance(known, _FailuresOfServer) for known in _protocol_log.filters):
        _protocol_log.addFilter(_FailuresOfServer())
    return _protocol_log
