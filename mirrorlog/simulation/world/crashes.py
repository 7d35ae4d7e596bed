"""A kill between any two steps of a role."""

from __future__ import annotations

from random import Random


class Crash(BaseException):
    """The role is killed, as by kill -9. Nothing but the world may catch it."""


class Fuse:
    """Raises Crash at a step that is drawn when the fuse is lit. It is out at first."""

    def __init__(self) -> None:
        self._steps_left: int | None = None

    def light(self, random: Random, *, probability: float = 0.3, max_steps: int = 40) -> None:
        """Light the fuse with a probability: one of the next `max_steps` steps raises Crash."""
        is_lit = random.random() < probability
        self._steps_left = random.randrange(max_steps) if is_lit else None

    def light_at(self, steps: int) -> None:
        """Light the fuse: the step after the next `steps` ones raises Crash."""
        self._steps_left = steps

    def put_out(self) -> None:
        """Put out the fuse: no step raises Crash until it is lit again."""
        self._steps_left = None

    def pause(self) -> int | None:
        """Put out the fuse; return what go_on() needs."""
        steps, self._steps_left = self._steps_left, None
        return steps

    def go_on(self, steps: int | None) -> None:
        """Go on as if pause() had not been called."""
        self._steps_left = steps

    def step(self, *_: object) -> None:
        """Count one step of the role; raise Crash if it is the one drawn."""
        if self._steps_left is None:
            return
        self._steps_left -= 1
        if self._steps_left < 0:
            self._steps_left = None
            raise Crash
