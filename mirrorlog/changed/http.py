"""What the node's HTTP and those who ask it agree on: paths, headers, and which error is which status."""

from __future__ import annotations

import json
from typing import Any, Final

from mirrorlog import errors
from mirrorlog.errors import (
    BadInput,
    BadUse,
    KafkaFailed,
    MirrorlogError,
    NodeUnavailable,
    NotAllowed,
    OutOfRetention,
    UnknownVolume,
)

SINCE_HEADER: Final = "Mirrorlog-Since"
UNTIL_HEADER: Final = "Mirrorlog-Until"
"""The positions that the question came to: a stream's; a page has them in its body."""
FORWARDED_HEADER: Final = "Mirrorlog-Forwarded"
"""A worker passed the request on: the one that gets it answers by itself or not at all."""


def status_of(error: MirrorlogError) -> int:
    """The HTTP status that tells of `error`."""
    match error:
        case UnknownVolume():
            return 404
        case NotAllowed():
            return 401
        case BadInput():
            return 500  # what is damaged is mirrorlog's own: a request is never a BadInput
        case BadUse():
            return 400
        case OutOfRetention():
            return 410
        case NodeUnavailable() | KafkaFailed():
            return 503
        case _:
            return 500


def error_of(status: int, body: bytes, where: str) -> MirrorlogError:
    """The error that a response tells of: the same class, and so the same exit code, as where it happened."""
    try:
        told: dict[str, Any] = json.loads(body)
        what, place, advice = (str(told[name]) for name in ("what", "where", "next"))
    except (ValueError, TypeError, KeyError):
        return NodeUnavailable(
            f"the answer is HTTP status {status}, and not mirrorlog's",
            where=where,
            next="Check the node's address.",
        )
    code = str(told.get("code"))
    kind = getattr(errors, code, None)
    if not (isinstance(kind, type) and issubclass(kind, MirrorlogError)):
        kind = BadUse if 400 <= status < 500 else MirrorlogError
    return kind(what, where=place, next=advice)
