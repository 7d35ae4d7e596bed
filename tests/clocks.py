"""A clock whose answers all differ, and a process that may crash at each of its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class CountingClock:
    """A clock whose answers of now_us() all differ.

    A command's times tell which writes it can know of.
    """

    now_s: float = 0.0
    ticks: int = 0

    def now_us(self) -> int:
        self.ticks += 1
        return self.ticks

    def monotonic_s(self) -> float:
        return self.now_s


class Crashed(BaseException):
    """The process is killed: nothing of it runs any more."""


@dataclass
class Steps:
    """Counts the steps of one session, and raises Crashed at step `crash_at` and ever after."""

    crash_at: int | None
    seen: Callable[[], None] = lambda: None
    count: int = 0
    dead: bool = False

    def __call__(self, *_: object) -> None:
        if not self.dead:
            self.seen()
            self.count += 1
            self.dead = self.count == self.crash_at
        if self.dead:
            raise Crashed
