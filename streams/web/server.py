"""The routes of the node's HTTP. docs/http.md describes them for their users."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from mirrorlog.streams.web.handlers import HttpParts, RequestHandlers

OPEN_PATHS: Final = frozenset({"/healthz", "/openapi.json", "/docs", "/docs.js", "/docs.css"})
"""The paths that need no token: probes and the description tell nothing of the node."""


def build_http_app(parts: HttpParts) -> web.Application:
    """Return the application, which doesn't listen yet."""
    handlers = RequestHandlers(parts)
    app = parts.guard.application()
    for path, handler in {
        "/healthz": handlers.health,
        "/metrics": handlers.metrics,
        "/openapi.json": handlers.openapi,
        "/docs": handlers.docs,
        "/docs.js": handlers.docs_script,
        "/docs.css": handlers.docs_style,
        "/v1/volumes": handlers.volumes,
        "/v1/volumes/{volume}/changed": handlers.changed,
    }.items():
        app.router.add_get(path, handler, allow_head=False)
    app.cleanup_ctx.append(handlers.open_clients)
    return app
