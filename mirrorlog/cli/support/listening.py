"""The options that say where an NBD export listens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.errors import BadUse
from mirrorlog.processes.nbd_server import NbdAddress, free_port

PortOption = Annotated[
    int | None,
    typer.Option("--port", min=0, max=65535, help="Serve at this TCP port; 0 takes a free one."),
]
ListenOption = Annotated[
    str, typer.Option("--address", help="Listen at this address, with --port.")
]


def listen_at(socket: Path | None, port: int | None, address: str, *, default: Path) -> NbdAddress:
    """Return where to listen: at the port, at the socket, or at the socket `default`.

    Raise BadUse if both a socket and a port are named.
    """
    if socket is not None and port is not None:
        raise BadUse("--socket and --port exclude each other", next="Name one.")
    if port is not None:
        return NbdAddress(None, address, port or free_port(address))
    return NbdAddress(socket or default)
