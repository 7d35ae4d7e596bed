"""What the node's HTTP answers: JSON objects and streamed listings."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from aiohttp import web

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.formats import JSON_FORMATS, page
from mirrorlog.changed.http import (
    SINCE_HEADER,
    UNTIL_HEADER,
)
from mirrorlog.changed.points import format_time
from mirrorlog.domain.volumes import Volume
from mirrorlog.streams.web.query_threads import QuerySlot
from mirrorlog.streams.web.request_parameters import (
    ChangedQuery,
)

log = logging.getLogger("mirrorlog.node.http")
_CHUNK_CHARACTERS: Final = 1 << 16
SLOW_CLIENT_S: Final = 60.0
"""A client that takes nothing for that long is given up: it holds a place."""
_RETRY_AFTER_S: Final = 1
_NO_STORE: Final = {"Cache-Control": "no-store"}
_MEDIA: Final = {"csv": "text/csv"} | dict.fromkeys(JSON_FORMATS, "application/json")


def volume_entry(volume: Volume, worker: str | None) -> Mapping[str, Any]:
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


def page_body(answer: ChangedBlocks, question: ChangedQuery) -> tuple[int | None, bytes]:
    """(the byte that the next page begins with, the page)."""
    found = page(answer, question.format, question.offset, question.limit)
    piece = {
        "format": question.format,
        "offset": question.offset,
        "listing": found.listing,
        "next": found.next,
    }
    return found.next, encode_json(_about(answer) | piece)


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


async def stream_listing(
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
            async with asyncio.timeout(SLOW_CLIENT_S):
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


def chunks_of(pieces: Iterator[str], go_on: Callable[[], None]) -> Iterator[str]:
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


def encode_json(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, allow_nan=False).encode() + b"\n"


def json_response(
    body: bytes, headers: Mapping[str, str] | None = None, status: int = 200
) -> web.Response:
    """What is true now may not be in a moment: no cache keeps it."""
    retry = {"Retry-After": str(_RETRY_AFTER_S)} if status == 503 else {}
    told = {**_NO_STORE, **retry, **(headers or {})}
    return web.Response(body=body, status=status, content_type="application/json", headers=told)
