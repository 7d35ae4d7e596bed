"""The one place that puts the dashboard together from the settings, and runs it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from uuid import uuid4

from aiohttp import web

from mirrorlog.adapters.http.access import HttpAccess, http_access
from mirrorlog.adapters.http.connections import ConnectionLimits, connection_limit
from mirrorlog.adapters.http.guard import HttpGuard
from mirrorlog.adapters.http.http_server import HttpServer
from mirrorlog.adapters.http.login import Login
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.adapters.listening import ListeningWords, listen_at, url_of
from mirrorlog.changed.ask import query_ports
from mirrorlog.consumers.dashboard.event_stream import EventStreams
from mirrorlog.consumers.dashboard.live_items import LiveItems
from mirrorlog.consumers.dashboard.routes import (
    OPEN_PATHS,
    DashboardParts,
    build_dashboard_app,
)
from mirrorlog.consumers.dashboard.topic_looks import LookPorts, LookThread, TopicLooks
from mirrorlog.consumers.dashboard.volume_answers import PATIENCE_S, OpenPorts, VolumeAnswers
from mirrorlog.ports.clock import Clock, SystemClock
from mirrorlog.ports.supervisor import NoSupervisor, Supervisor
from mirrorlog.settings import Settings

_TOKEN_SETTING: Final = "dashboard_http_token"
_WORDS: Final = ListeningWords(who="the dashboard", option="--listen", token=_TOKEN_SETTING)
_CONNECTIONS: Final = 192
_OF_ONE_CLIENT: Final = 64
_HEADER_S: Final = 20.0
_POLL_S: Final = 0.1
_STOP_S: Final = 5.0
_CLIENT_PATIENCE_S: Final = 10.0


def run_dashboard(
    settings: Settings,
    *,
    stopped: Callable[[], bool],
    on_ready: Callable[[str], None],
    supervisor: Supervisor,
) -> None:
    """Serve the page at `settings.dashboard_http` until `stopped()` returns True.

    on_ready: called with the page's address once it can be loaded. Kafka may be away then: the page
    says so. Raise BadUse if the address can't be bound, or can be reached from other machines while
    neither a token nor certificates are asked for.
    """
    clock = SystemClock()
    with ExitStack() as opened:
        access = http_access(settings, settings.dashboard_http_token)
        listening = listen_at(settings.dashboard_http, _WORDS, is_guarded=access.is_guarded)
        opened.callback(listening.close)
        client = settings.kafka_client()
        admin = KafkaAdmin(client, _CLIENT_PATIENCE_S)
        opened.callback(admin.close)
        ports = LookPorts(
            open_reader=lambda: KafkaReader(client, _CLIENT_PATIENCE_S),
            admin=admin,
            topics=settings.topics,
            clock=clock,
            mirror_of=settings.kafka_mirror_of,
        )
        open_ports = partial(query_ports, settings, PATIENCE_S)
        dashboard = Dashboard(ports, open_ports, access, clock, supervisor)
        asyncio.run(dashboard.serve(listening, stopped, on_ready))


@dataclass(frozen=True, slots=True)
class Dashboard:
    """The dashboard on ports: looks in a thread, and a server on the event loop.

    open_ports: opens what one question about a volume needs. access: who may see the page.
    supervisor: is told after each look that the dashboard lives.
    """

    ports: LookPorts
    open_ports: OpenPorts
    access: HttpAccess
    clock: Clock
    supervisor: Supervisor = field(default_factory=NoSupervisor)

    async def serve(
        self,
        listening: socket.socket,
        stopped: Callable[[], bool],
        on_ready: Callable[[str], None],
    ) -> None:
        """Serve the page at a socket that listens, until `stopped()` returns True."""
        loop = asyncio.get_running_loop()
        items = LiveItems(uuid4().hex)
        looks = TopicLooks(self.ports, items)
        answers = VolumeAnswers(self.open_ports)

        def note_look() -> None:
            streams.note_look()
            self.supervisor.alive()

        def on_look() -> None:
            loop.call_soon_threadsafe(note_look)

        thread = LookThread(looks, self.clock, on_look)
        streams = EventStreams(items, thread.state)
        parts = DashboardParts(
            streams=streams,
            state=thread.state,
            answers=answers,
            lags=looks.lags,
            clock=self.clock,
            guard=self._guard(listening),
        )
        server = self._server(build_dashboard_app(parts), listening)
        try:
            await server.start()
            thread.start()
            on_ready(url_of(listening, self.access.scheme))
            while not stopped():
                await asyncio.sleep(_POLL_S)
        finally:
            streams.end()
            answers.close()
            await server.stop()
            await asyncio.to_thread(thread.stop, _STOP_S)

    def _guard(self, listening: socket.socket) -> HttpGuard:
        login = Login(self.access, listening.getsockname()[1]) if self.access.token else None
        return HttpGuard(
            self.access,
            listening,
            _TOKEN_SETTING,
            OPEN_PATHS,
            login=login,
            help_next="Open / in a browser.",
        )

    def _server(self, app: web.Application, listening: socket.socket) -> HttpServer:
        limits = ConnectionLimits(
            connection_limit(_CONNECTIONS),
            _HEADER_S,
            of_one_client=_OF_ONE_CLIENT,
            setting="the descriptors of the process (ulimit -n)",
        )
        listening.setblocking(False)
        return HttpServer(app, listening, limits, self.access.server_context())
