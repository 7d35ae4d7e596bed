"""Errors as JSON objects, and the HTTP status of each."""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from mirrorlog.adapters.http.responses import encode_json, json_response
from mirrorlog.errors import (
    BadInput,
    BadUse,
    KafkaFailed,
    MirrorlogError,
    NodeUnavailable,
    NotAllowed,
    OutOfRetention,
    UnknownVolume,
    name_in_words,
)

log = logging.getLogger("mirrorlog.http")


def status_of(error: MirrorlogError) -> int:
    """Return the HTTP status that stands for `error`."""
    match error:
        case UnknownVolume():
            return 404
        case NotAllowed():
            return 401
        case BadInput():
            return 500  # mirrorlog's own data is damaged: no request causes a BadInput
        case BadUse():
            return 400
        case OutOfRetention():
            return 410
        case NodeUnavailable() | KafkaFailed():
            return 503
        case _:
            return 500


def error_response(error: MirrorlogError, status: int) -> web.Response:
    """Return the object that the command line prints for an error under --json."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return json_response(encode_json(error.as_message()), headers, status)


def errors_as_json(help_next: str) -> Middleware:
    """Return what answers every error with the object that the command line prints under --json.

    help_next: what to do about a path or a method that isn't served, for its error.

    No error of a request reaches the server's role: an unknown one is logged, and answered with
    status 500. Redirections aren't errors.
    """

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as http_error:
            if http_error.status < 400:
                raise
            what = f"{request.method} {request.path[:200]}: {http_error.reason}"
            response = error_response(BadUse(what, next=help_next), http_error.status)
            if "Allow" in http_error.headers:
                response.headers["Allow"] = http_error.headers["Allow"]
            return response
        except MirrorlogError as known_error:
            return error_response(known_error, status_of(known_error))
        except Exception as unknown_error:
            log.exception("a request failed")
            name = name_in_words(type(unknown_error))
            error = MirrorlogError(
                f"the server met an error that it doesn't know: {name}", next="See its log."
            )
            return error_response(error, 500)

    return answer
