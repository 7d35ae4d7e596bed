"""The checks of each request, and the headers of each answer.

The order of the checks, each of which refuses before the next one runs:

1. Host: on the loopback address, a request must name this machine. Otherwise a web page could ask
   under a name of its own that leads to 127.0.0.1 (DNS rebinding).
2. Site: what a page of another site asks for is refused, except that a person may follow a link.
3. Token, or the cookie of the login, except for paths that are open.
4. Size: the body is read whole, within the time for a header, and up to `body_bytes`.

Client certificates are checked before any request, by TLS.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from mirrorlog.adapters.http.access import HttpAccess
from mirrorlog.adapters.http.answer_headers import ANSWER_HEADERS, SERVER_NAME
from mirrorlog.adapters.http.connections import untimed_answer
from mirrorlog.adapters.http.error_responses import error_response, errors_as_json
from mirrorlog.adapters.http.foreign_requests import foreign_request
from mirrorlog.adapters.http.login import LOGIN_PATHS, Login
from mirrorlog.errors import BadUse, NotAllowed

_BODY_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class HttpGuard:
    """Makes applications that refuse what they shouldn't answer.

    access:         who may ask.
    listening:      the socket at which the server listens.
    token_setting:  the name of the token's setting, for errors.
    open_paths:     need no token; those of probes and the like.
    advertised_url: by which people reach the server, if it isn't the socket's address.
    body_bytes:     the largest body of a request.
    body_s:         the time in seconds for a body.
    login:          where browsers log in; None: only programs ask.
    help_next:      what to do about a path that isn't served, for its error.
    """

    access: HttpAccess
    listening: socket.socket
    token_setting: str
    open_paths: Collection[str] = ()
    advertised_url: str = ""
    body_bytes: int = _BODY_BYTES
    body_s: float = 20.0
    login: Login | None = None
    help_next: str = "Check the path and the method."

    def application(self) -> web.Application:
        """Return an application without routes other than those of the login."""
        app = web.Application(
            middlewares=[untimed_answer, errors_as_json(self.help_next), self._check],
            client_max_size=self.body_bytes,
        )
        app.on_response_prepare.append(_add_headers)
        if self.login is not None:
            self.login.add_routes(app)
        return app

    @web.middleware
    async def _check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request that passes all checks."""
        refusal = self._foreign(request)
        if refusal is None and not self._is_admitted(request):
            if self.login is not None and _is_for_people(request):
                raise web.HTTPSeeOther(LOGIN_PATHS.form)
            raise NotAllowed(
                "the request doesn't carry the token",
                next=f"Send Authorization: Bearer TOKEN, with {self.token_setting}.",
            )
        refusal = refusal or await self._read_body(request)
        return await handler(request) if refusal is None else refusal

    def _is_admitted(self, request: web.Request) -> bool:
        if request.path in self.open_paths:
            return True
        if self.access.admits(request.headers.get("Authorization", "")):
            return True
        return self.login is not None and (
            request.path in LOGIN_PATHS or self.login.is_logged_in(request)
        )

    def _foreign(self, request: web.Request) -> web.Response | None:
        """Return the refusal of a request that another host or site is behind; None if none is."""
        own = self.listening.getsockname()[0]
        refusal = foreign_request(request.method, request.headers.get, own, self.advertised_url)
        return None if refusal is None else error_response(refusal.error, refusal.status)

    async def _read_body(self, request: web.Request) -> web.Response | None:
        """Read the body. Return the refusal of one that is too large, or doesn't come in time."""
        if not request.can_read_body:
            return None
        if (request.content_length or 0) > self.body_bytes:
            error = BadUse(f"the body is larger than {self.body_bytes} bytes", next="Send less.")
            return error_response(error, 413)
        try:
            async with asyncio.timeout(self.body_s):
                await request.read()
        except TimeoutError:
            error = BadUse(f"the body didn't come in {self.body_s:g} s", next="Send it at once.")
            return error_response(error, 408)
        return None


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Add the headers of every answer, also of a stream (aiohttp on_response_prepare)."""
    for name, value in ANSWER_HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = SERVER_NAME


def _is_for_people(request: web.Request) -> bool:
    """Return whether a browser asks for a page, and not a program or a script for data."""
    return request.method == "GET" and "text/html" in request.headers.get("Accept", "")
