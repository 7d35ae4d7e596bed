"""How long a test waits for a condition before it fails: long enough for any machine.

A deadline only ends a test that would wait for ever. No test judges how fast the machine is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, TypeVar

_Answer = TypeVar("_Answer")

DEADLINE_S: Final = 300.0
"""For any condition that a test waits for."""


def wait_until(
    look: Callable[[], _Answer],
    check: Callable[[], None] = lambda: None,
    *,
    every_s: float = 0.01,
    deadline_s: float = DEADLINE_S,
) -> _Answer:
    """Return what `look` returns, once that is true. Fail at the deadline.

    check: called before each further look; it raises if nothing is to be waited for any more.
    every_s: the time between two looks. deadline_s: from now.
    """
    until_s = time.monotonic() + deadline_s
    while not (answer := look()):
        check()
        assert time.monotonic() < until_s, "the deadline has passed"
        time.sleep(every_s)
    return answer


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition is true, and let the other tasks of the loop run until then."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0)
