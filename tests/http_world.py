"""The node's HTTP over a log in memory. Each worker has a table of its own, or a standby's copy."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession, TCPConnector
from deadlines import DEADLINE_S
from logs import Log

from mirrorlog.adapters.http.access import HttpAccess
from mirrorlog.adapters.http.connections import ConnectionLimits
from mirrorlog.adapters.http.guard import HttpGuard
from mirrorlog.adapters.http.http_server import HttpServer
from mirrorlog.metric_samples import MetricSample
from mirrorlog.metrics import NODE_PARTITIONS
from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.catalog import Catalog
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.streams.web.client_pool import ClientPool, QueryClients
from mirrorlog.streams.web.handlers import HttpParts
from mirrorlog.streams.web.listen import listen
from mirrorlog.streams.web.partition_ownership import PartitionOwnership
from mirrorlog.streams.web.query_threads import QueryThreads
from mirrorlog.streams.web.server import OPEN_PATHS, build_http_app
from mirrorlog.topics import Topics

LIMITS = ConnectionLimits(connections=64, header_s=DEADLINE_S)


class MemoryView:
    """The rows that a table had when the view was made."""

    def __init__(self, rows: Mapping[bytes, bytes]) -> None:
        self._rows: Mapping[bytes, bytes] | None = dict(sorted(rows.items()))

    def get(self, key: bytes) -> bytes | None:
        assert self._rows is not None
        return self._rows.get(key)

    def has(self, key: bytes) -> bool:
        assert self._rows is not None
        return key in self._rows

    def first_from(self, key: bytes) -> tuple[bytes, bytes] | None:
        assert self._rows is not None
        return next(((name, row) for name, row in self._rows.items() if name >= key), None)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        assert self._rows is not None
        yield from ((key, value) for key, value in self._rows.items() if key.startswith(prefix))

    def close(self) -> None:
        self._rows = None


def table_of(broker: MemoryBroker, topics: Topics, partition: int) -> dict[bytes, bytes]:
    """Return the rows of a node's table of the partition: the changelog, folded."""
    rows: dict[bytes, bytes] = {}
    for message in broker.partition(topics.changelog, partition).messages:
        assert message.key is not None
        rows.pop(message.key, None)
        if message.value is not None:
            rows[message.key] = message.value
    return rows


@dataclass
class Worker:
    """One worker of the node.

    active: the partitions that it works on.
    access: who may ask. asker: as whom `client` asks.
    owners: by partition, the address of its worker, as this worker knows it.
    view:   makes the view that a question gets of a table.
    """

    log: Log
    active: list[int] = field(default_factory=lambda: [0])
    query_limit: int = 4
    access: HttpAccess = field(default_factory=HttpAccess)
    asker: HttpAccess = field(default_factory=HttpAccess)
    wait_s: float = 5.0
    owners: dict[int, str] = field(default_factory=dict)
    view: Callable[[Mapping[bytes, bytes]], MemoryView] = MemoryView
    ownership: PartitionOwnership = field(init=False)
    query_threads: QueryThreads = field(init=False)
    client: ClientSession = field(init=False)
    url: str = field(init=False)
    socket: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self.ownership = PartitionOwnership(lambda: self.owners)
        if self.active:
            self.ownership.assign(self.active)

    def parts(self) -> HttpParts:
        log = self.log

        def open_clients() -> QueryClients:
            catalog = Catalog(log.broker.reader(), log.broker, log.topics, SystemClock())
            return QueryClients(catalog, log.broker, log.open_reader, lambda: None)

        def open_view(partition: int) -> MemoryView:
            return self.view(table_of(log.broker, log.topics, partition))

        self.query_threads = QueryThreads(self.query_limit)
        return HttpParts(
            ownership=self.ownership,
            open_view=open_view,
            client_pool=ClientPool(open_clients),
            query_threads=self.query_threads,
            topics=log.topics,
            clock=SystemClock(),
            own_url=self.url,
            guard=HttpGuard(self.access, self.socket, "node_http_token", OPEN_PATHS),
            wait_s=self.wait_s,
            samples=lambda: [MetricSample(NODE_PARTITIONS, len(self.active), ("n",))],
        )

    async def text(self, path: str, **headers: str) -> str:
        async with self.client.get(path, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.text()

    async def json(self, path: str, status: int = 200, **headers: str) -> dict[str, Any]:
        async with self.client.get(path, headers=headers) as answer:
            body: dict[str, Any] = await answer.json()
            assert answer.status == status, body
            assert (answer.status == 503) == ("Retry-After" in answer.headers)
            return body

    async def pages(
        self, path: str, between: Callable[[], object] = lambda: None
    ) -> list[dict[str, Any]]:
        """Return all pages of a listing; the Link header leads from one to the next."""
        pages: list[dict[str, Any]] = []
        next_path: str | None = path
        while next_path:
            async with self.client.get(next_path) as answer:
                pages.append(await answer.json())
                assert answer.status == 200, pages
                link = answer.links.get("next")
                assert (link is None) == (pages[-1]["next"] is None)
                next_path = link["url"].raw_path_qs if link else None  # type: ignore[union-attr]
            between()
        return pages


@asynccontextmanager
async def listening(*workers: Worker) -> AsyncIterator[None]:
    """Let the workers listen. Each knows the addresses of all."""
    async with AsyncExitStack() as stack:
        for worker in workers:
            endpoint = listen("127.0.0.1:0", worker.access)
            assert endpoint is not None
            worker.url, worker.socket = endpoint.url, endpoint.socket
            context = worker.access.server_context()
            server = HttpServer(build_http_app(worker.parts()), endpoint.socket, LIMITS, context)
            stack.push_async_callback(server.stop)
            await server.start()
            connector = TCPConnector(ssl=worker.asker.client_context() or True)
            worker.client = await stack.enter_async_context(
                ClientSession(worker.url, connector=connector)
            )
        known = {partition: worker.url for worker in workers for partition in worker.active}
        for worker in workers:
            worker.owners = known | worker.owners
        yield
