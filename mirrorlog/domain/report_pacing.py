"""When a report is worth a message: if it says something new, and now and then if it doesn't."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

_REPORTS_PER_S: Final = 100
"""With more keys than this many a second, the intervals grow: 10,000 volumes of one host are
reported in 100 seconds."""


@dataclass(frozen=True, slots=True)
class _Published:
    content: Hashable
    at_s: float


class ReportPacing:
    """Decides which reports to publish. One thread calls it.

    interval_s: the shortest time between two reports of a key.
    idle_s: the longest time, also if nothing has changed: a reader sees that the sender lives.
    """

    def __init__(self, *, interval_s: float, idle_s: float) -> None:
        self._interval_s, self._idle_s = interval_s, idle_s
        self._published: dict[bytes, _Published] = {}

    def is_due(self, key: bytes, content: Hashable, *, now_s: float) -> bool:
        """Return whether to publish a report, and count it as published then.

        content: what the report says, without its time. now_s: by the monotonic clock.
        """
        known = self._published.get(key)
        if known is not None:
            longest_s = len(self._published) / _REPORTS_PER_S
            age_s, has_changed = now_s - known.at_s, content != known.content
            if age_s < max(self._interval_s if has_changed else self._idle_s, longest_s):
                return False
        self._published[key] = _Published(content, now_s)
        return True

    def forget(self, key: bytes) -> None:
        """Forget a key: its next report is due at once."""
        self._published.pop(key, None)
