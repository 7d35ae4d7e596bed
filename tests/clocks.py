"""A clock whose answers all differ, and a process that may crash at each of its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar


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


class CrashingWorld(Protocol):
    """A simulated world whose host's process can crash in a copy of it."""

    steps: Steps

    def session(self, crash_at: int | None, *, on_step: Callable[[Any], None]) -> int:
        """Run one session; return its number of steps. on_step: takes its publisher before each."""
        ...

    def crashed(self, publisher: Any, mode: str) -> Self:
        """Return a copy of the world, in which the host's process has crashed now."""
        ...


World = TypeVar("World", bound=CrashingWorld)


def crashed_copies(world: World, mode: str, every: int) -> tuple[dict[int, World], int]:
    """Run a session to its end. Return copies of the world that crashed, and how many steps it had.

    The copies are those of each step, or of every `every`th, by the number of the step.
    """
    copies: dict[int, World] = {}

    def copy_at(publisher: Any) -> None:
        before = world.steps.count
        if before % every == 0:
            copies[before + 1] = world.crashed(publisher, mode)

    steps = world.session(None, on_step=copy_at)
    return copies, steps
