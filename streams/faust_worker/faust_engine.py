"""The engine on Faust: the port of streams/engine.py, put together from the parts of this package.

Importing this module imports Faust, which reads sys.argv and the environment.
"""

from __future__ import annotations

from collections.abc import Sequence

from mirrorlog.adapters.schema_registry.wire_format import wire_format_of
from mirrorlog.ports.clock import Clock
from mirrorlog.settings import Settings
from mirrorlog.streams.engine import EngineHealth, EngineWork
from mirrorlog.streams.faust_worker.acknowledged_sends import SendReports, send_all
from mirrorlog.streams.faust_worker.app import (
    connect_signals,
    install_agent,
    make_app,
    seen_end,
    worker_urls,
)
from mirrorlog.streams.faust_worker.faust_recovery import follow_changelog
from mirrorlog.streams.faust_worker.faust_store import FaustStore
from mirrorlog.streams.faust_worker.gated_transport import gated_transport
from mirrorlog.streams.faust_worker.hosted_service import HostedService
from mirrorlog.streams.faust_worker.worker import run_worker
from mirrorlog.streams.table.outgoing import Outgoing


class FaustEngine:
    """One worker of the node on Faust.

    settings: `partitions` is the number that the commands topic really has.
    group:    the consumer group; also the app's id, and so the name of its state folder.
    member:   the worker's name in the group (listen.group_instance_id).
    url:      the worker's HTTP address; None if it answers none.
    """

    def __init__(
        self, settings: Settings, *, group: str, member: str, url: str | None, clock: Clock
    ) -> None:
        self._topics, self._patience_s = settings.topics, settings.patience_s
        self._app = make_app(settings, group=group, member=member, url=url)
        options = {
            "block_cache_size": settings.node_block_cache_bytes,
            "write_buffer_size": settings.node_write_buffer_bytes,
        }
        self._store = FaustStore(self._app, self._topics.changelog, options)
        self._send_reports = SendReports(clock)
        self._stuck: dict[int, str] = {}
        self._wire_format = wire_format_of(settings.kafka_client())
        self._with_headers = settings.node_host_keys_file is not None

    @property
    def store(self) -> FaustStore:
        """The table."""
        return self._store

    def connect(self, work: EngineWork) -> None:
        """Call `work` from now on (Engine.connect)."""
        app, commands = self._app, self._topics.commands
        app.transport = gated_transport(
            work.positions,
            work.batches,
            self._stuck,
            self._wire_format,
            with_headers=self._with_headers,
        )(app.conf.broker_consumer, app)
        follow_changelog(app, work.recovery, work.abort)
        connect_signals(app, self._store, commands, work.listeners, work.abort)
        install_agent(app, commands, work.batches, work.abort)
        for service in work.services:
            app.add_dependency(HostedService(service))

    def run(self) -> None:
        """Run until a signal stops the process (Engine.run)."""
        run_worker(self._app)

    async def send(self, messages: Sequence[Outgoing]) -> list[int]:
        """Send in order; return the offsets once they are acknowledged (Engine.send)."""
        return await send_all(self._app.producer, messages, self._patience_s, self._send_reports)

    def seen_end(self, partition: int) -> int | None:
        """Return where a partition of the commands ended at its last fetch (Engine.seen_end)."""
        return seen_end(self._app, self._topics.commands, partition)

    def health(self) -> EngineHealth:
        """Return what is wrong now (Engine.health)."""
        held_back_s, reason = self._send_reports.held_back
        return EngineHealth(dict(self._stuck), held_back_s, reason)

    def worker_urls(self) -> dict[int, str]:
        """Return the address of each partition's worker (Engine.worker_urls)."""
        return worker_urls(self._app, self._store)
