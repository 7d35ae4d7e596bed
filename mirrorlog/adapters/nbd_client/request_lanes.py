"""Carries out the requests of many calls on a few connections, without a pause between two calls.

A call has many requests of one kind. If each had a connection for itself until its last answer
came, then a round trip would pass there before the requests of the next call arrive at the server,
and so many connections would be needed that some are still busy when most have nothing left. So a
lane, which is one connection at a time, takes the calls of several threads:

1. A call goes to the lane that has the fewest bytes to move (RequestLanes).
2. One of the threads whose calls are on a lane drives it: it sends the requests of all of them, in
   the order in which the calls came, and takes the answers. The others wait.
3. When the call of the driver is done, its thread returns, and one that waits drives on.
4. A lane without calls gives its connection back to the pool. So it does if a thread waits for a
   connection, as soon as what is under way is answered.
5. If the connection is lost, all calls of the lane fail. Any of their requests may have been
   carried out.

A call ends when no request of it is under way any more, however it ends: an answer must not come
into memory that is something else by then.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Condition, Lock
from typing import Final, TypeAlias

from mirrorlog.adapters.nbd_client.connection_pool import ConnectionPool
from mirrorlog.adapters.nbd_client.nbd_connection import NbdConnection, Request, RequestFailed

IN_FLIGHT: Final = 512
"""How many requests of one lane are under way at most. What a server doesn't handle yet waits in
its socket: a request without data has 28 bytes."""
LANES: Final = 4
"""So many connections at most carry what is requested at once."""

Send: TypeAlias = Callable[[NbdConnection, Request], int]
"""Begins a request on a connection; returns its cookie. Raises RequestFailed."""


class _Call:
    """Requests of one kind, of one thread.

    sent, left: how many requests were sent, and how many have no result yet.
    failures: for each request, how it failed. lost: why all of them count as failed.
    """

    __slots__ = ("failures", "left", "lost", "requests", "send", "sent", "size_bytes")

    def __init__(self, requests: Sequence[Request], send: Send) -> None:
        self.requests, self.send = requests, send
        self.size_bytes: Final = sum(length for _, _, length in requests)
        self.failures: list[RequestFailed | None] = [None] * len(requests)
        self.sent, self.left = 0, len(requests)
        self.lost: RequestFailed | None = None

    @property
    def is_done(self) -> bool:
        return not self.left or self.lost is not None


class RequestLanes:
    """The lanes of one device. Any number of threads call it."""

    def __init__(self, pool: ConnectionPool, *, deadline_s: float, lanes: int = LANES) -> None:
        """deadline_s: a lane that gets no answer for so long has lost its connection."""
        self._pool: Final = pool
        self._deadline_s: Final = deadline_s
        self._most: Final = min(lanes, pool.most)
        self._lock: Final = Lock()
        self._lanes: Final[list[_Lane]] = []
        self._is_closed = False

    def carry_out(self, requests: Sequence[Request], send: Send) -> list[RequestFailed | None]:
        """Carry out all requests, one at least. Return, for each, how it failed; None if it didn't.

        Raise RequestFailed if no connection can be had, or if it is lost: then any of the requests
        may have been carried out.
        """
        call = _Call(requests, send)
        with self._lock:
            if self._is_closed:
                raise RequestFailed("the device is closed", errno.EBADF, is_lost=False)
            lane = min(self._lanes, key=lambda lane: lane.rest_bytes, default=None)
            if lane is None or (lane.rest_bytes and len(self._lanes) < self._most):
                lane = _Lane(self._pool, self._deadline_s)
                self._lanes.append(lane)
            lane.calls += 1
            lane.rest_bytes += call.size_bytes
        try:
            lane.carry_out(call)
        finally:
            with self._lock:
                lane.calls -= 1
                lane.rest_bytes -= call.size_bytes
                self._close_unused()
        if call.lost is not None:
            raise call.lost
        return call.failures

    def close(self) -> None:
        """Let every further call fail, and release what the lanes have when no call is left."""
        with self._lock:
            self._is_closed = True
            self._close_unused()

    def _close_unused(self) -> None:
        """Lock held. Close the lanes without a call, once the device is closed.

        A number of a descriptor that is closed may be that of another file at once.
        """
        if self._is_closed:
            for lane in [lane for lane in self._lanes if not lane.calls]:
                self._lanes.remove(lane)
                lane.close()


class _Lane:
    """One lane.

    calls: how many have not ended. rest_bytes: of these calls. RequestLanes changes both.

    Whoever drives has `_connection`, `_under_way`, `_sending` and `_until_s` for itself.
    """

    def __init__(self, pool: ConnectionPool, deadline_s: float) -> None:
        self._pool: Final = pool
        self._deadline_s: Final = deadline_s
        self.calls = self.rest_bytes = 0
        self._changed: Final = Condition()
        self._new: Final[deque[_Call]] = deque()
        self._is_driven = self._is_broken_off = False
        self._connection: NbdConnection | None = None
        self._under_way: Final[dict[int, tuple[_Call, int]]] = {}  # by cookie, with the index
        self._sending: Final[deque[_Call]] = deque()  # with requests that weren't sent yet
        self._until_s = 0.0
        self._woken_fd, self._waking_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def carry_out(self, call: _Call) -> None:
        """Return when the call is done."""
        with self._changed:
            self._new.append(call)
        self._wake()
        try:
            self._bring_to_end(call)
        except BaseException:
            with self._changed:
                self._is_broken_off = not call.is_done
            self._wake()
            self._bring_to_end(call)
            raise

    def close(self) -> None:
        """Close the descriptors by which a driver is woken. No call may be left."""
        os.close(self._woken_fd)
        os.close(self._waking_fd)

    def _wake(self) -> None:
        """Let a driver that waits for answers look at the calls."""
        if self._is_driven:
            with suppress(BlockingIOError):  # there is one in the pipe
                os.write(self._waking_fd, b"\0")

    def _bring_to_end(self, call: _Call) -> None:
        """Wait until the call is done, and drive the lane if nobody does."""
        with self._changed:
            while self._is_driven and not call.is_done:
                self._changed.wait()
            if call.is_done:
                return
            self._is_driven = True
        try:
            while not call.is_done:
                self._move()
        except RequestFailed as error:
            self._fail_all(error)
        except BaseException:
            self._fail_all(RequestFailed("the request was interrupted", 0, is_lost=True))
            raise
        finally:
            with self._changed:
                if not (self._under_way or self._sending or self._new):
                    self._give_back()
                    self._is_broken_off = False
                self._is_driven = False
                self._changed.notify_all()

    def _move(self) -> None:
        """Send what may be sent, then take answers, or wait for them."""
        if self._is_broken_off:
            raise RequestFailed("a request was interrupted", 0, is_lost=True)
        if not self._under_way:
            if self._pool.is_wanted:
                self._give_back()
            self._until_s = time.monotonic() + self._deadline_s
        if self._connection is None:
            self._connection = self._pool.take(yields=True)
        self._send_requests(self._connection)
        if self._take_answers(self._connection):
            self._until_s = time.monotonic() + self._deadline_s
        elif self._under_way:
            self._connection.wait_for_answers(self._woken_fd, self._until_s)
            with suppress(BlockingIOError):
                os.read(self._woken_fd, 64)

    def _send_requests(self, connection: NbdConnection) -> None:
        while self._new:
            self._sending.append(self._new.popleft())
        if self._pool.is_wanted and self._under_way:
            return
        under_way, sending = self._under_way, self._sending
        while sending:
            call = sending[0]
            requests, send = call.requests, call.send
            end = min(len(requests), call.sent + IN_FLIGHT - len(under_way))
            for index in range(call.sent, end):
                call.sent = index + 1
                try:
                    cookie = send(connection, requests[index])
                except RequestFailed as error:
                    if error.is_lost:
                        raise
                    self._note_result(call, index, error)
                else:
                    under_way[cookie] = call, index
            if call.sent < len(requests):
                return
            sending.popleft()

    def _take_answers(self, connection: NbdConnection) -> bool:
        """Take the answers that have come; return whether there are any."""
        has_any = False
        for cookie, failure in connection.answers():
            has_any = True
            self._note_result(*self._under_way.pop(cookie), failure)
        return has_any

    def _note_result(self, call: _Call, index: int, failure: RequestFailed | None) -> None:
        call.failures[index] = failure
        call.left -= 1
        if not call.left:
            with self._changed:
                self._changed.notify_all()

    def _fail_all(self, error: RequestFailed) -> None:
        """End the connection, if there is one, and all calls of the lane."""
        if self._connection is not None:
            self._pool.discard(self._connection, str(error))
            self._connection = None
        with self._changed:
            calls = {id(call): call for call, _ in self._under_way.values()}
            calls |= {id(call): call for call in (*self._sending, *self._new)}
            for call in calls.values():
                call.lost = error
            self._under_way.clear()
            self._sending.clear()
            self._new.clear()
            self._is_broken_off = False

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)
