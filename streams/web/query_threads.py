"""Threads for questions: few, each given up once nobody waits, and together never more than half of the interpreter.

A question is folded beside the node's own work in one process, and one thread at a time has Python's interpreter. A thread
that never rests makes the event loop wait 5 ms (sys.getswitchinterval) after every call that lets go of it, and the fold
makes many: so each rests after every few milliseconds.
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


class QueryCancelled(Exception):
    """Nobody waits for the answer any more."""


class QuerySlot:
    """One request's place among the threads. `go_on` and `pause` are for its thread, the rest for the event loop."""

    def __init__(self, pool: ThreadPoolExecutor, taken: Callable[[], int]) -> None:
        self._pool, self._taken = pool, taken
        self._cancelled = threading.Event()
        self._rested_at_s = 0.0
        self.running: Future[Any] | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Runs one step in a thread; one at a time."""

        def step() -> T:
            self._rested_at_s = time.thread_time()
            return work()

        running = self.running = self._pool.submit(step)
        return await asyncio.wrap_future(running)

    def go_on(self) -> None:
        """Rests when it is time to; QueryCancelled where nobody waits any more."""
        worked_s = time.thread_time() - self._rested_at_s
        if worked_s >= _SLICE_S:
            # n threads that rest so have 1 / 2n of the time each: half of it together.
            self.pause(worked_s * (2 * self._taken() - 1))
        elif self._cancelled.is_set():
            raise QueryCancelled

    def pause(self, seconds: float) -> None:
        """Waits; QueryCancelled at once where nobody waits any more."""
        if self._cancelled.wait(seconds):
            raise QueryCancelled
        self._rested_at_s = time.thread_time()

    def cancel(self) -> None:
        """Nobody waits any more."""
        self._cancelled.set()


class QueryThreads:
    """At most `most` requests at a time; a place is free again when its thread has ended too, not before."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="mirrorlog-http")
        self._taken: set[QuerySlot] = set()

    @contextmanager
    def place(self) -> Iterator[QuerySlot]:
        """A place for a request; NodeUnavailable where all are taken."""
        if len(self._taken) >= self._most:
            raise NodeUnavailable(
                f"{self._most} questions are being answered, and no more at a time",
                next="Ask again in a moment, or raise node_http_queries.",
            )
        place = QuerySlot(self._pool, lambda: len(self._taken))
        self._taken.add(place)
        loop = asyncio.get_running_loop()

        def ended(_: object) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self._taken.discard, place)

        try:
            yield place
        finally:
            place.cancel()
            if place.running is None or place.running.done():
                self._taken.discard(place)
            else:
                place.running.add_done_callback(ended)

    def close(self) -> None:
        """Gives up everything."""
        for place in self._taken:
            place.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
