"""Which regions writers will need next: those behind a run of regions that they went through.

Everything here is decisions: writes/hot_region_admission.py carries them out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

MOST_AHEAD: Final = 128
"""At most so many regions become hot ahead of a run: 512 MiB, if regions have 4 MiB."""
_GAP: Final = 16
"""A region continues a run if at most so many others lie between, and not more than the run is
long. Of writers that go through a volume together, a later one may come first; then the regions in
between become hot with its own."""
_RUNS: Final = 8
"""The number of runs that are remembered, so that several writers can go through a volume."""


WINDOW_S: Final = 1.0
"""A writer that takes longer than this for the regions that became hot ahead of it gets fewer the
next time: those that nobody writes to would be idle before it comes to them."""


@dataclass(frozen=True, slots=True)
class _Run:
    """A run of `length` regions. The last `ahead` of them became hot ahead at the time `at_s`."""

    length: int = 0
    ahead: int = 0
    at_s: float = 0.0

    def window(self, now_s: float) -> int:
        """Return how many regions should become hot ahead now."""
        if self.ahead and now_s - self.at_s > WINDOW_S:
            return max(self.ahead // 2, 1)
        return min(self.length, 2 * self.ahead + 1 if self.ahead else MOST_AHEAD, MOST_AHEAD)

    def extended(self, ahead: int, now_s: float) -> _Run:
        """Return the run with so many more regions that become hot ahead now."""
        return _Run(self.length + ahead, ahead, now_s)


@dataclass(slots=True)
class RegionLookAhead:
    """The runs of neighbouring regions of one volume that became hot one after the other.

    With the next region of a run, as many regions ahead of it become hot as the run has had before,
    MOST_AHEAD at most. So one wait for the disk serves many regions of a writer that goes through
    the volume in order. After a crash that marks at most as many regions more as dirty as writers
    have gone through, and next to none if they jump. A slow writer gets as many as it goes through
    in about WINDOW_S.

    _runs: each run, by the number of the region behind its end. The one that grew last is the last.
    """

    _runs: dict[int, _Run] = field(default_factory=dict)

    def extend(self, numbers: Iterable[int], *, most: int, now_s: float) -> list[int]:
        """Take note that these regions become hot. Return those that should become hot with them.

        numbers: in ascending order, one at least. most: how many may be returned. now_s: by the
        monotonic clock.
        """
        between: list[int] = []
        for number in numbers:
            end, run = self._continued(number)
            for replaced in (end, number + 1):
                self._runs.pop(replaced, None)
            between += range(end, number)
            self._runs[number + 1] = replace(run, length=run.length + number - end + 1)
        end, run = self._runs.popitem()  # the last one
        between = between[:most]
        count = min(run.window(now_s), most - len(between)) if run.length > 1 else 0
        self._runs.pop(end + count, None)
        self._runs[end + count] = run.extended(count, now_s)
        while len(self._runs) > _RUNS:
            del self._runs[next(iter(self._runs))]
        return [*between, *range(end, end + count)]

    def copy(self) -> RegionLookAhead:
        """Return an equal object, to ask it what extend() would return."""
        return RegionLookAhead(self._runs.copy())

    def _continued(self, number: int) -> tuple[int, _Run]:
        """Return (end, run) of the run that the region continues; a new one is of length 0."""
        for end, run in self._runs.items():
            if 0 <= number - end <= min(run.length, _GAP):
                return end, run
        return number, _Run()
