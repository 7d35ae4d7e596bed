"""The node's HTTP server: it starts and stops with the engine."""

from __future__ import annotations

import asyncio

from aiohttp import web

from mirrorlog.streams.web.connections import ConnectionLimits, serve
from mirrorlog.streams.web.listen import HttpEndpoint


class HttpServer:
    """Serves `app` at the endpoint. The engine runs it (engine.EngineService)."""

    def __init__(
        self, app: web.Application, endpoint: HttpEndpoint, limits: ConnectionLimits
    ) -> None:
        # handler_cancellation: a client that disconnects cancels its handler, and so its question
        # (aiohttp documentation, "Peer disconnection").
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=1.0,
            lingering_time=1.0,
        )
        self._endpoint, self._limits = endpoint, limits
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to accept requests."""
        await self._runner.setup()
        self._server = await serve(self._runner, self._endpoint.socket, self._limits)

    async def stop(self) -> None:
        """Cancel the requests that run and close the socket."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()
