"""Where the node listens: bound before it joins its group, because the group is told the address.

A worker that comes back within its session is given the assignment that it had, address and all, and the others hear
nothing of it (static membership, KIP-345). So the address belongs to its name in the group: with another one it is another
member, and waits for the old one's session to end. A free port is remembered, and taken again.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirrorlog.errors import BadUse

_ADDRESS: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:/\s]+)):([0-9]{1,5})")
_BACKLOG: Final = 64


@dataclass(frozen=True, slots=True)
class HttpEndpoint:
    """A socket that listens, and the address that others reach it by."""

    socket: socket.socket
    url: str


def group_instance_id(node_name: str, listening: HttpEndpoint | None) -> str:
    """The worker's name in its group (group.instance.id): of its own and its address."""
    return f"{node_name}-{zlib.crc32(listening.url.encode()):08x}" if listening else node_name


def listen(
    address: str, token: str, advertised: str = "", remembered: Path | None = None
) -> HttpEndpoint | None:
    """Binds `HOST:PORT` (port 0: a free one, the remembered one if it is still free); None where the address is `off`.

    advertised: the address to tell the group and people, where the bound one means nothing to them.
    BadUse where it can't be bound, or where others could reach it and no token is set.
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
        family, _, _, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if not ipaddress.ip_address(place[0]).is_loopback and not token:
            raise _bad(
                f"{address} can be reached from other machines, and no token is set",
                "Set node_http_token.",
            )
        bound = _bind(family, str(place[0]), port, None if port else remembered)
    except OSError as error:
        raise _bad(f"the node can't listen at {address}: {error.strerror or error}") from error
    bound.setblocking(False)
    return HttpEndpoint(bound, advertised.rstrip("/") or _url(bound))


def _bind(
    family: socket.AddressFamily, host: str, port: int, remembered: Path | None
) -> socket.socket:
    if remembered is None:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    with suppress(OSError, ValueError, OverflowError):  # no port is remembered, or it is taken
        return socket.create_server(
            (host, int(remembered.read_text("ascii"))), family=family, backlog=_BACKLOG
        )
    bound = socket.create_server((host, 0), family=family, backlog=_BACKLOG)
    with suppress(OSError):  # a hint: without it the next start takes as long as a session
        remembered.write_text(str(bound.getsockname()[1]), "ascii")
    return bound


def _url(bound: socket.socket) -> str:
    found = ipaddress.ip_address(bound.getsockname()[0])
    name = (
        socket.getfqdn()
        if found.is_unspecified
        else f"[{found}]"
        if found.version == 6
        else str(found)
    )
    return f"http://{name}:{bound.getsockname()[1]}"


def _bad(what: str, advice: str = "") -> BadUse:
    return BadUse(what, next=advice or "Use --http HOST:PORT, 127.0.0.1:0 for a free port, or off.")
