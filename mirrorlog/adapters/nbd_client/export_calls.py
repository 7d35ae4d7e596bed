"""Calls of an export over the connections of a pool, and what their failures mean to a caller."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Final, TypeVar

from mirrorlog.adapters.nbd_client.connection_pool import ConnectionPool
from mirrorlog.adapters.nbd_client.nbd_connection import (
    Extent,
    NbdConnection,
    Request,
    RequestFailed,
    extents_callback,
)
from mirrorlog.adapters.nbd_client.request_lanes import RequestLanes, Send
from mirrorlog.errors import DeviceFailed

EARLY_FLUSH_BYTES: Final = 16 << 20
_NO_ZERO: Final = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_LOST: Final = (
    "Look whether the server runs and can be reached from here. The next attempt connects again."
)
_ADVICE: Final = {
    errno.EBADF: "Open the device again, and repeat the writes since the last flush.",
    errno.ENOSPC: "Free space at the server, then repeat.",
    errno.EPERM: "Let the server export it for writing.",
    errno.EIO: "The server's storage reports an error. Look at the server's log.",
    errno.ESTALE: "Open it again. Look whether the server exports the right thing.",
}

_R = TypeVar("_R")


class ExportCalls:
    """Carries out calls of any number of threads, each on a connection of its own.

    Every method raises DeviceFailed. `doing` is what the error says of the call, as "reading".
    """

    def __init__(self, address: str, pool: ConnectionPool, *, deadline_s: float) -> None:
        """deadline_s: of each request."""
        self._address: Final = address
        self._pool: Final = pool
        self._lanes: Final = RequestLanes(pool, deadline_s=deadline_s)
        self._early_lock: Final = Lock()
        self._early_bytes, self._flushes_early = 0, False

    def close(self) -> None:
        """Close the connections. Calls that are under way fail, or end."""
        self._pool.close()
        self._lanes.close()

    def write(self, doing: str, offset: int, request: Callable[[NbdConnection], None]) -> None:
        """Carry out one write."""
        losses = self._pool.begin_write()
        self.ask(doing, offset, request)
        self._pool.end_write(losses)

    def write_many(self, doing: str, requests: Sequence[Request], send: Send) -> None:
        """Carry out many writes as ask_many does. After a failure, any of them may be done."""
        losses = self._pool.begin_write()
        self.ask_many(doing, requests, send)
        self._pool.end_write(losses)

    def flush(self) -> None:
        """Make durable what was written before the call. After a failure every call fails."""
        acknowledged = self._pool.begin_flush()
        try:
            self.ask("flushing", 0, NbdConnection.flush, oldest=True)
        except DeviceFailed as error:
            self._note_flush_failed(error)
            raise
        self._pool.end_flush(acknowledged)

    def flush_early(self, size_bytes: int) -> None:
        """Flush if much was written since the last time, so that the last flush is a short one.

        size_bytes: written by this thread just now. The server's storage then writes while more
        data is on its way to it. This proves nothing: only flush() counts.
        """
        with self._early_lock:
            self._early_bytes += size_bytes
            if self._early_bytes < EARLY_FLUSH_BYTES or self._flushes_early:
                return
            self._early_bytes, self._flushes_early = 0, True
        try:
            self.ask_many("flushing", [(0, 0, 0)], lambda connection, _: connection.send_flush())
        except DeviceFailed as error:
            self._note_flush_failed(error)
            raise
        finally:
            self._flushes_early = False

    def _note_flush_failed(self, error: DeviceFailed) -> None:
        self._pool.note_flush_failed(f"an earlier flush failed: {error.what}")

    def ask_many(self, doing: str, requests: Sequence[Request], send: Send) -> None:
        """Carry out many requests at once. The error names the first that failed."""
        failures = self._carry_out(doing, requests, send)
        for (_, offset, _), failure in zip(requests, failures, strict=True):
            if failure is not None:
                raise failed(self._address, doing, offset, failure) from failure

    def extents_many(self, doing: str, ranges: Sequence[tuple[int, int]]) -> list[list[Extent]]:
        """Return the extents of each (offset, length), as NbdConnection.extents() does.

        The list of a range is empty if the server couldn't tell.
        """
        lists: list[list[Extent]] = [[] for _ in ranges]
        callbacks = [extents_callback(of_range) for of_range in lists]
        requests = [(index, offset, length) for index, (offset, length) in enumerate(ranges)]

        def send(connection: NbdConnection, request: Request) -> int:
            index, offset, length = request
            return connection.send_extents(callbacks[index], offset=offset, length=length)

        for index, failure in enumerate(self._carry_out(doing, requests, send)):
            if failure is not None:
                lists[index] = []
        return lists

    def _carry_out(
        self, doing: str, requests: Sequence[Request], send: Send
    ) -> list[RequestFailed | None]:
        if not requests:
            return []
        try:
            return self._lanes.carry_out(requests, send)
        except RequestFailed as error:
            raise failed(self._address, doing, requests[0][1], error) from error

    def ask(
        self,
        doing: str,
        offset: int,
        request: Callable[[NbdConnection], _R],
        *,
        oldest: bool = False,
    ) -> _R:
        """Carry out a request. oldest: see ConnectionPool.take."""
        try:
            connection = self._pool.take(oldest=oldest)
            try:
                result = request(connection)
            except RequestFailed as error:
                if error.is_lost:
                    self._pool.discard(connection, str(error))
                else:
                    self._pool.give_back(connection)
                raise
            except BaseException:
                self._pool.discard(connection, "the request was interrupted")
                raise
        except RequestFailed as error:
            raise failed(self._address, doing, offset, error) from error
        self._pool.give_back(connection)
        return result

    def check_open(self, offset: int) -> None:
        """Raise DeviceFailed if every further call fails."""
        if (why := self._pool.broken) is not None:
            error = RequestFailed(why, errno.EBADF, is_lost=False)
            raise failed(self._address, "using it", offset, error)


def failed(address: str, doing: str, offset: int, error: RequestFailed) -> DeviceFailed:
    """Return the error for a request that failed."""
    return DeviceFailed(
        f"{doing} failed: {error}",
        where=f"{address}, offset {offset}",
        next=_ADVICE.get(error.code)
        or (_LOST if error.is_lost else "Look at the server's log, then repeat."),
    )


def is_unable(error: DeviceFailed) -> bool:
    """Return whether a server refused to zero because it can't do that."""
    cause = error.__cause__
    return isinstance(cause, RequestFailed) and cause.code in _NO_ZERO
