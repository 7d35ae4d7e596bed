"""What the node's HTTP answers: JSON objects and streamed listings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from aiohttp import web

from mirrorlog.adapters.http.listings import send_listing
from mirrorlog.adapters.http.responses import encode_json
from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.formats import content_type, list_page
from mirrorlog.changed.http import BEGAN_HEADER, CLOCK_HEADER, SINCE_HEADER, UNTIL_HEADER
from mirrorlog.changed.points import AtTime, Point, format_time
from mirrorlog.domain.volumes import Volume
from mirrorlog.streams.web.query_threads import QuerySlot
from mirrorlog.streams.web.request_parameters import ChangedQuery

SLOW_CLIENT_S: Final = 60.0
"""A client that reads nothing for this long is disconnected: it holds a query slot."""


def volume_entry(volume: Volume, worker: str | None) -> Mapping[str, Any]:
    """Return what the list of volumes says about one. worker: its address, None if none answers."""
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


def changed_page(blocks: ChangedBlocks, query: ChangedQuery) -> tuple[int | None, bytes]:
    """Return (the byte that the next page begins with, None on the last; the encoded page)."""
    listing_page = list_page(blocks, query.format, query.offset, query.limit)
    listing = {
        "format": query.format,
        "offset": query.offset,
        "listing": listing_page.listing,
        "next": listing_page.next,
    }
    return listing_page.next, encode_json(_summary(blocks) | listing)


def _summary(blocks: ChangedBlocks) -> dict[str, Any]:
    """Return what a page says about the whole result."""
    volume = blocks.volume
    return {
        "schema_version": 1,
        "volume": volume.volume,
        "generation": volume.generation,
        "size_bytes": volume.size_bytes,
        "block_size": volume.block_size,
        **page_points(blocks),
        "since_at": _time(blocks.asked.since_us),
        "until_at": _time(blocks.asked.until_us),
        "volume_began_at": _time(blocks.asked.volume_began_us),
        "clock": blocks.asked.clock,
        "changed_blocks": len(blocks.changed),
        "hosts": list(blocks.hosts),
        "has_more_hosts": blocks.has_more_hosts,
        "first_write_at": _time(blocks.first_write_at_us),
        "last_write_at": _time(blocks.last_write_at_us),
        "writes": blocks.writes,
    }


def page_points(blocks: ChangedBlocks) -> dict[str, int | str]:
    """Return `since` and `until` with which the next page is asked for."""
    since, until = blocks.points
    return {"since": _text(since, blocks.since), "until": _text(until, blocks.until)}


def _text(point: Point, position: int) -> int | str:
    """Return the text of a time; the position for any other point."""
    time = format_time(point.at_us) if isinstance(point, AtTime) else None
    return position if time is None else time


def _time(at_us: int | None) -> str | None:
    return None if at_us is None else format_time(at_us)


async def stream_listing(
    request: web.Request,
    query: ChangedQuery,
    blocks: ChangedBlocks,
    chunks: Iterator[str],
    slot: QuerySlot,
) -> web.StreamResponse:
    """Send the listing as the command line prints it. The chunks are made in the slot's thread."""
    positions = {SINCE_HEADER: str(blocks.since), UNTIL_HEADER: str(blocks.until)}
    if began_at := _time(blocks.asked.volume_began_us):
        positions[BEGAN_HEADER] = began_at
    if blocks.asked.clock is not None:
        positions[CLOCK_HEADER] = blocks.asked.clock
    response = web.StreamResponse(headers={**positions, "Content-Type": content_type(query.format)})
    next_chunk = partial(slot.run, partial(next, chunks, ""))
    return await send_listing(request, response, next_chunk, slow_client_s=SLOW_CLIENT_S)
