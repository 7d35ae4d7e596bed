"""Which regions writers will need next: those behind a run of regions that they went through.

Everything here is decisions: writes/hot_region_admission.py carries them out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

MOST_AHEAD: Final = 32
"""At most so many regions become hot ahead of a run: 128 MiB, if regions have 4 MiB."""
_GAP: Final = 16
"""A region continues a run if at most so many others lie between, and not more than the run is
long. Of writers that go through a volume together, a later one may come first; then the regions in
between become hot with its own."""
_RUNS: Final = 8
"""The number of runs that are remembered, so that several writers can go through a volume."""


@dataclass(slots=True)
class RegionLookAhead:
    """The runs of neighbouring regions of one volume that became hot one after the other.

    With the next region of a run, as many regions ahead of it become hot as the run has had before,
    MOST_AHEAD at most. So one wait for the disk serves many regions of a writer that goes through
    the volume in order. After a crash that marks at most as many regions more as dirty as writers
    have gone through, and next to none if they jump.

    _runs: the length of each run, by the number of the region behind its end. The one that grew
    last is the last one.
    """

    _runs: dict[int, int] = field(default_factory=dict)

    def extend(self, numbers: Iterable[int], *, most: int) -> list[int]:
        """Take note that these regions become hot. Return those that should become hot with them.

        numbers: in ascending order, one at least. most: how many may be returned.
        """
        between: list[int] = []
        for number in numbers:
            end, length = self._continued(number)
            for replaced in (end, number + 1):
                self._runs.pop(replaced, None)
            between += range(end, number)
            self._runs[number + 1] = length + number - end + 1
        end, length = self._runs.popitem()  # the last one
        between = between[:most]
        count = min(length, MOST_AHEAD, most - len(between)) if length > 1 else 0
        self._runs.pop(end + count, None)
        self._runs[end + count] = length + count
        while len(self._runs) > _RUNS:
            del self._runs[next(iter(self._runs))]
        return [*between, *range(end, end + count)]

    def _continued(self, number: int) -> tuple[int, int]:
        """Return (end, length) of the run that the region continues; a new one is of length 0."""
        for end, length in self._runs.items():
            if 0 <= number - end <= min(length, _GAP):
                return end, length
        return number, 0
