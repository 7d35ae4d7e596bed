"""Whether a client that no broker has answered yet goes on waiting, and what keeps it from one.

librdkafka retries for ever, and reports what fails to a callback. It reports nothing of a server
that swallows packets, and nothing of one that takes connections and never answers. The first isn't
there; the second may be slow. A TCP connection tells the two apart (`takes_connections`).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

PROBE_S: Final = 0.4
"""How long one server may take to take a connection, when a client is about to give up."""
_PROBED: Final = 3
"""How many servers are tried: the others are of the same cluster."""
DEFAULT_PORT: Final = 9092
_NAMES: Final = re.compile(r"^(?:\S+: )+")
"""librdkafka's names of a connection: `GroupCoordinator: 127.0.0.1:9092: Connect to …`."""
_COUNTS: Final = re.compile(r"\s*\(after .*\)$")
_FIRST_ATTEMPTS_S: Final = (1.0, 0.25)
_FAILING_ATTEMPT_S: Final = 2.0
"""The timeouts of the first attempts, and of later ones while every connection fails. While nothing
connects, librdkafka uses up each of them."""


def reason_of(text: str) -> str:
    """Return librdkafka's description of an error without names of connections and counts."""
    return _COUNTS.sub("", _NAMES.sub("", text))


def attempt_timeout_s(
    number: int, *, has_answered: bool, all_failed: bool, longest_s: float
) -> float:
    """Return the timeout of a request's attempt. Pure. number: from 1.

    A cluster that has answered before gets 2 s at first. One that hasn't gets less: between two
    attempts the client learns what failed. Later ones grow, because a slow broker must be able to
    answer within one attempt; not while every connection fails, because nothing can answer then.
    """
    if not has_answered and number <= len(_FIRST_ATTEMPTS_S):
        return _FIRST_ATTEMPTS_S[number - 1]
    if not has_answered and all_failed:
        return _FAILING_ATTEMPT_S
    return min(2.0 * number, longest_s)


@dataclass(frozen=True, slots=True)
class Waiting:
    """The state of a client that no broker has answered yet.

    waited_s: since the request began.
    connect_within_s: BootstrapServers.connect_within_s.
    all_failed: every server's connection has failed since the last answer.
    """

    waited_s: float
    connect_within_s: float | None
    all_failed: bool


def gives_up(waiting: Waiting, takes_connections: Callable[[], bool]) -> bool:
    """Return whether the client gives up: the time is over, and no server can be talked to.

    takes_connections: asked only if neither an error nor an answer says anything of the servers.
    """
    if waiting.connect_within_s is None or waiting.waited_s < waiting.connect_within_s:
        return False
    return waiting.all_failed or not takes_connections()


def takes_connections(addresses: str) -> bool:
    """Return whether one of the first servers takes a TCP connection. addresses: HOST:PORT,…"""
    return any(_takes_connection(address) for address in addresses.split(",")[:_PROBED])


def _takes_connection(address: str) -> bool:
    host, _, port = address.strip().rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        host, port = f"{host}:{port}".strip(":"), str(DEFAULT_PORT)
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_S).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True
