"""Whether a worker of the node makes progress, for what restarts one that doesn't."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from mirrorlog.streams.engine import EngineHealth

log = logging.getLogger("mirrorlog.node")

LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeCalls:
    """What a worker tells of its life, on the engine's event loop.

    on_alive: called about once a second while no partition is stuck. A worker whose event loop
        hangs doesn't call it either.
    on_stuck: called instead, with the reason in words.
    on_stopping: called when the worker begins to stop in order.
    """

    on_alive: Callable[[], None] = lambda: None
    on_stuck: Callable[[str], None] = lambda _: None
    on_stopping: Callable[[], None] = lambda: None


class NodeLiveness:
    """Looks at the engine's health again and again (engine.EngineService)."""

    def __init__(self, health: Callable[[], EngineHealth], calls: LifeCalls) -> None:
        self._health, self._calls = health, calls
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run(), name="mirrorlog-liveness")

    async def stop(self) -> None:
        """Say that the worker stops, and look no more."""
        self._calls.on_stopping()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def look(self) -> None:
        """Tell whether the worker makes progress.

        A worker that holds back tries again, and ends by itself: it isn't stuck.
        """
        if stuck := self._health().stuck:
            self._calls.on_stuck(_in_words(stuck))
        else:
            self._calls.on_alive()

    async def _run(self) -> None:
        """Look for ever. An error here is a defect: nothing is told of the worker's life then."""
        while True:
            try:
                self.look()
            except Exception:
                log.exception("the worker can't tell whether it makes progress")
            await asyncio.sleep(LOOK_S)


def _in_words(stuck: Mapping[int, str]) -> str:
    partition, reason = min(stuck.items())
    more = f" (and {len(stuck) - 1} more)" if len(stuck) > 1 else ""
    return f"partition {partition}{more} is stuck: {reason}"
