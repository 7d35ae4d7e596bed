"""The contract of the node's HTTP service and clients: headers, and errors."""

from __future__ import annotations

from typing import Any, Final

from mirrorlog.errors import BadUse, MirrorlogError, NodeUnavailable, error_kind
from mirrorlog.json_text import parse_json

SINCE_HEADER: Final = "Mirrorlog-Since"
UNTIL_HEADER: Final = "Mirrorlog-Until"
"""The positions that the question's points stand for. A page has them in its body instead."""
BEGAN_HEADER: Final = "Mirrorlog-Volume-Began"
"""When the volume was created, or its recorded history begins, if `since` is a time before that:
the answer begins there."""
CLOCK_HEADER: Final = "Mirrorlog-Clock"
"""By which clock the question's times were understood (points.AnsweringClock)."""
FORWARDED_HEADER: Final = "Mirrorlog-Forwarded"
"""A worker passed the request on. The worker that gets it answers itself, or not at all."""


def error_of(status: int, body: bytes, where: str) -> MirrorlogError:
    """Return the error that a response holds.

    It has the class that it had in the node, and so the same exit code. NodeUnavailable if the
    response isn't mirrorlog's.
    """
    try:
        fields: dict[str, Any] = parse_json(body)
        what, error_where, advice = (str(fields[name]) for name in ("what", "where", "next"))
    except (ValueError, TypeError, KeyError):
        return NodeUnavailable(
            f"the answer is HTTP status {status}, and not mirrorlog's",
            where=where,
            next="Check the node's address.",
        )
    kind = error_kind(str(fields.get("code")))
    if kind is None:
        kind = BadUse if 400 <= status < 500 else MirrorlogError
    return kind(what, where=error_where, next=advice)
