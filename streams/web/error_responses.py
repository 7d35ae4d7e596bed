"""Errors as JSON objects, and the token."""

from __future__ import annotations

import hmac
import logging

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from mirrorlog.changed.http import (
    status_of,
)
from mirrorlog.errors import BadUse, MirrorlogError, NotAllowed
from mirrorlog.streams.web.responses import encode_json, json_response

log = logging.getLogger("mirrorlog.node.http")


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error is an object as on the command line, and none of them reaches the node."""
    headers = {}
    try:
        return await handler(request)
    except web.HTTPException as error:
        status = error.status
        told: MirrorlogError = BadUse(
            f"{request.method} {request.path[:200]}: {error.reason}", next="See /docs."
        )
        headers = {name: value for name, value in error.headers.items() if name == "Allow"}
    except MirrorlogError as error:
        status, told = status_of(error), error
    except Exception as error:
        log.exception("a request failed")
        status = 500
        told = MirrorlogError(
            f"the node met an error that it doesn't know: {type(error).__name__}",
            next="See its log.",
        )
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return json_response(encode_json(told.as_message()), headers, status)


def token_required(token: str) -> Middleware:
    @web.middleware
    async def allowed(request: web.Request, handler: Handler) -> web.StreamResponse:
        """What is known of volumes is for those who have the token; probes and the description are for all."""
        if token and request.path.startswith("/v1/"):
            given = request.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                raise NotAllowed(
                    "the request doesn't carry the node's token",
                    next="Send Authorization: Bearer TOKEN.",
                )
        return await handler(request)

    return allowed
