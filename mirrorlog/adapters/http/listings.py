"""Listings as answers: text that is sent in chunks while it is made."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

log = logging.getLogger("mirrorlog.http")


async def send_listing(
    request: web.Request,
    response: web.StreamResponse,
    next_chunk: Callable[[], Awaitable[str]],
    *,
    slow_client_s: float,
) -> web.StreamResponse:
    """Send chunks as `response` until one is empty, and return it.

    slow_client_s: a client that reads nothing for this long is disconnected.

    If it breaks off, so does the connection: a client never takes a part for the whole.
    """
    await response.prepare(request)
    try:
        while chunk := await next_chunk():
            async with asyncio.timeout(slow_client_s):
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
