"""Ask a node over HTTP what changed: the same listing and the same errors as from Kafka."""

from __future__ import annotations

import codecs
import http.client
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

import stamina

from mirrorlog.adapters.http.access import HttpAccess, bearer
from mirrorlog.adapters.http.redirects import NoRedirects
from mirrorlog.adapters.http.tls_refusals import tls_refusal
from mirrorlog.changed.http import BEGAN_HEADER, CLOCK_HEADER, SINCE_HEADER, UNTIL_HEADER, error_of
from mirrorlog.errors import BadUse, NodeUnavailable, NotAllowed, in_words

_CHUNK_BYTES: Final = 1 << 16
_TIMEOUT_S: Final = 120.0
_MAX_ERROR_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class RemoteListing:
    """A listing that a node streams, and what it says of it.

    since, until: the positions of the question's points. volume_began_at: when the volume was
    created, or its recorded history begins, if that is after the time that was asked for; None
    otherwise. clock: by which times were understood; None if no point is one, or if an older node
    answered.
    """

    since: int
    until: int
    volume_began_at: str | None
    pieces: Iterator[str]
    clock: str | None = None


def remote_listing(
    node: str, access: HttpAccess, volume: str, parameters: Mapping[str, str], patience_s: float
) -> RemoteListing:
    """Ask the node at address `node` for a listing, with the token and certificate of `access`.

    If the node can't answer now, it is asked again until `patience_s` have passed. Raise the node's
    errors by their classes; NotAllowed if one of the two doesn't accept the other's certificate;
    NodeUnavailable if the node doesn't answer. The pieces raise NodeUnavailable
    if the answer breaks off.
    """
    if urlsplit(node).scheme not in ("http", "https") or not urlsplit(node).hostname:
        raise BadUse(
            f"'{node[:60]}' is no node's address", next="Write it like http://127.0.0.1:8460."
        )
    query = urlencode({**parameters, "limit": "0"})
    url = f"{node.rstrip('/')}/v1/volumes/{quote(volume, safe='')}/changed?{query}"
    request = Request(url, headers=dict(bearer(access.token)))
    opener = build_opener(
        ProxyHandler({}), HTTPSHandler(context=access.client_context()), NoRedirects()
    )
    for attempt in stamina.retry_context(
        NodeUnavailable, attempts=None, timeout=patience_s, wait_initial=0.2, wait_max=2.0
    ):
        with attempt:
            response = _open(opener, request, node)
    return RemoteListing(
        since=int(response.headers[SINCE_HEADER]),
        until=int(response.headers[UNTIL_HEADER]),
        volume_began_at=response.headers.get(BEGAN_HEADER),
        pieces=_pieces(response, node),
        clock=response.headers.get(CLOCK_HEADER),
    )


def _pieces(response: http.client.HTTPResponse, node: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with response:
        try:
            while chunk := response.read1(_CHUNK_BYTES):
                yield decoder.decode(chunk)
        except (OSError, http.client.HTTPException) as error:
            raise NodeUnavailable(
                f"the answer broke off: {in_words(error)}",
                where=node,
                next="Ask again; --offset resumes a listing.",
            ) from error


def _open(opener: OpenerDirector, request: Request, node: str) -> http.client.HTTPResponse:
    try:
        response: http.client.HTTPResponse = opener.open(request, timeout=_TIMEOUT_S)
    except HTTPError as error:
        with error:
            raise error_of(error.code, error.read(_MAX_ERROR_BYTES), node) from None
    except (URLError, OSError, http.client.HTTPException) as error:
        if refusal := tls_refusal(error):  # to ask again changes nothing
            what = f"no connection to the node: {refusal.what}"
            raise NotAllowed(what, where=node, next=refusal.next) from error
        reason = error.reason if isinstance(error, URLError) else error
        raise NodeUnavailable(
            f"the node doesn't answer: {reason}",
            where=node,
            next="Check its address, and that it runs.",
        ) from error
    return response
