"""The node's HTTP: routes, what each answers, and how an error is told. docs/http.md is for its users."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files

from aiohttp import web

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.formats import render
from mirrorlog.changed.http import (
    FORWARDED_HEADER,
)
from mirrorlog.changed.query import QueryPorts, changed_blocks
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import NodeUnavailable, UnknownVolume
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
    chunks_of,
    encode_json,
    json_response,
    page_body,
    stream_listing,
    volume_entry,
)
from mirrorlog.streams.web.table_logs import TableLogs
from mirrorlog.topics import Topics


@dataclass(frozen=True, slots=True)
class HttpParts:
    """What the pages stand on. open_view: of one partition's table, from any thread. token: none where it is empty."""

    ownership: PartitionOwnership
    open_view: Callable[[int], TableView]
    client_pool: ClientPool
    query_threads: QueryThreads
    topics: Topics
    clock: Clock
    own_url: str
    token: str = ""
    wait_s: float = 30.0


class RequestHandlers:
    def __init__(self, parts: HttpParts) -> None:
        self._parts = parts
        self._answers = PageCache(4, parts.clock)
        self._forwarder = RequestForwarder(parts.wait_s + SLOW_CLIENT_S)

    async def clients(self, _: web.Application) -> AsyncIterator[None]:
        """Everything that a page opens is closed with the server."""
        async with self._forwarder:
            yield
        self._parts.query_threads.close()
        self._parts.client_pool.close()

    async def health(self, _: web.Request) -> web.Response:
        """Whether the worker lives: it has its partitions, or has none to have, and isn't recovering."""
        ownership = self._parts.ownership
        status = "ok" if ownership.is_settled else "recovering"
        fields = {"schema_version": 1, "status": status, "partitions": ownership.partitions}
        return json_response(encode_json(fields), status=200 if ownership.is_settled else 503)

    async def openapi(self, _: web.Request) -> web.Response:
        """The description of all of this."""
        return json_response(encode_json(openapi()))

    async def docs(self, _: web.Request) -> web.Response:
        """The same for people; the page asks nobody but this node."""
        page_html = files("mirrorlog.streams.web").joinpath("docs.html").read_text("utf-8")
        policy = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
        return web.Response(
            text=page_html, content_type="text/html", headers={"Content-Security-Policy": policy}
        )

    async def volumes(self, request: web.Request) -> web.Response:
        """The volumes of all partitions, by name."""
        after, most = parse_volumes_query(request.query)
        ownership = self._parts.ownership
        workers = dict(ownership.owners()) | dict.fromkeys(
            ownership.partitions, self._parts.own_url
        )
        with self._parts.query_threads.place() as place:
            return json_response(await place.run(partial(self._listed, after, most, workers)))

    def _listed(self, after: str, most: int, workers: Mapping[int, str]) -> bytes:
        with self._parts.client_pool.desk() as desk:
            desk.catalog.refresh()
            found = [desk.catalog[name] for name in sorted(desk.catalog) if name > after][
                : most + 1
            ]
        following = found[most - 1].volume if len(found) > most else None
        entries = [volume_entry(volume, workers.get(volume.partition)) for volume in found[:most]]
        return encode_json({"schema_version": 1, "volumes": entries, "next": following})

    async def changed(self, request: web.Request) -> web.StreamResponse:
        """Answered here where the partition is here; passed on to the worker that has it where it isn't."""
        parts = self._parts
        question = parse_changed_query(request.query, parts.clock.now_us(), parts.wait_s)
        with parts.query_threads.place() as place:
            volume = await place.run(partial(self._volume, request.match_info["volume"]))
            if in_term := parts.ownership.term(volume.partition):
                answer = self._answers.find(volume, question.since, question.until)
                if answer is None:
                    answer = await place.run(
                        partial(self._ask, volume.volume, question, place, in_term)
                    )
                return await self._tell(request, question, answer, place)
        owner = parts.ownership.owners().get(volume.partition)
        if owner in (None, parts.own_url) or FORWARDED_HEADER in request.headers:
            raise NodeUnavailable(
                "no worker answers for the partition at the moment: a rebalance or a recovery runs",
                where=f"volume {volume.volume}, partition {volume.partition}",
                next="Ask again in a moment.",
            )
        assert owner is not None
        return await self._forwarder.forward(request, owner)

    def _volume(self, name: str) -> Volume:
        with self._parts.client_pool.desk() as desk:
            desk.catalog.refresh()
            volume = desk.catalog.get(name)
        if volume is None:
            raise UnknownVolume(
                f"there is no volume '{name[:220]}'", next="GET /v1/volumes shows those there are."
            )
        return volume

    def _ask(
        self, name: str, question: ChangedQuery, place: QuerySlot, in_term: Callable[[], None]
    ) -> ChangedBlocks:
        """In a thread: the answer is proved as on the command line, and given up where the partition moves."""

        def go_on() -> None:
            place.go_on()
            in_term()

        parts = self._parts
        logs = TableLogs(parts.open_view, parts.clock, go_on, place.pause)
        with parts.client_pool.desk() as desk:
            ports = QueryPorts(
                desk.open_reader, desk.admin, desk.catalog, parts.topics, parts.clock, logs, go_on
            )
            return changed_blocks(name, question.since, question.until, ports, question.wait_s)

    async def _tell(
        self, request: web.Request, question: ChangedQuery, answer: ChangedBlocks, place: QuerySlot
    ) -> web.StreamResponse:
        if not question.limit:
            pieces = await place.run(partial(render, answer, question.format, question.offset))
            return await stream_listing(
                request, question, answer, chunks_of(pieces, place.go_on), place
            )
        following, body = await place.run(partial(page_body, answer, question))
        if following is None:
            return json_response(body)
        self._answers.keep(answer)
        further = {
            "since": answer.since,
            "until": answer.until,
            "offset": following,
            "limit": question.limit,
        }
        return json_response(
            body, {"Link": f'<{request.rel_url.update_query(further)}>; rel="next"'}
        )  # RFC 8288
