"""Errors as JSON objects, and the token that guards /v1 and the metrics."""

from __future__ import annotations

import hmac
import logging
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from mirrorlog.changed.http import status_of
from mirrorlog.errors import BadUse, MirrorlogError, NotAllowed, name_in_words
from mirrorlog.streams.web.responses import encode_json, json_response

log = logging.getLogger("mirrorlog.node.http")

METRICS_PATH: Final = "/metrics"


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error with the object that the command line prints under --json.

    No error of a request reaches the node: an unknown one is logged and answered with status 500.
    """
    headers = {}
    try:
        return await handler(request)
    except web.HTTPException as http_error:
        status = http_error.status
        error: MirrorlogError = BadUse(
            f"{request.method} {request.path[:200]}: {http_error.reason}", next="See /docs."
        )
        headers = {name: value for name, value in http_error.headers.items() if name == "Allow"}
    except MirrorlogError as known_error:
        status, error = status_of(known_error), known_error
    except Exception as unknown_error:
        log.exception("a request failed")
        status = 500
        error = MirrorlogError(
            f"the node met an error that it doesn't know: {name_in_words(type(unknown_error))}",
            next="See its log.",
        )
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return json_response(encode_json(error.as_message()), headers, status)


def token_required(token: str) -> Middleware:
    """Return the middleware that asks for `token` under /v1 and for metrics.

    It asks for nothing if `token` is empty. Probes and the description stay open: they tell nothing
    of what the node does.
    """

    @web.middleware
    async def check_token(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token and request.path.startswith(("/v1/", METRICS_PATH)):
            authorization = request.headers.get("Authorization", "")
            if not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
                raise NotAllowed(
                    "the request doesn't carry the node's token",
                    next="Send Authorization: Bearer TOKEN.",
                )
        return await handler(request)

    return check_token
