"""Free ports on the loopback address that a broker can keep."""

from __future__ import annotations

import random
import socket
from collections.abc import Container
from pathlib import Path
from typing import Final

from mirrorlog.broker_record import LOOPBACK
from mirrorlog.errors import KafkaFailed

LOWEST_PORT: Final = 10_000
MAX_TRIES: Final = 200
_EPHEMERAL_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


def is_free(port: int) -> bool:
    """Return whether a server can listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Java's servers do: a connection in TIME_WAIT doesn't keep the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def choose_free(taken: Container[int] = ()) -> int:
    """Return a free port below the range of outgoing connections.

    A port of that range may be lost while the broker is down: a client that keeps connecting to it
    gets that very port for its own end sooner or later, and then talks to itself (TCP's
    simultaneous open).

    Raise KafkaFailed if no free port turns up in MAX_TRIES tries.
    """
    for _ in range(MAX_TRIES):
        port = random.randrange(LOWEST_PORT, _first_ephemeral())
        if port not in taken and is_free(port):
            return port
    raise KafkaFailed(
        f"{MAX_TRIES} random ports are all in use, so the embedded Kafka has none",
        next="Name a port with --port.",
    )


def _first_ephemeral() -> int:
    default = 32_768
    try:
        first = int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return default
    return first if first > LOWEST_PORT + MAX_TRIES else default
