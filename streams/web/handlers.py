"""What each route of the node's HTTP does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Final

from aiohttp import web

from mirrorlog.adapters.http.guard import HttpGuard
from mirrorlog.adapters.http.responses import encode_json, json_response, metrics_response
from mirrorlog.adapters.metrics_page import MetricsExporter
from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.formats import join_pieces, render
from mirrorlog.changed.http import FORWARDED_HEADER
from mirrorlog.changed.query import changed_blocks
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import NodeUnavailable
from mirrorlog.metric_samples import ExportingRole, MetricSamples
from mirrorlog.ports.clock import Clock
from mirrorlog.streams.table.local_store import TableView
from mirrorlog.streams.web.client_pool import ClientPool
from mirrorlog.streams.web.forward import RequestForwarder
from mirrorlog.streams.web.openapi import openapi
from mirrorlog.streams.web.page_cache import PageCache
from mirrorlog.streams.web.partition_ownership import PartitionOwnership
from mirrorlog.streams.web.query_threads import QuerySlot, QueryThreads
from mirrorlog.streams.web.request_parameters import (
    ChangedQuery,
    parse_changed_query,
    parse_volumes_query,
)
from mirrorlog.streams.web.responses import (
    SLOW_CLIENT_S,
    changed_page,
    page_points,
    stream_listing,
    volume_entry,
)
from mirrorlog.streams.web.table_logs import TableLogSource
from mirrorlog.topics import Topics

_CACHED_RESULTS: Final = 4


@dataclass(frozen=True, slots=True)
class HttpParts:
    """The parts that the handlers need.

    open_view: opens a view of a partition's table, from any thread.
    own_url:   the address that this worker tells its group.
    guard:     refuses requests that the worker shouldn't answer.
    wait_s:    how long a question waits at most for the log to be complete.
    samples:   reads the worker's metrics, on the event loop.
    """

    ownership: PartitionOwnership
    open_view: Callable[[int], TableView]
    client_pool: ClientPool
    query_threads: QueryThreads
    topics: Topics
    clock: Clock
    own_url: str
    guard: HttpGuard
    wait_s: float = 30.0
    samples: Callable[[], MetricSamples] = tuple


class RequestHandlers:
    """The handlers of all routes. They run on the event loop; what blocks runs in a query slot."""

    def __init__(self, parts: HttpParts) -> None:
        self._parts = parts
        self._cache = PageCache(_CACHED_RESULTS, parts.clock)
        self._forwarder = RequestForwarder(parts.wait_s + SLOW_CLIENT_S, parts.guard.access)
        self._exporter = MetricsExporter(ExportingRole.NODE, parts.samples)

    async def open_clients(self, _: web.Application) -> AsyncIterator[None]:
        """Open what the handlers use, and close all of it with the server (aiohttp cleanup_ctx)."""
        async with self._forwarder:
            yield
        self._parts.query_threads.close()
        self._parts.client_pool.close()

    async def health(self, _: web.Request) -> web.Response:
        """Answer 200 while the worker has its place in the group, and 503 otherwise.

        A worker without partitions is healthy, too. One that recovers or rebalances is not.
        """
        ownership = self._parts.ownership
        status = "ok" if ownership.is_settled else "recovering"
        fields = {"schema_version": 1, "status": status, "partitions": ownership.partitions}
        return json_response(encode_json(fields), status=200 if ownership.is_settled else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """Answer with the worker's metrics, in the format that Prometheus asks for."""
        return metrics_response(self._exporter, request)

    async def openapi(self, _: web.Request) -> web.Response:
        """Answer with the OpenAPI description of the node's HTTP."""
        return json_response(encode_json(openapi()))

    async def docs(self, _: web.Request) -> web.Response:
        """Answer with the description as a page for people. It loads nothing from elsewhere."""
        return web.Response(text=_file("docs.html"), content_type="text/html")

    async def docs_script(self, _: web.Request) -> web.Response:
        """Answer with the script of that page."""
        return web.Response(text=_file("docs.js"), content_type="text/javascript")

    async def docs_style(self, _: web.Request) -> web.Response:
        """Answer with the style of that page."""
        return web.Response(text=_file("docs.css"), content_type="text/css")

    async def volumes(self, request: web.Request) -> web.Response:
        """Answer with a page of the volumes of all partitions, by name."""
        after, limit = parse_volumes_query(request.query)
        ownership = self._parts.ownership
        workers = ownership.owners() | dict.fromkeys(ownership.partitions, self._parts.own_url)
        with self._parts.query_threads.slot() as slot:
            return json_response(await slot.run(partial(self._volumes_page, after, limit, workers)))

    def _volumes_page(self, after: str, limit: int, workers: Mapping[int, str]) -> bytes:
        """Return the encoded page of at most `limit` volumes. Runs in the slot's thread."""
        with self._parts.client_pool.borrow() as clients:
            clients.catalog.refresh()
            names = [name for name in sorted(clients.catalog) if name > after]
            volumes = [clients.catalog[name] for name in names[:limit]]
        entries = [volume_entry(volume, workers.get(volume.partition)) for volume in volumes]
        next_after = names[limit - 1] if len(names) > limit else None
        return encode_json({"schema_version": 1, "volumes": entries, "next": next_after})

    async def changed(self, request: web.Request) -> web.StreamResponse:
        """Answer which blocks changed.

        The worker that has the volume's partition answers from its table. Every other worker passes
        the request on to that one, once: a request that was passed on is never passed on again.
        """
        parts = self._parts
        query = parse_changed_query(request.query, parts.clock.now_us(), parts.wait_s)
        with parts.query_threads.slot() as slot:
            volume = await slot.run(partial(self._volume, request.match_info["volume"]))
            if check_owned := parts.ownership.check_for(volume.partition):
                blocks = self._cache.get(
                    volume, query.since, query.until, is_later_page=query.offset > 0
                )
                if blocks is None:
                    blocks = await slot.run(
                        partial(self._query, volume.volume, query, slot, check_owned)
                    )
                return await self._respond(request, query, blocks, slot)
        owner_url = parts.ownership.owners().get(volume.partition)
        if owner_url in (None, parts.own_url) or FORWARDED_HEADER in request.headers:
            raise NodeUnavailable(
                "no worker answers for the partition at the moment: a rebalance or a recovery runs",
                where=f"volume {volume.volume}, partition {volume.partition}",
                next="Ask again in a moment.",
            )
        assert owner_url is not None
        return await self._forwarder.forward(request, owner_url)

    def _volume(self, name: str) -> Volume:
        """Return the volume as it is described now. Runs in the slot's thread."""
        with self._parts.client_pool.borrow() as clients:
            clients.catalog.refresh()
            return clients.catalog.volume_named(name)

    def _query(
        self, name: str, query: ChangedQuery, slot: QuerySlot, check_owned: Callable[[], None]
    ) -> ChangedBlocks:
        """Find what changed, with the proof that the command line makes.

        Runs in the slot's thread. Gives up if the client goes away (QueryCancelled) or the
        partition moves (NodeUnavailable, from `check_owned`).
        """

        def checkpoint() -> None:
            slot.checkpoint()
            check_owned()

        parts = self._parts
        logs = TableLogSource(parts.open_view, parts.clock, checkpoint, slot.pause)
        with parts.client_pool.borrow() as clients:
            ports = QueryPorts(
                clients.open_reader,
                clients.admin,
                clients.catalog,
                parts.topics,
                parts.clock,
                logs,
                checkpoint,
            )
            return changed_blocks(name, query.since, query.until, ports, query.wait_s)

    async def _respond(
        self, request: web.Request, query: ChangedQuery, blocks: ChangedBlocks, slot: QuerySlot
    ) -> web.StreamResponse:
        """Answer with a page, or with the whole listing if the query has no limit."""
        if not query.limit:
            pieces = await slot.run(partial(render, blocks, query.format, query.offset))
            chunks = join_pieces(pieces, slot.checkpoint)
            return await stream_listing(request, query, blocks, chunks, slot)
        next_offset, body = await slot.run(partial(changed_page, blocks, query))
        if next_offset is None:
            return json_response(body)
        self._cache.put(blocks)
        next_url = request.rel_url.update_query(
            {
                **page_points(blocks),
                "offset": next_offset,
                "limit": query.limit,
            }
        )
        return json_response(body, {"Link": f'<{next_url}>; rel="next"'})  # RFC 8288


def _file(name: str) -> str:
    return files("mirrorlog.streams.web").joinpath(name).read_text("utf-8")
