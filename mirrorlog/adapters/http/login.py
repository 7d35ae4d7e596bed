"""A token in a cookie, for browsers: these send no `Authorization` when a page is opened.

The cookie holds until when it is valid, and a code over that (HMAC with the token as its key). It
doesn't hold the token, no server keeps a list of sessions, and another token ends all of them. No
script can read it (HttpOnly), and no other site can use it (SameSite=Strict).
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from aiohttp import web

from mirrorlog.adapters.http.access import HttpAccess, is_same_secret

_VALID_S: Final = 12 * 3600


class _LoginPaths(NamedTuple):
    form: str
    style: str
    logout: str


LOGIN_PATHS: Final = _LoginPaths("/login", "/login.css", "/logout")
"""The paths that need no token, because they ask for it."""
_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>mirrorlog: log in</title>
<link rel="stylesheet" href="/login.css">
<main>
<h1>mirrorlog</h1>
<form method="post" action="/login">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Log in</button>
<p role="alert">{problem}</p>
</form>
</main>
"""
_STYLE: Final = """\
body { font: 16px/1.5 system-ui, sans-serif; display: grid; place-items: center; min-height: 90vh; }
main { width: min(22rem, 90vw); }
label, input, button { display: block; width: 100%; box-sizing: border-box; font: inherit; }
input, button { padding: .5em; margin: .3em 0 1em; }
"""


class Login:
    """The page on which a token is exchanged for a cookie.

    access: with the token. port: of the server; cookies aren't separate by port. now_s: the time in
    seconds since 1970.
    """

    def __init__(
        self, access: HttpAccess, port: int, now_s: Callable[[], float] = time.time
    ) -> None:
        self._access, self._now_s = access, now_s
        self.cookie: Final = f"mirrorlog-{port}"

    def add_routes(self, app: web.Application) -> None:
        """Add the routes of LOGIN_PATHS."""
        app.router.add_get(LOGIN_PATHS.form, self._show)
        app.router.add_post(LOGIN_PATHS.form, self._log_in)
        app.router.add_get(LOGIN_PATHS.style, self._style)
        app.router.add_post(LOGIN_PATHS.logout, self._log_out)

    def is_logged_in(self, request: web.Request) -> bool:
        """Return whether the request carries a cookie of this login that is still valid."""
        until, _, code = request.cookies.get(self.cookie, "").partition(".")
        is_number = until.isascii() and until.isdigit() and len(until) <= 12
        return is_same_secret(code, self._code(until)) and is_number and int(until) > self._now_s()

    def _code(self, until: str) -> str:
        key = self._access.token.encode()
        return hmac.digest(key, f"{self.cookie} until {until}".encode(), "sha256").hex()

    async def _show(self, _: web.Request) -> web.Response:
        return web.Response(text=_PAGE.format(problem=""), content_type="text/html")

    async def _style(self, _: web.Request) -> web.Response:
        return web.Response(text=_STYLE, content_type="text/css")

    async def _log_in(self, request: web.Request) -> web.Response:
        form = await request.post()
        if not self._access.admits(f"Bearer {str(form.get('token', '')).strip()}"):
            page = _PAGE.format(problem="This isn't the token.")
            return web.Response(text=page, content_type="text/html", status=401)
        until = str(int(self._now_s()) + _VALID_S)
        response = web.HTTPSeeOther("/")
        response.set_cookie(
            self.cookie,
            f"{until}.{self._code(until)}",
            max_age=_VALID_S,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=self._access.scheme == "https",
        )
        raise response

    async def _log_out(self, _: web.Request) -> web.Response:
        response = web.HTTPSeeOther(LOGIN_PATHS.form)
        response.del_cookie(self.cookie, path="/")
        raise response
