"""The node's HTTP: routes, what each answers, and how an error is told. docs/http.md is for its users."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.formats import JSON_FORMATS, page, render
from mirrorlog.changed.http import (
    FORWARDED_HEADER,
    SINCE_HEADER,
    UNTIL_HEADER,
    status_of,
)
from mirrorlog.changed.points import format_time
from mirrorlog.changed.query import QueryPorts, changed_blocks
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, MirrorlogError, NodeUnavailable, NotAllowed, UnknownVolume
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
from mirrorlog.streams.web.table_logs import TableLogs
from mirrorlog.topics import Topics

log = logging.getLogger("mirrorlog.node.http")
_CHUNK_CHARACTERS: Final = 1 << 16
_SLOW_READER_S: Final = 60.0
"""A client that takes nothing for that long is given up: it holds a place."""
_RETRY_AFTER_S: Final = 1
_NO_STORE: Final = {"Cache-Control": "no-store"}
_MEDIA: Final = {"csv": "text/csv"} | dict.fromkeys(JSON_FORMATS, "application/json")


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


def build_http_app(parts: HttpParts) -> web.Application:
    """The application, not listening yet."""
    pages = RequestHandlers(parts)
    app = web.Application(
        middlewares=[_told_as_json, _allowed(parts.token)], client_max_size=1 << 10
    )
    for path, handler in {
        "/healthz": pages.health,
        "/openapi.json": pages.openapi,
        "/docs": pages.docs,
        "/v1/volumes": pages.volumes,
        "/v1/volumes/{volume}/changed": pages.changed,
    }.items():
        app.router.add_get(path, handler, allow_head=False)
    app.cleanup_ctx.append(pages.clients)
    return app


class RequestHandlers:
    def __init__(self, parts: HttpParts) -> None:
        self._parts = parts
        self._answers = PageCache(4, parts.clock)
        self._forwarder = RequestForwarder(parts.wait_s + _SLOW_READER_S)

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
        return _json(_encoded(fields), status=200 if ownership.is_settled else 503)

    async def openapi(self, _: web.Request) -> web.Response:
        """The description of all of this."""
        return _json(_encoded(openapi()))

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
            return _json(await place.run(partial(self._listed, after, most, workers)))

    def _listed(self, after: str, most: int, workers: Mapping[int, str]) -> bytes:
        with self._parts.client_pool.desk() as desk:
            desk.catalog.refresh()
            found = [desk.catalog[name] for name in sorted(desk.catalog) if name > after][
                : most + 1
            ]
        following = found[most - 1].volume if len(found) > most else None
        entries = [_described(volume, workers.get(volume.partition)) for volume in found[:most]]
        return _encoded({"schema_version": 1, "volumes": entries, "next": following})

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
            return await _stream(request, question, answer, _chunks(pieces, place.go_on), place)
        following, body = await place.run(partial(_page_of, answer, question))
        if following is None:
            return _json(body)
        self._answers.keep(answer)
        further = {
            "since": answer.since,
            "until": answer.until,
            "offset": following,
            "limit": question.limit,
        }
        return _json(
            body, {"Link": f'<{request.rel_url.update_query(further)}>; rel="next"'}
        )  # RFC 8288


def _described(volume: Volume, worker: str | None) -> Mapping[str, Any]:
    return {
        "volume": volume.volume,
        "generation": volume.generation,
        "state": volume.state.value,
        "size_bytes": volume.size_bytes,
        "block_size": volume.block_size,
        "partition": volume.partition,
        "origin_position": volume.origin_position,
        "created_at": format_time(volume.created_at_us) if volume.created_at_us else None,
        "worker": worker,
    }


def _page_of(answer: ChangedBlocks, question: ChangedQuery) -> tuple[int | None, bytes]:
    """(the byte that the next page begins with, the page)."""
    found = page(answer, question.format, question.offset, question.limit)
    piece = {
        "format": question.format,
        "offset": question.offset,
        "listing": found.listing,
        "next": found.next,
    }
    return found.next, _encoded(_about(answer) | piece)


def _about(answer: ChangedBlocks) -> dict[str, Any]:
    volume = answer.volume
    first, last = (
        None if at is None else format_time(at)
        for at in (answer.first_write_at_us, answer.last_write_at_us)
    )
    return {
        "schema_version": 1,
        "volume": volume.volume,
        "generation": volume.generation,
        "size_bytes": volume.size_bytes,
        "block_size": volume.block_size,
        "since": answer.since,
        "until": answer.until,
        "changed_blocks": len(answer.changed),
        "hosts": list(answer.hosts),
        "first_write_at": first,
        "last_write_at": last,
        "writes": answer.writes,
    }


async def _stream(
    request: web.Request,
    question: ChangedQuery,
    answer: ChangedBlocks,
    chunks: Iterator[str],
    place: QuerySlot,
) -> web.StreamResponse:
    """As the command line prints it. Where it breaks off, the connection does too: a short listing is never a whole one."""
    media = f"{_MEDIA.get(question.format, 'text/plain')}; charset=utf-8"
    pinned = {SINCE_HEADER: str(answer.since), UNTIL_HEADER: str(answer.until)}
    headers = {**_NO_STORE, **pinned, "Content-Type": media}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    try:
        while chunk := await place.run(partial(next, chunks, "")):
            async with asyncio.timeout(_SLOW_READER_S):
                await response.write(chunk.encode())
        await response.write_eof()
    except BaseException as error:
        if request.transport is not None:
            request.transport.abort()
        if not isinstance(error, ConnectionError | TimeoutError | asyncio.CancelledError):
            log.exception("an answer broke off")
        if isinstance(error, asyncio.CancelledError):
            raise
    return response


def _chunks(pieces: Iterator[str], go_on: Callable[[], None]) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for piece in pieces:
        go_on()
        held.append(piece)
        size += len(piece)
        if size >= _CHUNK_CHARACTERS:
            yield "".join(held)
            held, size = [], 0
    yield "".join(held)


def _encoded(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, allow_nan=False).encode() + b"\n"


def _json(body: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> web.Response:
    """What is true now may not be in a moment: no cache keeps it."""
    retry = {"Retry-After": str(_RETRY_AFTER_S)} if status == 503 else {}
    told = {**_NO_STORE, **retry, **(headers or {})}
    return web.Response(body=body, status=status, content_type="application/json", headers=told)


@web.middleware
async def _told_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error is an object as on the command line, and none of them reaches the node."""
    headers = {}
    try:
        return await handler(request)
    except web.HTTPException as error:
        status = error.status
        told: MirrorlogError = BadUse(
            f"{request.method} {request.path[:200]}: {error.reason}", next="See /docs."
        )
        headers = {name: value for name, value in error.headers.items() if name == "Allow"}
    except MirrorlogError as error:
        status, told = status_of(error), error
    except Exception as error:
        log.exception("a request failed")
        status = 500
        told = MirrorlogError(
            f"the node met an error that it doesn't know: {type(error).__name__}",
            next="See its log.",
        )
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _json(_encoded(told.as_message()), headers, status)


def _allowed(token: str) -> Middleware:
    @web.middleware
    async def allowed(request: web.Request, handler: Handler) -> web.StreamResponse:
        """What is known of volumes is for those who have the token; probes and the description are for all."""
        if token and request.path.startswith("/v1/"):
            given = request.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                raise NotAllowed(
                    "the request doesn't carry the node's token",
                    next="Send Authorization: Bearer TOKEN.",
                )
        return await handler(request)

    return allowed
