"""Passes a request on to the worker that has the volume's partition.

The request is passed on and not redirected: curl doesn't follow a redirect by itself, curl and
requests drop the token on the way to another port, and a worker's address may mean nothing outside
its network.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Final, Self

from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
    web,
)
from yarl import URL

from mirrorlog.adapters.http.access import HttpAccess
from mirrorlog.adapters.http.tls_refusals import tls_refusal
from mirrorlog.changed.http import (
    BEGAN_HEADER,
    CLOCK_HEADER,
    FORWARDED_HEADER,
    SINCE_HEADER,
    UNTIL_HEADER,
)
from mirrorlog.errors import NodeUnavailable, in_words

log = logging.getLogger("mirrorlog.node.http")
_MAX_FORWARDED: Final = 32
_CHUNK_BYTES: Final = 1 << 16
_CONNECT_S: Final = 2.0
_PASSED_BACK: Final = (
    "Content-Type",
    "Content-Length",
    "Cache-Control",
    "Link",
    "Retry-After",
    "WWW-Authenticate",
    SINCE_HEADER,
    UNTIL_HEADER,
    BEGAN_HEADER,
    CLOCK_HEADER,
)


class RequestForwarder:
    """Passes requests on, each by one hop: a header marks it, and the worker that gets it never
    passes it on again. An asynchronous context manager, which holds the connections.

    silence_s: how long the other worker may send nothing, and the client read nothing.
    access:    with what this worker proves who it is, if the others ask for certificates.
    """

    def __init__(self, silence_s: float, access: HttpAccess) -> None:
        self._silence_s, self._access = silence_s, access
        self._forwarded = 0
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=self._silence_s)
        self._session = ClientSession(
            connector=TCPConnector(ssl=self._access.client_context() or True),
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def forward(self, request: web.Request, owner_url: str) -> web.StreamResponse:
        """Answer with what the worker at `owner_url` answers, as it arrives.

        NodeUnavailable if that worker doesn't answer, or if too many requests are passed on.
        """
        assert self._session is not None
        if self._forwarded >= _MAX_FORWARDED:
            raise NodeUnavailable(
                f"{_MAX_FORWARDED} requests are being passed on", next="Ask again in a moment."
            )
        headers = {FORWARDED_HEADER: "1"}
        if "Authorization" in request.headers:
            headers["Authorization"] = request.headers["Authorization"]
        url = URL(owner_url.rstrip("/") + request.raw_path, encoded=True)
        self._forwarded += 1
        try:
            async with self._session.get(url, headers=headers, allow_redirects=False) as theirs:
                return await self._pass_back(request, theirs)
        except (ClientError, TimeoutError) as error:
            refusal = tls_refusal(error)
            raise NodeUnavailable(
                "the worker that has the partition doesn't answer: "
                f"{in_words(error) if refusal is None else refusal.what}",
                where=owner_url,
                next="Ask again in a moment: another takes its partitions over."
                if refusal is None
                else f"On the worker that was asked: {refusal.next}",
            ) from error
        finally:
            self._forwarded -= 1

    async def _pass_back(self, request: web.Request, theirs: ClientResponse) -> web.StreamResponse:
        """Copy the response to the client. If it breaks off, the client's connection does too."""
        kept = {name: theirs.headers[name] for name in _PASSED_BACK if name in theirs.headers}
        ours = web.StreamResponse(status=theirs.status, headers=kept)
        await ours.prepare(request)
        try:
            async for chunk in theirs.content.iter_chunked(_CHUNK_BYTES):
                async with asyncio.timeout(self._silence_s):
                    await ours.write(chunk)
            await ours.write_eof()
        except (ClientError, OSError, TimeoutError) as error:
            log.warning("an answer that was passed on broke off: %s", in_words(error))
            if request.transport is not None:
                request.transport.abort()
        return ours
