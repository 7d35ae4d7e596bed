"""The host's end of the socket to nbdkit."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from deadlines import DEADLINE_S

from mirrorlog.errors import DeviceFailed
from mirrorlog.producers.nbd.grant_server import GrantServer
from mirrorlog.producers.nbd.ring import (
    ANSWER,
    GRANT_AHEAD,
    GRANT_REQUEST,
    MESSAGE,
    MOST_ANSWERS,
)


class Grants:
    """Stands for RegionGrants: notes what it is asked for, and can fail."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[int, int]]] = []
        self.behind: list[tuple[int, int]] = []
        self.fails = False

    def grant(self, ranges: Iterable[tuple[int, int]]) -> None:
        self.asked.append(list(ranges))
        self._fail()

    def grant_behind(self, *, offset: int, length: int) -> None:
        self.behind.append((offset, length))
        self._fail()

    def _fail(self) -> None:
        if self.fails:
            raise DeviceFailed("planned")


class Rig:
    def __init__(self) -> None:
        self.grants, self.reports = Grants(), list[str]()
        self.nbdkit, self.control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.nbdkit.settimeout(DEADLINE_S)

    def start(self) -> None:
        grants: Any = self.grants
        self.server = GrantServer(
            grants, lambda: None, lambda _: False, lambda: None, self.control, self.reports.append
        )

    def send(self, what: int, position: int) -> None:
        self.nbdkit.send(MESSAGE.pack(what, position, position * 4096, 512))

    def answers(self) -> list[tuple[int, int, int]]:
        """Return the answers of the next packet: errno, how many follow, position."""
        packet = self.nbdkit.recv(MESSAGE.size * (MOST_ANSWERS + 1))
        return [ANSWER.unpack_from(packet, at) for at in range(0, len(packet), ANSWER.size)]


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.server.close()
    rig.nbdkit.close()


def test_requests_that_wait_together_are_granted_and_answered_together(rig: Rig) -> None:
    count = MOST_ANSWERS + 3
    for position in range(count):
        rig.send(GRANT_REQUEST, position)
    rig.start()
    assert rig.answers() == [(0, MOST_ANSWERS - 1 - n, n) for n in range(MOST_ANSWERS)]
    assert rig.answers() == [(0, 2, count - 3), (0, 1, count - 2), (0, 0, count - 1)]
    assert rig.grants.asked == [[(position * 4096, 512) for position in range(count)]]


def test_only_a_write_that_waits_hears_of_an_error(rig: Rig) -> None:
    rig.grants.fails = True
    rig.send(GRANT_AHEAD, 6)
    rig.send(GRANT_REQUEST, 7)
    rig.start()
    assert rig.answers() == [(errno.EIO, 0, 7)]
    assert len(rig.reports) == 1
    rig.grants.fails = False
    rig.send(GRANT_AHEAD, 8)
    rig.send(GRANT_REQUEST, 9)
    assert rig.answers() == [(0, 0, 9)]
    assert rig.grants.behind[0] == (6 * 4096, 512)
