"""Answers nbdkit's requests, from a thread of its own: grants of regions, and closed batches."""

from __future__ import annotations

import errno
import queue
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Thread
from typing import Final, TypeAlias

from mirrorlog.domain.retry_reports import RetryReports
from mirrorlog.domain.snapshots import SnapshotExport, describe
from mirrorlog.errors import MirrorlogError
from mirrorlog.producers.nbd.region_grants import RegionGrants
from mirrorlog.producers.nbd.ring import (
    ANSWER,
    CLOSE_BATCH,
    FLUSH_FORKS,
    GRANT_AHEAD,
    GRANT_REQUEST,
    MESSAGE,
    MOST_ANSWERS,
)

_Message = tuple[int, int, int, int]
"""The fields of MESSAGE: kind, position, offset, length."""
CloseBatch: TypeAlias = Callable[[Callable[[SnapshotExport | None], None]], bool]
"""AttachedWriters.close_batch() of one volume."""


class GrantServer:
    """Reads messages of nbdkit (ring.h) until nbdkit closes its end of the socket.

    error: why the server stopped before that. The socket is then closed, so no write begins.
    """

    def __init__(
        self,
        grants: RegionGrants,
        collect: Callable[[], None],
        close_batch: CloseBatch,
        flush_forks: Callable[[], None],
        control: socket.socket,
        report: Callable[[str], None],
    ) -> None:
        """Start the thread.

        collect: sends a batch if enough writes have ended; it is called after each message.
        close_batch: see CloseBatch; it raises MirrorlogError.
        flush_forks: flushes the secondaries that the fork mode waits for.
        control: the host's end of the socket, which the server closes.
        report: takes the text of an error that makes a write fail.
        """
        self._grants: Final = grants
        self._collect: Final = collect
        self._close_batch: Final = close_batch
        self._flush_forks: Final = flush_forks
        self._flushes: Final[queue.SimpleQueue[int | None]] = queue.SimpleQueue()
        self._control: Final = control
        self._report: Final = report
        self._failures: Final = RetryReports()
        self.error: BaseException | None = None
        self._thread: Final = Thread(target=self._run, name="nbd grants", daemon=True)
        self._thread.start()
        self._flusher: Final = Thread(target=self._flush, name="nbd fork flushes", daemon=True)
        self._flusher.start()

    def close(self) -> None:
        """End the thread, and wait until it has ended."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._flushes.put(None)
        self._flusher.join()
        self._control.close()

    def _run(self) -> None:
        try:
            while messages := self._receive():
                self._answer([message for message in messages if message[0] == GRANT_REQUEST])
                for what, position, _, _ in messages:
                    if what == CLOSE_BATCH:
                        self._begin_snapshot(position)
                    elif what == FLUSH_FORKS:
                        self._flushes.put(position)
                for what, _, offset, length in messages:
                    if what == GRANT_AHEAD:
                        with suppress(MirrorlogError):  # the writes that come there report it
                            self._grants.grant_behind(offset=offset, length=length)
                self._collect()
        except BaseException as error:  # noqa: BLE001 - the host's own thread raises it
            self.error = error
        finally:
            with suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)

    def _receive(self) -> list[_Message]:
        """Wait for a message, then return all that have arrived.

        Return an empty list when nbdkit has closed its end of the socket.
        """
        messages = []
        flags = 0
        with suppress(BlockingIOError, ConnectionResetError):
            while packet := self._control.recv(MESSAGE.size, flags):
                messages.append(MESSAGE.unpack(packet))
                flags = socket.MSG_DONTWAIT
        return messages

    def _flush(self) -> None:
        """Flush secondaries for nbdkit. Requests that wait at once share a flush."""
        while (first := self._flushes.get()) is not None:
            positions = [first]
            while not self._flushes.empty():
                if (position := self._flushes.get()) is None:
                    return
                positions.append(position)
            self._flush_forks()
            for position in positions:
                with suppress(OSError):  # nbdkit has ended
                    self._control.send(MESSAGE.pack(0, position, 0, 0))

    def _begin_snapshot(self, position: int) -> None:
        """Close the batch for a snapshot, and answer when it is on its way and when it is there."""

        def on_closed(snapshot: SnapshotExport | None) -> None:
            code, text = (errno.EAGAIN, "") if snapshot is None else (0, describe(snapshot))
            with suppress(OSError):  # nbdkit has ended
                self._control.send(MESSAGE.pack(code, position + 1, 0, 0) + text.encode())

        try:
            is_sent = self._close_batch(on_closed)
        except MirrorlogError:
            is_sent = False  # each write reports it
        self._control.send(MESSAGE.pack(0 if is_sent else errno.EAGAIN, position, 0, 0))

    def _answer(self, requests: Sequence[_Message]) -> None:
        """Grant all requests together, so that they share one sync of the activity log."""
        if not requests:
            return
        code = 0
        try:
            self._grants.grant((offset, length) for _, _, offset, length in requests)
        except MirrorlogError as error:
            code = errno.EIO
            if text := self._failures.failed("grants", str(error), now_s=time.monotonic()):
                self._report(text)
        else:
            if text := self._failures.worked("grants", now_s=time.monotonic()):
                self._report(f"tracking the writes of NBD clients {text}")
        positions = [position for _, position, _, _ in requests]
        for start in range(0, len(positions), MOST_ANSWERS):
            together = positions[start : start + MOST_ANSWERS]
            more = range(len(together) - 1, -1, -1)
            packets = (ANSWER.pack(code, *answer) for answer in zip(more, together, strict=True))
            self._control.send(b"".join(packets))
