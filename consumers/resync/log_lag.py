"""Finds partitions whose log doesn't follow their commands, as without a node (pure).

Then nobody knows what a secondary lacks: commands that name writes wait for the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ASK_S: Final = 15.0
"""How often to ask where the commands end. The log has until the next time to get there, which is
longer than another worker takes to take over."""


class LogLag:
    """By partition, where the commands ended some time ago: the log should be complete there now.

    Gaps in the positions are no commands. A commands topic that ends with a transaction's marker
    counts as lagging until the next command, because nobody can tell the two apart.
    """

    def __init__(self) -> None:
        self._asked_at_s = float("-inf")
        self._asked: Mapping[int, int] = {}
        self._expected: Mapping[int, int] = {}

    def is_due(self, now_s: float) -> bool:
        """Return whether to ask where the commands end."""
        return now_s - self._asked_at_s >= ASK_S

    def note_ends(self, ends: Mapping[int, int], now_s: float) -> None:
        """Note where the commands end now, by partition. Leave out what isn't known."""
        self._asked_at_s = now_s
        self._expected, self._asked = self._asked, dict(ends)

    def lagging(self, watermarks: Mapping[int, int]) -> dict[int, int]:
        """Return, by partition that lags, the last position that the log should hold by now.

        watermarks: by partition, the position through which the log is complete.
        """
        return {
            partition: end - 1
            for partition, end in self._expected.items()
            if end > 0 and watermarks.get(partition, -1) < end - 1
        }
