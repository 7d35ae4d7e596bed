"""Results that are kept for their next page. To find a result again for each page would cost the
square of the number of pages."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeAlias

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.points import AtPosition, AtTime, Point
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import Clock

_KEEP_S: Final = 60.0
_Key: TypeAlias = tuple[str, str, int, Point, Point]


class PageCache:
    """The last `capacity` results, each for a minute after its last page.

    A result can't be out of date: what the log says between two positions never changes. Between
    two own times it may change, when a recording is imported. So such a result is kept for later
    pages only.
    """

    def __init__(self, capacity: int, clock: Clock) -> None:
        self._capacity, self._clock = capacity, clock
        self._results: OrderedDict[_Key, tuple[float, ChangedBlocks]] = OrderedDict()

    def get(
        self, volume: Volume, since: Point, until: Point, *, is_later_page: bool
    ) -> ChangedBlocks | None:
        """Return the result between two points for the volume as it is described now.

        Return None if it isn't kept, or if `since` or `until` is not a position. Times count as
        positions do for a page that isn't the first.
        """
        now_s = self._clock.monotonic_s()
        for key in [key for key, (until_s, _) in self._results.items() if until_s < now_s]:
            del self._results[key]
        kinds = (AtPosition, AtTime) if is_later_page else (AtPosition,)
        if not (isinstance(since, kinds) and isinstance(until, kinds)):
            return None
        entry = self._results.get(_key(volume, since=since, until=until))
        return None if entry is None else entry[1]

    def put(self, blocks: ChangedBlocks) -> None:
        """Keep the result for its next page."""
        since, until = blocks.points
        key = _key(blocks.volume, since=since, until=until)
        self._results[key] = (self._clock.monotonic_s() + _KEEP_S, blocks)
        self._results.move_to_end(key)
        while len(self._results) > self._capacity:
            self._results.popitem(last=False)


def _key(volume: Volume, *, since: Point, until: Point) -> _Key:
    return volume.volume, volume.generation, volume.size_bytes, since, until
