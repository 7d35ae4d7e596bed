"""Results that are kept for their next page. To find a result again for each page would cost the
square of the number of pages."""

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
    """The last `capacity` results, each for a minute after its last page.

    A result can't be out of date: what the log says between two positions never changes.
    """

    def __init__(self, capacity: int, clock: Clock) -> None:
        self._capacity, self._clock = capacity, clock
        self._results: OrderedDict[_Key, tuple[float, ChangedBlocks]] = OrderedDict()

    def get(self, volume: Volume, since: Point, until: Point) -> ChangedBlocks | None:
        """Return the result between two positions for the volume as it is described now.

        Return None if it isn't kept, or if `since` or `until` is not a position.
        """
        now_s = self._clock.monotonic_s()
        for key in [key for key, (until_s, _) in self._results.items() if until_s < now_s]:
            del self._results[key]
        if not (isinstance(since, AtPosition) and isinstance(until, AtPosition)):
            return None
        entry = self._results.get(_key(volume, since=since.position, until=until.position))
        return None if entry is None else entry[1]

    def put(self, blocks: ChangedBlocks) -> None:
        """Keep the result for its next page."""
        key = _key(blocks.volume, since=blocks.since, until=blocks.until)
        self._results[key] = (self._clock.monotonic_s() + _KEEP_S, blocks)
        self._results.move_to_end(key)
        while len(self._results) > self._capacity:
            self._results.popitem(last=False)


def _key(volume: Volume, *, since: int, until: int) -> _Key:
    return volume.volume, volume.generation, volume.size_bytes, since, until
