"""The requests of many calls share a few connections, on a server that answers when it is told."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Condition
from typing import cast

import pytest
from deadlines import DEADLINE_S, wait_until

from mirrorlog.adapters.nbd_client.connection_pool import ConnectionPool
from mirrorlog.adapters.nbd_client.nbd_connection import NbdConnection, Request, RequestFailed
from mirrorlog.adapters.nbd_client.request_lanes import IN_FLIGHT, RequestLanes


class Server:
    """Answers the oldest `granted` requests. Each connection is told of its own."""

    def __init__(self, *, has_multi_conn: bool = False) -> None:
        self.has_multi_conn = has_multi_conn
        self.changed = Condition()
        self.connections: list[Connection] = []
        self.granted = 0
        self.bad: set[int] = set()
        self.error: BaseException | None = None

    def connect(self) -> NbdConnection:
        self.connections.append(Connection(self))
        return cast(NbdConnection, self.connections[-1])

    def grant(self, count: int) -> None:
        with self.changed:
            self.granted += count
            self.changed.notify_all()

    def fail(self, error: BaseException) -> None:
        with self.changed:
            self.error = error
            self.changed.notify_all()

    @property
    def under_way(self) -> list[int]:
        return [len(connection.asked) for connection in self.connections]


class Connection:
    """What RequestLanes and ConnectionPool use of an NbdConnection."""

    size_bytes, description, used_at_s = 1 << 30, None, 0.0

    def __init__(self, server: Server) -> None:
        self.server, self.can_multi_conn = server, server.has_multi_conn
        self.asked: deque[tuple[int, int]] = deque()  # cookies and offsets
        self.count = self.most = 0
        self.is_closed = False

    def send(self, request: Request) -> int:
        assert not self.is_closed
        with self.server.changed:
            self.count += 1
            self.asked.append((self.count, request[1]))
            self.most = max(self.most, len(self.asked))
        return self.count

    def answers(self) -> Iterator[tuple[int, RequestFailed | None]]:
        while self.asked and self.server.granted:
            with self.server.changed:
                self.server.granted -= 1
                cookie, offset = self.asked.popleft()
            is_bad = offset in self.server.bad
            yield cookie, RequestFailed("bad", 5, is_lost=False) if is_bad else None

    def wait_for_answers(self, _wake_fd: int, _until_s: float) -> None:
        with self.server.changed:
            self.server.changed.wait_for(lambda: self.server.granted or self.server.error, 0.01)
            error, self.server.error = self.server.error, None
        if error is not None:
            raise error

    def is_alive(self) -> bool:
        return not self.is_closed

    def close(self) -> None:
        self.is_closed = True


class Rig:
    """Lanes to a server, and threads that call them."""

    def __init__(self, server: Server, threads: ThreadPoolExecutor) -> None:
        self.server, self.threads = server, threads
        self.pool = ConnectionPool(server.connect, most=16, reconnects=True, patience_s=0)
        self.lanes = RequestLanes(self.pool, deadline_s=DEADLINE_S, lanes=2)

    def call(self, count: int, first: int = 0) -> Future[list[RequestFailed | None]]:
        requests = [(0, offset, 1) for offset in range(first, first + count)]
        return self.threads.submit(self.lanes.carry_out, requests, send)

    @property
    def rest_bytes(self) -> int:
        return sum(lane.rest_bytes for lane in self.lanes._lanes)


def send(connection: NbdConnection, request: Request) -> int:
    return cast(Connection, connection).send(request)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


@pytest.fixture
def rig(threads: ThreadPoolExecutor) -> Iterator[Rig]:
    rig = Rig(Server(), threads)
    yield rig
    rig.lanes.close()


def results(calls: Sequence[Future[list[RequestFailed | None]]]) -> list[int | str]:
    """Return, by call, how many of its requests failed, or how the call did."""

    def result(call: Future[list[RequestFailed | None]]) -> int | str:
        try:
            return sum(failure is not None for failure in call.result(DEADLINE_S))
        except (RequestFailed, KeyboardInterrupt) as error:
            return str(error)

    return [result(call) for call in calls]


def test_the_next_call_is_under_way_before_the_last_one_is_answered(rig: Rig) -> None:
    calls = [rig.call(10) for _ in range(5)]
    wait_until(lambda: rig.server.under_way == [50])
    rig.server.grant(50)
    assert results(calls) == [0] * 5


def test_calls_are_spread_over_the_lanes(threads: ThreadPoolExecutor) -> None:
    rig = Rig(Server(has_multi_conn=True), threads)
    calls = [rig.call(10) for _ in range(4)]
    wait_until(lambda: sorted(rig.server.under_way) == [20, 20])
    rig.server.grant(40)
    assert results(calls) == [0] * 4
    rig.lanes.close()


def test_no_more_than_a_number_is_under_way(rig: Rig) -> None:
    calls = [rig.call(IN_FLIGHT), rig.call(2 * IN_FLIGHT)]
    for _ in range(3):
        wait_until(lambda: rig.server.under_way == [IN_FLIGHT])
        rig.server.grant(IN_FLIGHT)
    assert results(calls) == [0, 0]
    assert rig.server.connections[0].most == IN_FLIGHT


def test_a_request_that_fails_concerns_its_own_call(rig: Rig) -> None:
    rig.server.bad = {3, 7}
    calls = [rig.call(10), rig.call(10, first=100)]
    rig.server.grant(20)
    assert results(calls) == [2, 0]
    assert len(rig.server.connections) == 1


def test_a_lost_connection_fails_all_calls_of_its_lane(rig: Rig) -> None:
    calls = [rig.call(IN_FLIGHT), rig.call(10), rig.call(10)]
    wait_until(lambda: rig.server.under_way == [IN_FLIGHT] and rig.rest_bytes == IN_FLIGHT + 20)
    rig.server.fail(RequestFailed("gone", 0, is_lost=True))
    assert results(calls) == ["gone"] * 3
    assert rig.server.connections[0].is_closed
    rig.server.grant(10)
    assert results([rig.call(10)]) == [0]
    assert len(rig.server.connections) == 2


def test_a_device_that_is_closed_during_a_call_keeps_its_descriptors_for_it(rig: Rig) -> None:
    """A byte that wakes a driver would be written to whatever file has the number by then."""
    calls = [rig.call(10)]
    wait_until(lambda: rig.server.under_way == [10])
    (lane,) = rig.lanes._lanes
    rig.lanes.close()
    assert os.fstat(lane._woken_fd) and os.fstat(lane._waking_fd)
    assert results([rig.call(10)]) == ["the device is closed"]
    rig.server.grant(10)
    assert results(calls) == [0]
    assert rig.lanes._lanes == []


def test_an_interrupted_thread_leaves_nothing_under_way(rig: Rig) -> None:
    calls = [rig.call(10), rig.call(10)]
    wait_until(lambda: rig.server.under_way == [20])
    rig.server.fail(KeyboardInterrupt("stop"))
    assert sorted(map(str, results(calls))) == ["stop", "the request was interrupted"]
    assert rig.server.connections[0].is_closed


def test_a_thread_that_waits_for_the_only_connection_gets_it(rig: Rig) -> None:
    calls = [rig.call(2 * IN_FLIGHT)]
    wait_until(lambda: rig.server.under_way == [IN_FLIGHT])
    taken = rig.threads.submit(rig.pool.take, oldest=True)
    wait_until(lambda: rig.pool.is_wanted)
    rig.server.grant(1)
    wait_until(lambda: not rig.server.granted)
    rig.server.grant(IN_FLIGHT - 1)
    connection = taken.result(DEADLINE_S)
    assert rig.server.connections[0].count == IN_FLIGHT
    assert not calls[0].done()
    rig.pool.give_back(connection)
    rig.server.grant(IN_FLIGHT)
    assert results(calls) == [0]
