"""Which regions are idle, and which of these may leave the activity log.

Everything here is decisions: writes/region_cooling.py carries them out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from mirrorlog.producers.batches.hot_regions import HotRegion, VolumeRegions

ROUNDS_PER_IDLE_TIME: Final = 5
"""How often within the idle time the host looks for idle regions."""


@dataclass(slots=True)
class RecentUses:
    """Tells which regions nobody has used for `idle_s` seconds, by the monotonic clock.

    Uses of regions are numbered (HotRegion.last_use). Each round marks how far the numbers had come
    at its time. So a write doesn't ask for the time.

    idle_s: 0 if no region ever counts as idle.
    idle_use: regions whose last use has this number, or a lower one, are idle.
    due_s: when the next round is due.
    """

    idle_s: float
    idle_use: int = -1
    due_s: float = float("-inf")
    _marks: deque[tuple[float, int]] = field(default_factory=deque)

    def is_due(self, now_s: float) -> bool:
        """Return whether the next round is due."""
        return self.idle_s > 0 and now_s >= self.due_s

    def mark(self, now_s: float, last_use: int) -> None:
        """Begin a round. last_use: the number of the last use that is known now."""
        self._marks.append((now_s, last_use))
        while self._marks and now_s - self._marks[0][0] >= self.idle_s:
            self.idle_use = self._marks.popleft()[1]
        self.due_s = now_s + self.idle_s / ROUNDS_PER_IDLE_TIME

    def is_idle(self, region: HotRegion) -> bool:
        """Return whether the region is idle."""
        return region.last_use <= self.idle_use


@dataclass(frozen=True, slots=True)
class CoolingPlan:
    """What a round does.

    leaving: the idle regions that may leave the activity log.
    unflushed: the names of the volumes with idle regions for which only a flush of the primary is
    missing.
    """

    leaving: Sequence[HotRegion]
    unflushed: Sequence[str]


def plan_cooling(volumes: Iterable[VolumeRegions], uses: RecentUses) -> CoolingPlan:
    """Return which idle regions of these volumes may leave, and which primaries to flush.

    The rule is that of plan_room(): all writes of a region are acknowledged **and** durable on the
    primary. A region that is the whole volume needs the flush, too; it leaves by another way
    (writes/whole_volume_fallback.py).

    A flush covers all writes that ended before it. So a region that needs the next one was written
    to since, and was idle since then: a primary is flushed at most once in the idle time.
    """
    leaving: list[HotRegion] = []
    unflushed: list[str] = []
    for volume in volumes:
        hot = [*volume.hot.values(), *([volume.whole] if volume.whole is not None else ())]
        idle = [
            region
            for region in hot
            if not region.in_flight and not region.unacknowledged and uses.is_idle(region)
        ]
        leaving += [
            region
            for region in idle
            if region.last_write <= volume.durable and region is not volume.whole
        ]
        if any(region.last_write > volume.durable for region in idle):
            unflushed.append(volume.name)
    return CoolingPlan(leaving, unflushed)
