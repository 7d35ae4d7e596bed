"""The node's HTTP: its routes. docs/http.md is for its users."""

from __future__ import annotations

from aiohttp import web

from mirrorlog.streams.web.error_responses import errors_as_json, token_required
from mirrorlog.streams.web.handlers import HttpParts, RequestHandlers


def build_http_app(parts: HttpParts) -> web.Application:
    """The application, not listening yet."""
    pages = RequestHandlers(parts)
    app = web.Application(
        middlewares=[errors_as_json, token_required(parts.token)], client_max_size=1 << 10
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
