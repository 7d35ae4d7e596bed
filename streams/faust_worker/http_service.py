"""The node's HTTP server inside its Faust worker: the same process, the same event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import faust
from aiohttp import web
from mode import Service

from mirrorlog.errors import NodeUnavailable
from mirrorlog.streams.faust_worker.faust_store import FaustStore
from mirrorlog.streams.web.connections import ConnectionLimits, serve
from mirrorlog.streams.web.listen import HttpEndpoint
from mirrorlog.streams.web.partition_ownership import PartitionOwnership
from mirrorlog.streams.web.rocks_view import RocksTableView


class HttpService(Service):
    """Serves `app` at the endpoint for as long as the worker runs, also while it recovers."""

    def __init__(
        self, app: web.Application, endpoint: HttpEndpoint, limits: ConnectionLimits
    ) -> None:
        super().__init__()
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

    async def on_start(self) -> None:
        """Begin to accept requests."""
        await self._runner.setup()
        self._server = await serve(self._runner, self._endpoint.socket, self._limits)

    async def on_stop(self) -> None:
        """Cancel the requests that run and close the socket."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()


def follow_ownership(
    app: faust.App, store: FaustStore, ownership: PartitionOwnership, topic: str
) -> None:
    """Keep `ownership` up to date: assigned when recovery is done, revoked by every rebalance."""

    async def rebalances(_app: Any, _partitions: Any, **_: Any) -> None:
        ownership.revoke()

    async def recovered() -> None:
        assigned = [tp.partition for tp in app.assignor.assigned_actives() if tp.topic == topic]
        for partition in assigned:
            # Opens the table of a partition that has no record yet: a query never opens one.
            store.table.data._db_for_partition(partition)
        ownership.assign(assigned)

    signals: Any = app
    signals.on_partitions_revoked.connect(rebalances, weak=False)
    signals.on_partitions_assigned.connect(rebalances, weak=False)
    store.table.on_recover(recovered)


def worker_urls(app: faust.App, store: FaustStore) -> dict[int, str]:
    """Return the address of each partition's worker, as the group's assignment tells it."""
    topics_by_url = app.router.table_metadata(store.table.name)
    return {
        partition: url
        for url, topics in topics_by_url.items()
        for partitions in topics.values()
        for partition in partitions
    }


def open_table_view(store: FaustStore, partition: int) -> RocksTableView:
    """Open a view of a partition's table, from any thread. NodeUnavailable if it isn't open.

    A query never opens the table itself: the partition may belong to another worker by now.
    """
    table: Any = store.table.data._dbs.get(partition)
    if table is None:
        raise NodeUnavailable(
            "the partition's table isn't open", where=f"partition {partition}", next="Ask again."
        )
    return RocksTableView(table)
