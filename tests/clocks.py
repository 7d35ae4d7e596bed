"""Clocks that a test moves, and a process that may crash at each of its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class HandClock:
    """It goes on when the test says so, and by `look_s` at each look at the monotonic time."""

    now_s: float = 0.0
    look_s: float = 0.0

    def now_us(self) -> int:
        return int(self.now_s * 1e6)

    def monotonic_s(self) -> float:
        self.now_s += self.look_s
        return self.now_s


@dataclass
class CountingClock:
    """Each answer of now_us() differs, so that a command's times tell which writes it can know of."""

    now_s: float = 0.0
    ticks: int = 0

    def now_us(self) -> int:
        self.ticks += 1
        return self.ticks

    def monotonic_s(self) -> float:
        return self.now_s


class Crashed(BaseException):
    """The process is gone: nothing of it runs any further."""


@dataclass
class Steps:
    """Counts the steps of one session; at step `crash_at`, and from then on, nothing happens any more."""

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
