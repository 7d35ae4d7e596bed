"""The node's HTTP socket. It is bound before the worker joins its group, because the worker tells
the group its address.

A worker that comes back within its session gets the assignment that it had, with its old address,
and the other workers aren't told (static membership, KIP-345). So the address is part of the
worker's name in the group: with another address it is another member, and waits until the old
member's session has ended. To avoid that, a free port is remembered and bound again.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

from mirrorlog.adapters.http.access import HttpAccess
from mirrorlog.adapters.listening import OFF, ListeningWords, listen_at, url_of
from mirrorlog.errors import BadUse

_WORDS: Final = ListeningWords(who="the node", option="--http", token="node_http_token")
_DIGEST_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class HttpEndpoint:
    """A socket that listens, and the URL at which other workers and people reach it."""

    socket: socket.socket
    url: str


def group_instance_id(node_name: str, instance: str, endpoint: HttpEndpoint | None) -> str:
    """Return the worker's name in its group: its own name, and a digest of what it is.

    Kafka gives the partitions of a member to whoever comes with the member's name, and the node's
    client doesn't notice. So two workers of one name would put each other out for ever. They have
    different names in the group, because their folders differ.

    instance: what tells the worker from others of its name (node_folder.NodeFolder).
    """
    url = endpoint.url if endpoint else ""
    digest = blake2b(f"{instance}\n{url}".encode(), digest_size=_DIGEST_BYTES)
    return f"{node_name}-{digest.hexdigest()}"


def listen(
    address: str, access: HttpAccess, advertised: str = "", remembered: Path | None = None
) -> HttpEndpoint | None:
    """Bind `address` and return the endpoint; None if `address` is "off".

    address:    HOST:PORT. Port 0 is a free one: the remembered one if it is still free.
    access:     who may ask.
    advertised: the URL to tell the group and people, if the bound address means nothing to them.
    remembered: the file that keeps the free port for the next start.

    Raise BadUse as listen_at() does.
    """
    if address == OFF:
        return None
    if advertised and not advertised.startswith(("http://", "https://")):
        raise BadUse(
            f"'{advertised[:60]}' is no address to advertise",
            next="Write node_http_advertised as http://HOST:PORT.",
        )
    bound = listen_at(address, _WORDS, is_guarded=access.is_guarded, remembered=remembered)
    bound.setblocking(False)
    return HttpEndpoint(bound, advertised.rstrip("/") or url_of(bound, access.scheme))
