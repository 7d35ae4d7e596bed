"""TCP sockets on which a part of mirrorlog answers over HTTP."""

from __future__ import annotations

import ipaddress
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirrorlog.errors import BadUse

_ADDRESS: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:/\s]+)):([0-9]{1,5})")
_BACKLOG: Final = 64
OFF: Final = "off"
"""The address of a part that doesn't listen."""


@dataclass(frozen=True, slots=True)
class ListeningWords:
    """The words with which errors name what listens.

    who: what listens. option: the option that names the address. token: the setting of the token
    that lets other machines in.
    """

    who: str
    option: str
    token: str


def listen_at(
    address: str, words: ListeningWords, *, is_guarded: bool, remembered: Path | None = None
) -> socket.socket:
    """Return a socket that listens at `address`.

    address:    HOST:PORT. Port 0 is a free one: the remembered one if it is still free.
    is_guarded: strangers are refused by a token or by certificates; if not, only this machine may
                connect.
    remembered: the file that keeps the free port for the next start.

    Raise BadUse if the address can't be bound, or if other machines can reach it and it isn't
    guarded.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match.group(3)) > 65535:
        raise _bad(f"'{address[:60]}' is no address to listen at", words)
    host, port = match.group(1) or match.group(2), int(match.group(3))
    try:
        family, _, _, _, socket_address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if not ipaddress.ip_address(socket_address[0]).is_loopback and not is_guarded:
            raise BadUse(
                f"{address} can be reached from other machines, and anybody there could ask",
                next=f"Set {words.token}, or http_certificate, http_key and http_ca.",
            )
        return _bind(family, str(socket_address[0]), port, None if port else remembered)
    except OSError as error:
        what = f"{words.who} can't listen at {address}: {error.strerror or error}"
        raise _bad(what, words) from error


def url_of(listening: socket.socket, scheme: str = "http") -> str:
    """Return the address SCHEME://HOST:PORT at which a socket listens."""
    address = ipaddress.ip_address(listening.getsockname()[0])
    host = f"[{address}]" if address.version == 6 else str(address)
    if address.is_unspecified:
        host = socket.getfqdn()
    return f"{scheme}://{host}:{listening.getsockname()[1]}"


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


def _bad(what: str, words: ListeningWords) -> BadUse:
    advice = f"Use {words.option} HOST:PORT, 127.0.0.1:0 for a free port, or {OFF}."
    return BadUse(what, next=advice)
