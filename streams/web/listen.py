"""The node's HTTP socket. It is bound before the worker joins its group, because the worker tells
the group its address.

A worker that comes back within its session gets the assignment that it had, with its old address,
and the other workers aren't told (static membership, KIP-345). So the address is part of the
worker's name in the group: with another address it is another member, and waits until the old
member's session has ended. To avoid that, a free port is remembered and bound again.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

from mirrorlog.errors import BadUse

_ADDRESS: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:/\s]+)):([0-9]{1,5})")
_BACKLOG: Final = 64
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
    address: str, token: str, advertised: str = "", remembered: Path | None = None
) -> HttpEndpoint | None:
    """Bind `address` and return the endpoint; None if `address` is "off".

    address:    HOST:PORT. Port 0 is a free one: the remembered one if it is still free.
    advertised: the URL to tell the group and people, if the bound address means nothing to them.
    remembered: the file that keeps the free port for the next start.

    Raise BadUse if the address can't be bound, or if other machines can reach it and `token` is
    empty.
    """
    if address == "off":
        return None
    if advertised and not advertised.startswith(("http://", "https://")):
        raise _bad(
            f"'{advertised[:60]}' is no address to advertise",
            "Write node_http_advertised as http://HOST:PORT.",
        )
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match.group(3)) > 65535:
        raise _bad(f"'{address[:60]}' is no address to listen at")
    host, port = match.group(1) or match.group(2), int(match.group(3))
    try:
        family, _, _, _, socket_address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if not ipaddress.ip_address(socket_address[0]).is_loopback and not token:
            raise _bad(
                f"{address} can be reached from other machines, and no token is set",
                "Set node_http_token.",
            )
        bound = _bind(family, str(socket_address[0]), port, None if port else remembered)
    except OSError as error:
        raise _bad(f"the node can't listen at {address}: {error.strerror or error}") from error
    bound.setblocking(False)
    return HttpEndpoint(bound, advertised.rstrip("/") or _url(bound))


def _bind(
    family: socket.AddressFamily, host: str, port: int, remembered: Path | None
) -> socket.socket:
    """Bind and listen. With a file in `remembered` the port is free: the remembered one first."""
    if remembered is None:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    with suppress(OSError, ValueError, OverflowError):  # no port is remembered, or it is taken
        return socket.create_server(
            (host, int(remembered.read_text("ascii"))), family=family, backlog=_BACKLOG
        )
    bound = socket.create_server((host, 0), family=family, backlog=_BACKLOG)
    with suppress(OSError):  # only a hint: without it the next start may wait for a session
        remembered.write_text(str(bound.getsockname()[1]), "ascii")
    return bound


def _url(bound: socket.socket) -> str:
    address = ipaddress.ip_address(bound.getsockname()[0])
    host = f"[{address}]" if address.version == 6 else str(address)
    if address.is_unspecified:
        host = socket.getfqdn()
    return f"http://{host}:{bound.getsockname()[1]}"


def _bad(what: str, advice: str = "") -> BadUse:
    return BadUse(what, next=advice or "Use --http HOST:PORT, 127.0.0.1:0 for a free port, or off.")
