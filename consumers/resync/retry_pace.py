"""RetryPace: when to ask again for what failed."""

from __future__ import annotations

from typing import Final


class RetryPace:
    """Waits after a failure: shortly after the first one, and twice as long after each further one.

    So something that fails once is asked for again soon, and something that goes on failing holds
    up others less and less.

    first_s, most_s: the shortest and the longest wait. Times are of one monotonic clock.
    """

    def __init__(self, *, first_s: float, most_s: float) -> None:
        self._first_s: Final = first_s
        self._most_s: Final = most_s
        self._wait_s = self._until_s = 0.0

    def is_over(self, now_s: float) -> bool:
        """Return whether the wait is over, if there is one."""
        return now_s >= self._until_s

    def note_failed(self, now_s: float, *, is_lasting: bool = False) -> None:
        """Begin to wait after a failure. is_lasting: it won't be over soon, so wait the longest."""
        least_s = self._most_s if is_lasting else self._first_s
        self._wait_s = min(max(least_s, 2 * self._wait_s), self._most_s)
        self._until_s = now_s + self._wait_s

    def note_done(self) -> None:
        """Note that it didn't fail: nothing waits, and the next failure counts as the first."""
        self._wait_s = self._until_s = 0.0
