"""The node's HTTP inside its Faust worker: the same process, the same event loop."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import faust
from aiohttp import web
from mode import Service

from mirrorlog.errors import NodeUnavailable
from mirrorlog.ports.clock import Clock
from mirrorlog.settings import Settings
from mirrorlog.streams.faust_worker.faust_store import FaustStore
from mirrorlog.streams.web.client_pool import ClientPool, kafka_query_clients
from mirrorlog.streams.web.handlers import HttpParts
from mirrorlog.streams.web.listen import HttpEndpoint
from mirrorlog.streams.web.partition_ownership import PartitionOwnership
from mirrorlog.streams.web.query_threads import QueryThreads
from mirrorlog.streams.web.rocks_view import RocksTableView
from mirrorlog.streams.web.server import build_http_app

_BROKER_PATIENCE_S: Final = 5.0
"""How long a question waits for a broker that is away: the client asks again."""


class HttpService(Service):
    """Listens as long as the worker runs, also while it recovers: then it says so."""

    def __init__(self, app: web.Application, listening: HttpEndpoint) -> None:
        super().__init__()
        # A client that goes away cancels its handler, and so its question (aiohttp: "Peer disconnection").
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0
        )
        self._listening = listening

    async def on_start(self) -> None:
        """Begins to answer."""
        await self._runner.setup()
        await web.SockSite(self._runner, self._listening.socket).start()

    async def on_stop(self) -> None:
        """Ends what is being answered."""
        await self._runner.cleanup()


def install_http_service(
    app: faust.App, settings: Settings, listening: HttpEndpoint, store: FaustStore, clock: Clock
) -> None:
    """Makes the service a part of the worker: it starts and stops with it, and follows its assignments."""
    ownership = PartitionOwnership(partial(_owners, app, store))
    _follow_group(app, store, ownership, settings.topics.commands)
    parts = HttpParts(
        ownership=ownership,
        open_view=partial(_open_table_view, store),
        client_pool=ClientPool(partial(kafka_query_clients, settings, clock, _BROKER_PATIENCE_S)),
        query_threads=QueryThreads(settings.node_http_queries),
        topics=settings.topics,
        clock=clock,
        own_url=listening.url,
        token=settings.node_http_token,
        wait_s=settings.node_http_wait_s,
    )
    app.add_dependency(HttpService(build_http_app(parts), listening))


def _open_table_view(store: FaustStore, partition: int) -> RocksTableView:
    """Of a table that is open: a thread never opens one, it might be another worker's by now."""
    table: Any = store.table.data._dbs.get(partition)
    if table is None:
        raise NodeUnavailable(
            "the partition's table isn't open", where=f"partition {partition}", next="Ask again."
        )
    return RocksTableView(table)


def _follow_group(
    app: faust.App, store: FaustStore, ownership: PartitionOwnership, topic: str
) -> None:
    """A term begins when recovery is done, and ends with the next rebalance."""

    async def rebalances(_app: Any, _partitions: Any, **_: Any) -> None:
        ownership.end()

    async def recovered() -> None:
        here = [tp.partition for tp in app.assignor.assigned_actives() if tp.topic == topic]
        for partition in here:
            store.table.data._db_for_partition(
                partition
            )  # of a partition without a record it may not be open yet
        ownership.begin(here)

    signals: Any = app
    signals.on_partitions_revoked.connect(rebalances, weak=False)
    signals.on_partitions_assigned.connect(rebalances, weak=False)
    store.table.on_recover(recovered)


def _owners(app: faust.App, store: FaustStore) -> dict[int, str]:
    """By partition, the address of its worker: each tells the group its own, and the assignment tells all."""
    found = app.router.table_metadata(store.table.name)
    return {
        number: url
        for url, topics in found.items()
        for numbers in topics.values()
        for number in numbers
    }
