"""The routes of the node's HTTP. docs/http.md describes them for their users."""

from __future__ import annotations

from aiohttp import web

from mirrorlog.streams.web.connections import untimed_answer
from mirrorlog.streams.web.error_responses import METRICS_PATH, errors_as_json, token_required
from mirrorlog.streams.web.handlers import HttpParts, RequestHandlers


def build_http_app(parts: HttpParts) -> web.Application:
    """Return the application, which doesn't listen yet."""
    handlers = RequestHandlers(parts)
    app = web.Application(
        middlewares=[untimed_answer, errors_as_json, token_required(parts.token)],
        client_max_size=1 << 10,
    )
    for path, handler in {
        "/healthz": handlers.health,
        METRICS_PATH: handlers.metrics,
        "/openapi.json": handlers.openapi,
        "/docs": handlers.docs,
        "/v1/volumes": handlers.volumes,
        "/v1/volumes/{volume}/changed": handlers.changed,
    }.items():
        app.router.add_get(path, handler, allow_head=False)
    app.cleanup_ctx.append(handlers.open_clients)
    return app
