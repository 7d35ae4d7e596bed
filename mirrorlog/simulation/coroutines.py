"""An event loop without files, for coroutines of a simulation.

`asyncio.run` opens three files for each coroutine, and closes them again. This takes ten times as
long as most coroutines of a simulated node do, which wait for nothing.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class CoroutineRunner:
    """Runs coroutines, one after the other, in an event loop of its own."""

    def __init__(self) -> None:
        self._loop = _Loop()
        weakref.finalize(self, self._loop.close)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine. Tasks that it leaves are cancelled, as by asyncio.run.

        A coroutine may wait for tasks and for time, but not for sockets. What it hands to threads
        is done at once.
        """
        try:
            return self._loop.run_until_complete(coroutine)
        finally:
            if left := asyncio.all_tasks(self._loop):
                for task in left:
                    task.cancel()
                self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))


class _Waiting:
    """What the loop asks for events of files. There are none, so it waits to be woken."""

    def __init__(self) -> None:
        self._woken = threading.Event()

    def select(self, timeout_s: float | None) -> list[object]:
        if timeout_s is None or timeout_s > 0:
            self._woken.wait(timeout_s)
        self._woken.clear()
        return []

    def wake(self) -> None:
        self._woken.set()


class _Loop(asyncio.BaseEventLoop):
    """The loop of asyncio, which asks _Waiting in the place of a selector."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Waiting()

    def run_in_executor(
        self, executor: object, func: Callable[[*Arguments], T], *args: *Arguments
    ) -> asyncio.Future[T]:
        """Call it at once, so that a run is the same each time."""
        del executor
        called: asyncio.Future[T] = self.create_future()
        try:
            called.set_result(func(*args))
        except BaseException as error:  # noqa: BLE001 (the caller gets it, as from a thread)
            called.set_exception(error)
        return called

    def _process_events(self, events: list[object]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        self._selector.wake()
