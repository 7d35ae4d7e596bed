"""Threads for questions: a fixed number, which together take at most half of the interpreter.

A question is answered beside the node's own work in one process, and one thread at a time holds
Python's interpreter. A thread that never rests makes the event loop wait 5 ms
(sys.getswitchinterval) after each call that releases the interpreter, and the fold makes many such
calls. So each thread rests after every few milliseconds of work.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from mirrorlog.errors import NodeUnavailable

T = TypeVar("T")
_SLICE_S: Final = 0.004
"""Processor time after which a thread rests."""


class QueryCancelled(Exception):
    """The client has gone: nobody waits for the answer any more."""


class QuerySlot:
    """The right of one request to a thread.

    Its thread calls `checkpoint` and `pause`; everything else is for the event loop.
    """

    def __init__(self, pool: ThreadPoolExecutor, slots_taken: Callable[[], int]) -> None:
        self._pool, self._slots_taken = pool, slots_taken
        self._cancelled = threading.Event()
        self._rested_at_s = 0.0
        self.running: Future[Any] | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Run one step in a thread and return its result. One step at a time."""

        def step() -> T:
            self._rested_at_s = time.thread_time()
            return work()

        running = self.running = self._pool.submit(step)
        return await asyncio.wrap_future(running)

    def checkpoint(self) -> None:
        """Sleep if it is time to; raise QueryCancelled if the client has gone.

        Call it often: between two steps of little work each.
        """
        worked_s = time.thread_time() - self._rested_at_s
        if worked_s >= _SLICE_S:
            # n threads that rest this long have 1 / 2n of the time each: half of it together.
            self.pause(worked_s * (2 * self._slots_taken() - 1))
        elif self._cancelled.is_set():
            raise QueryCancelled

    def pause(self, seconds: float) -> None:
        """Wait; raise QueryCancelled as soon as the client has gone."""
        if self._cancelled.wait(seconds):
            raise QueryCancelled
        self._rested_at_s = time.thread_time()

    def cancel(self) -> None:
        """Make the thread stop at its next checkpoint."""
        self._cancelled.set()


class QueryThreads:
    """A slot for each of at most `limit` requests at a time.

    A slot is free again when its thread has ended, not when its client has gone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pool = ThreadPoolExecutor(limit, thread_name_prefix="mirrorlog-http")
        self._taken: set[QuerySlot] = set()

    @contextmanager
    def slot(self) -> Iterator[QuerySlot]:
        """Take a slot for a request, and cancel it at the end. NodeUnavailable if none is free."""
        if len(self._taken) >= self._limit:
            raise NodeUnavailable(
                f"{self._limit} questions are being answered, and no more at a time",
                next="Ask again in a moment, or raise node_http_queries.",
            )
        slot = QuerySlot(self._pool, lambda: len(self._taken))
        self._taken.add(slot)
        loop = asyncio.get_running_loop()

        def free(_: object) -> None:
            with suppress(RuntimeError):  # the loop may have been closed meanwhile
                loop.call_soon_threadsafe(self._taken.discard, slot)

        try:
            yield slot
        finally:
            slot.cancel()
            if slot.running is None or slot.running.done():
                self._taken.discard(slot)
            else:
                slot.running.add_done_callback(free)

    def close(self) -> None:
        """Cancel all requests. Does not wait for their threads."""
        for slot in self._taken:
            slot.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
