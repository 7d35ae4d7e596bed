"""Redirects, which no client of mirrorlog follows."""

from __future__ import annotations

from urllib.request import HTTPRedirectHandler


class NoRedirects(HTTPRedirectHandler):
    """Follows no redirect: urllib would send the token or the password on, to any host."""

    def redirect_request(self, *_: object) -> None:
        """Return no request: the redirect is an error."""
