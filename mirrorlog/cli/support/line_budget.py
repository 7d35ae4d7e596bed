"""How many lines a process prints about many things that change at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

LINES: Final = 20
WINDOW_S: Final = 10.0
"""At most LINES lines in WINDOW_S seconds; what is beyond that is counted and told at the end."""


@dataclass(slots=True)
class LineBudget:
    """Decides which changes get a line of their own; counts the others by kind.

    Times are seconds of a monotonic clock, which the caller passes.
    """

    _began_s: float = float("-inf")
    _printed: int = 0
    _left_out: Counter[str] = field(default_factory=Counter)

    def allows(self, kind: str, now_s: float) -> bool:
        """Return whether a change of this kind gets a line now. If not, it is counted."""
        if now_s - self._began_s >= WINDOW_S and not self._left_out:
            self._began_s, self._printed = now_s, 0
        if self._printed < LINES and not self._left_out:
            self._printed += 1
            return True
        self._left_out[kind] += 1
        return False

    def due(self, now_s: float, *, ends: bool = False) -> dict[str, int]:
        """Return the changes that were left out, by kind, once their window is over.

        ends: the process ends, so nothing may be kept back.
        """
        if not self._left_out or (now_s - self._began_s < WINDOW_S and not ends):
            return {}
        left_out = dict(self._left_out)
        self._left_out.clear()
        self._began_s, self._printed = now_s, 0
        return left_out
