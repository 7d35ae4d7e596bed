"""When a command that works for long says how far it is, and when it will end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_LINE_S: Final = 10.0
_MESSAGE_S: Final = 1.0


class ProgressPace:
    """Lets something be said each second as JSON, and each 10 s as text, from restart() on."""

    def __init__(self, monotonic_s: Callable[[], float], *, as_json: bool) -> None:
        self._now_s, self._every_s = monotonic_s, _MESSAGE_S if as_json else _LINE_S
        self.restart()

    def restart(self) -> None:
        """Begin now."""
        self._began_s = self._told_at_s = self._now_s()

    def due_after_s(self) -> float | None:
        """Return how long it works, if something is to be said now; None if it isn't time yet."""
        now_s = self._now_s()
        if now_s - self._told_at_s < self._every_s:
            return None
        self._told_at_s = now_s
        return now_s - self._began_s


def eta_s(took_s: float, done: int, total: int) -> float | None:
    """Return how long the rest takes at the same pace; None if nothing is done yet."""
    return took_s * (total - done) / done if done else None
