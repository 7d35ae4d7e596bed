"""The connections of one device to its export, and what losing one of them means.

A flush covers what other connections wrote only if the server says so (multi-conn, NBD protocol,
NBD_FLAG_CAN_MULTI_CONN). With any other server, one connection does everything.

A lost connection may have taken with it what wasn't flushed: the server may have crashed. So if
anything wasn't, the pool is broken for good, and the caller opens the device again.

A lost connection may not be noticed for a while: a machine that lost its power sends nothing. So a
flush goes over the oldest connection. It was opened before all that isn't flushed yet was written,
because a loss since then would have broken the pool. If the server answers on it, it has lived
since.

A server has threads for each connection (nbdkit: 16 or more). So another one is opened only for a
thread that has waited a moment for those that there are, and one that wasn't needed for a while is
closed. It is never the oldest one, over which flushes go.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from threading import Condition
from typing import Final

from mirrorlog.adapters.nbd_client.nbd_connection import NbdConnection, RequestFailed

_TRUSTED_S: Final = 0.5
"""A connection that was used within this time isn't looked at before the next request."""
_PATIENCE_S: Final = 0.1
"""A thread waits so long for a connection that another one has before it opens a further one."""
_KEPT_S: Final = 60.0
"""A connection that no thread needed for so long is closed, but for the oldest one."""


class ConnectionPool:
    """Lends connections to threads, one to each at a time. It opens them when they are needed.

    first: the connection by which the device was opened. Later ones must show the same export.
    most: how many connections there are at most.
    """

    def __init__(
        self,
        connect: Callable[[], NbdConnection],
        *,
        most: int,
        reconnects: bool,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """Open the first connection.

        most: how many there are at most, if the server has multi-conn.
        reconnects: whether a lost connection may be replaced by a new one.
        patience_s: how long a thread waits for a connection before it opens one beside others.
        Raise what `connect` raises.
        """
        self._connect: Final = connect
        self._reconnects: Final = reconnects
        self._patience_s: Final = patience_s
        self.first: Final = connect()
        self.most: Final = most if self.first.can_multi_conn else 1
        self._changed: Final = Condition()
        self._idle = [self.first]
        self._live = [self.first]  # all that are open, the oldest first
        self._needed_s: Final[dict[NbdConnection, float]] = {}  # when each was lent last
        self._count = 1  # with those that are being opened
        self._is_closed = False
        self._broken: str | None = None
        self._losses = self._waiting = 0
        self._acknowledged = self._flushed = 0  # writes

    @property
    def broken(self) -> str | None:
        """Why every further call fails; None if none does."""
        return "the device is closed" if self._is_closed else self._broken

    def begin_write(self) -> int:
        """Return what end_write() takes after a write that begins now."""
        return self._losses

    def end_write(self, losses: int) -> None:
        """Note that the server has acknowledged a write.

        If a connection was lost meanwhile, the server may have crashed after that.
        """
        with self._changed:
            self._acknowledged += 1
            if losses != self._losses:
                self._break("a connection was lost during a write")

    def begin_flush(self) -> int:
        """Return what end_flush() takes after a flush that begins now."""
        return self._acknowledged

    def end_flush(self, acknowledged: int) -> None:
        """Note that a flush has succeeded."""
        with self._changed:
            self._flushed = max(self._flushed, acknowledged)

    def note_flush_failed(self, why: str) -> None:
        """Note that a flush has failed: what was written may be lost."""
        with self._changed:
            self._break(why)

    @property
    def is_wanted(self) -> bool:
        """Whether a thread waits for a connection, so that one should be given back soon."""
        return self._waiting > 0

    def take(self, *, oldest: bool = False, yields: bool = False) -> NbdConnection:
        """Return a connection for the calling thread, which gives it back or discards it.

        oldest: only the oldest one will do, as for a flush. yields: threads that call without it
        and wait come first.
        Raise RequestFailed if the pool is broken or no connection can be opened, and BadUse.
        """
        opens_at_s = time.monotonic() + self._patience_s
        while True:
            with self._changed:
                while True:
                    if (why := self.broken) is not None:
                        raise RequestFailed(why, errno.EBADF, is_lost=False)
                    patience_s = opens_at_s - time.monotonic()
                    can_lend = self._can_lend(oldest, may_open=patience_s <= 0)
                    if can_lend and not (yields and self._waiting):
                        break
                    self._wait(counts=not yields, at_most_s=patience_s if patience_s > 0 else None)
                connection = self._live[0] if oldest and self._live else None
                if connection is not None:
                    self._idle.remove(connection)
                elif self._idle:
                    connection = self._idle.pop()
                else:
                    self._count += 1
            if connection is None:
                return self._open()
            is_recent = time.monotonic() - connection.used_at_s < _TRUSTED_S
            if is_recent or connection.is_alive():
                return connection
            self.discard(connection, "the server ended the connection")

    def give_back(self, connection: NbdConnection) -> None:
        """Take back a connection that works. Close those that no thread needed for long."""
        self._needed_s[connection] = time.monotonic()
        self._put_back(connection)

    def _put_back(self, connection: NbdConnection) -> None:
        with self._changed:
            if self._is_closed:
                unneeded = [connection]
            else:
                self._idle.append(connection)
                unneeded = self._take_unneeded()
                self._changed.notify_all()  # one of those who wait may need this very one
        for surplus in unneeded:
            surplus.close()

    def discard(self, connection: NbdConnection, why: str) -> None:
        """Take back a connection that is lost."""
        connection.close()
        with self._changed:
            self._live.remove(connection)
            self._needed_s.pop(connection, None)
            self._count -= 1
            self._losses += 1
            if not self._reconnects or self._acknowledged != self._flushed:
                self._break(f"the connection was lost ({why})")
            self._changed.notify_all()

    def is_intact(self) -> bool:
        """Return False if a connection is known to be lost. Asks nothing of the server."""
        with self._changed:
            idle, self._idle = self._idle, []
        for connection in idle:
            if connection.is_alive():
                self._put_back(connection)
            else:
                self.discard(connection, "the server ended it")
        return self.broken is None

    def ping(self) -> None:
        """Ask something of each idle connection, and discard those that are lost.

        A server that is to stop may wait until its clients are gone (nbdkit), and an idle client
        learns of it only by a request.
        """
        with self._changed:
            idle, self._idle = self._idle, []
        for connection in idle:
            try:
                connection.ping()
            except RequestFailed as error:
                if error.is_lost:
                    self.discard(connection, str(error))
                    continue
            self._put_back(connection)

    def close(self) -> None:
        """Close all idle connections. Those that are lent are closed when they come back."""
        with self._changed:
            self._is_closed = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for connection in idle:
            connection.close()

    def _open(self) -> NbdConnection:
        """Open a connection. It is counted already."""
        try:
            connection = self._connect()
        except BaseException:
            self._uncount()
            raise
        if (difference := self._difference(connection)) is None:
            with self._changed:
                self._live.append(connection)
            return connection
        connection.close()
        self._uncount()
        raise RequestFailed(difference, errno.ESTALE, is_lost=True)

    def _difference(self, other: NbdConnection) -> str | None:
        """Return why another connection doesn't lead to what the first one does.

        The description of an export names the run of its server, where mirrorlog serves it. A pool
        that reconnects follows the server from one run to the next.
        """
        first = self.first
        if other.size_bytes != first.size_bytes:
            return f"the export has {other.size_bytes} bytes now, and had {first.size_bytes}"
        if other.description != first.description and not self._reconnects:
            return f"the export is '{other.description}' now, and was '{first.description}'"
        return None

    def _take_unneeded(self) -> list[NbdConnection]:
        """Lock held. Take out the idle connections that are to be closed, never the oldest one.

        The connection that was given back last is lent first, so the others stay unneeded. A ping
        of all isn't a need.
        """
        since_s = time.monotonic() - _KEPT_S
        oldest = self._live[0]
        unneeded = [
            connection
            for connection in self._idle
            if connection is not oldest and self._needed_s.get(connection, since_s) < since_s
        ]
        for connection in unneeded:
            self._idle.remove(connection)
            self._live.remove(connection)
            del self._needed_s[connection]
            self._count -= 1
        return unneeded

    def _can_lend(self, oldest: bool, *, may_open: bool) -> bool:
        """Lock held. Return whether take() need not wait.

        may_open: whether it has waited long enough to open another connection beside others.
        """
        if oldest and self._live:
            return self._live[0] in self._idle
        return bool(self._idle) or (self._count < self.most and (may_open or not self._count))

    def _wait(self, *, counts: bool, at_most_s: float | None) -> None:
        """Lock held. Wait until something has changed. counts: as one that is_wanted tells of."""
        self._waiting += counts
        try:
            self._changed.wait(at_most_s)
        finally:
            self._waiting -= counts

    def _uncount(self) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def _break(self, why: str) -> None:
        """Lock held. Let every further call fail."""
        self._broken = self._broken or why
        self._changed.notify_all()
