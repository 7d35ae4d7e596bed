"""Ports on the loopback address that a broker can keep."""

from __future__ import annotations

import random
import socket
from collections.abc import Container
from pathlib import Path
from typing import Final

from mirrorlog.errors import KafkaFailed

LOOPBACK: Final = "127.0.0.1"
LOWEST: Final = 10_000
TRIES: Final = 200
_EPHEMERAL_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Java's servers do: connections that have ended and linger (TIME_WAIT) are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def choose_free(taken: Container[int] = ()) -> int:
    """A free port below those that the system gives to outgoing connections.

    A port from that range may be lost while the broker is down: a client which tries to connect to it again and again
    is given that very port for its own end sooner or later, and then talks to itself (TCP's simultaneous open).
    """
    for _ in range(TRIES):
        port = random.randrange(LOWEST, _first_ephemeral())
        if port not in taken and is_free(port):
            return port
    raise KafkaFailed(
        f"no free port found for the embedded Kafka in {TRIES} tries", next="Name one with --port."
    )


def _first_ephemeral() -> int:
    usual = 32_768
    try:
        first = int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return usual
    return first if first > LOWEST + TRIES else usual
