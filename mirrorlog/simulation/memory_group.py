"""The notes of a site's workers in memory. A crash of one worker takes none of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mirrorlog.consumers.name_fence import TakenName


class MemoryGroup:
    """GroupNotes in memory."""

    def __init__(self) -> None:
        self._name: TakenName | None = None
        self._times: Final[dict[int, tuple[str, dict[int, float]]]] = {}

    def load_name(self) -> TakenName | None:
        """Return the name that was taken last."""
        return self._name

    def save_name(self, name: TakenName) -> None:
        """Save the name that was taken."""
        self._name = name

    def save_times(self, slot: int, run: str, times: Mapping[int, float]) -> None:
        """Save the times of a worker."""
        self._times[slot] = run, dict(times)

    def load_times(self, run: str) -> dict[int, float]:
        """Return by partition the newest time that any worker of the group has saved."""
        newest: dict[int, float] = {}
        for known, times in self._times.values():
            if known == run:
                for partition, at_s in times.items():
                    newest[partition] = max(at_s, newest.get(partition, at_s))
        return newest
