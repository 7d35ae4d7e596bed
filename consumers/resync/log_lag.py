"""Finds partitions whose log doesn't follow their commands, as without a node (pure).

Then nobody knows what a secondary lacks: commands that name writes wait for the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

STALE_S: Final = 60.0
"""If it isn't known for this long that the log holds all commands, nobody knows what a secondary
lacks. The answers to four questions are then missing."""
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
        self._asked: dict[int, int] = {}
        self._expected: dict[int, int] = {}

    def forget(self, partition: int) -> None:
        """Forget a partition whose log is read no more."""
        self._asked.pop(partition, None)
        self._expected.pop(partition, None)

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


class LogFreshness:
    """By partition, when the log was last known to hold every command.

    That was when the site asked where the commands end, if the log has got there since. While Kafka
    doesn't answer, or the site is busy with one volume, it stays in the past.
    """

    def __init__(self) -> None:
        self._asked: dict[int, tuple[int, int]] = {}
        self._complete_us: dict[int, int] = {}

    def note_ends(self, ends: Mapping[int, int], now_us: int) -> None:
        """Note where the commands end now, by partition. Leave out what isn't known."""
        for partition, end in ends.items():
            self._asked.setdefault(partition, (end, now_us))

    def forget(self, partition: int) -> None:
        """Forget a partition whose log is read no more."""
        self._asked.pop(partition, None)
        self._complete_us.pop(partition, None)

    def note_watermarks(self, watermarks: Mapping[int, int]) -> None:
        """Note through where the log is complete, by partition."""
        for partition, (end, at_us) in list(self._asked.items()):
            if watermarks.get(partition, -1) >= end - 1:
                self._complete_us[partition] = at_us
                del self._asked[partition]

    def complete_us(self, partition: int) -> int | None:
        """Return when the log held every command, in microseconds since 1970; None: not yet.

        Any thread may call it.
        """
        return self._complete_us.get(partition)
