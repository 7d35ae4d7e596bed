"""PageCache that are kept for their next page: to fold anew for each page would cost the square of their number."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeAlias

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.points import AtPosition, Point
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import Clock

_KEEP_S: Final = 60.0
_Key: TypeAlias = tuple[str, str, int, int, int]


class PageCache:
    """The last few, for a minute. What a log says between two positions never changes: they can't be out of date."""

    def __init__(self, most: int, clock: Clock) -> None:
        self._most, self._clock = most, clock
        self._kept: OrderedDict[_Key, tuple[float, ChangedBlocks]] = OrderedDict()

    def find(self, volume: Volume, since: Point, until: Point) -> ChangedBlocks | None:
        """The answer between two positions, for the volume as it is described now."""
        now_s = self._clock.monotonic_s()
        for key in [key for key, (until_s, _) in self._kept.items() if until_s < now_s]:
            del self._kept[key]
        if not (isinstance(since, AtPosition) and isinstance(until, AtPosition)):
            return None
        found = self._kept.get(_key(volume, since.position, until.position))
        return None if found is None else found[1]

    def keep(self, answer: ChangedBlocks) -> None:
        """For the next page."""
        key = _key(answer.volume, answer.since, answer.until)
        self._kept[key] = (self._clock.monotonic_s() + _KEEP_S, answer)
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)


def _key(volume: Volume, since: int, until: int) -> _Key:
    return volume.volume, volume.generation, volume.size_bytes, since, until
