"""The connections of one NBD device, without a server: who gets which, and what a loss means."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import cast

import pytest
from deadlines import DEADLINE_S, wait_until

from mirrorlog.adapters.nbd_client import connection_pool
from mirrorlog.adapters.nbd_client.connection_pool import ConnectionPool
from mirrorlog.adapters.nbd_client.nbd_connection import NbdConnection, RequestFailed


class Connection:
    """What a pool asks of a connection. is_up: the server is known to have it still."""

    def __init__(self) -> None:
        self.size_bytes, self.can_multi_conn = 4096, True
        self.used_at_s = 0.0
        self.description: str | None = None
        self.is_up = True

    def is_alive(self) -> bool:
        return self.is_up

    def ping(self) -> None:
        if not self.is_up:
            raise RequestFailed("stopped", 0, is_lost=True)

    def close(self) -> None:
        self.is_up = False


def pool(*, reconnects: bool = True, patience_s: float = 0) -> ConnectionPool:
    return ConnectionPool(
        lambda: cast("NbdConnection", Connection()),
        most=3,
        reconnects=reconnects,
        patience_s=patience_s,
    )


def write(pool: ConnectionPool) -> None:
    pool.end_write(pool.begin_write())


def flush(pool: ConnectionPool) -> None:
    acknowledged = pool.begin_flush()
    pool.give_back(pool.take(oldest=True))
    pool.end_flush(acknowledged)


def test_a_flush_waits_for_the_oldest_connection() -> None:
    """A younger one may lead to a server that was restarted, and that lost what was written."""
    connections = pool()
    first, second = connections.take(), connections.take()
    write(connections)
    connections.give_back(second)
    with ThreadPoolExecutor(1) as threads:
        flushing = threads.submit(connections.take, oldest=True)
        assert not flushing.done()
        connections.give_back(first)
        assert flushing.result(DEADLINE_S) is first


def test_after_a_loss_with_nothing_unflushed_the_next_oldest_will_do() -> None:
    connections = pool()
    first, second = connections.take(), connections.take()
    write(connections)
    connections.give_back(first)
    flush(connections)
    assert connections.take(oldest=True) is first
    connections.discard(first, "a test")
    connections.give_back(second)
    assert connections.take(oldest=True) is second
    connections.discard(second, "a test")
    assert connections.take(oldest=True) not in (first, second)


def test_a_loss_with_something_unflushed_breaks_the_pool() -> None:
    connections = pool()
    first, second = connections.take(), connections.take()
    write(connections)
    connections.discard(second, "a test")
    connections.give_back(first)
    for oldest in (True, False):
        with pytest.raises(RequestFailed, match="lost"):
            connections.take(oldest=oldest)


def test_a_loss_during_a_write_breaks_the_pool_when_the_write_is_acknowledged() -> None:
    connections = pool()
    _, second = connections.take(), connections.take()
    losses = connections.begin_write()
    connections.discard(second, "a test")
    assert connections.broken is None
    connections.end_write(losses)
    assert connections.broken is not None


def test_an_idle_connection_whose_server_stops_is_dropped() -> None:
    connections = pool()
    first = connections.take()
    connections.give_back(first)
    connections.ping()
    assert connections.take() is first
    connections.give_back(first)
    cast("Connection", first).is_up = False
    connections.ping()
    assert connections.take() is not first


def test_a_thread_waits_a_moment_for_a_connection_before_it_opens_another() -> None:
    connections = pool(patience_s=DEADLINE_S)
    first = connections.take()
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(connections.take)
        wait_until(lambda: connections.is_wanted)
        connections.give_back(first)
        assert second.result(DEADLINE_S) is first
    connections.discard(first, "lost")
    assert connections.take() is not first, "nobody waits for one where there is none"


def test_a_thread_that_has_waited_a_moment_opens_another_connection() -> None:
    connections = pool(patience_s=0.01)
    first = connections.take()
    assert connections.take() is not first


def test_connections_that_no_thread_needs_for_long_are_closed_but_for_the_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 100.0
    monkeypatch.setattr(connection_pool, "time", SimpleNamespace(monotonic=lambda: now_s))
    connections = pool()
    lent = [connections.take() for _ in range(3)]
    for connection in lent:
        connections.give_back(connection)
    write(connections)
    for _ in range(40):
        now_s += 2
        connections.give_back(connections.take())
        connections.ping()  # a site asks all of them whether their server still answers
    assert [connection.is_alive() for connection in lent] == [True, False, True]
    flush(connections)
    assert connections.broken is None, "closing an unused connection is no loss"
    taken = [connections.take() for _ in range(3)]
    assert lent[1] not in taken
    assert lent[0] in taken


def test_a_closed_pool_closes_what_comes_back() -> None:
    connections = pool()
    first = connections.take()
    connections.close()
    connections.give_back(first)
    assert not first.is_alive()
    with pytest.raises(RequestFailed, match="closed"):
        connections.take()


def test_a_pool_that_may_not_reconnect_is_broken_by_any_loss() -> None:
    connections = pool(reconnects=False)
    connections.discard(connections.take(), "a test")
    assert connections.broken is not None


@pytest.mark.parametrize("reconnects", [False, True])
def test_a_later_connection_must_lead_to_the_same_unless_the_pool_reconnects(
    reconnects: bool,
) -> None:
    described = iter(["snapshot 1", "snapshot 2"])

    def connect() -> NbdConnection:
        connection = Connection()
        connection.description = next(described)
        return cast("NbdConnection", connection)

    two = ConnectionPool(connect, most=3, reconnects=reconnects, patience_s=0)
    two.take()
    if reconnects:
        two.take()
    else:
        with pytest.raises(RequestFailed, match="'snapshot 2' now, and was 'snapshot 1'"):
            two.take()
