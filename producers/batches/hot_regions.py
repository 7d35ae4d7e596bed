"""Which regions are hot, how long they stay so, and which may leave to make room.

Everything here is decisions: writes/hot_region_admission.py carries them out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final, TypeAlias

FLUSHED_AHEAD: Final = 64
"""A flush that makes room is made for up to this many regions: then not each needs its own."""
_LEFT_AHEAD: Final = 16
"""Of this many hot regions, one more leaves where one must: then not each write looks for room."""
WHOLE_VOLUME: Final = -1
"""Number of the region that is the whole volume."""


@dataclass(slots=True, eq=False)
class HotRegion:
    """One region of the activity log.

    in_flight: the number of writes in it that have begun and not ended; lock-free writes aren't
    counted. unacknowledged: the number of batches that hold a write of the region and aren't
    acknowledged. last_write: the number of the last write in it; a volume's writes are numbered as
    they end. last_use: a higher value means a later use. counted_by: the last batch that is counted
    in `unacknowledged`.
    """

    volume: str
    number: int
    in_flight: int = 0
    unacknowledged: int = 0
    last_write: int = 0
    last_use: int = 0
    counted_by: object = None


def release(regions: Iterable[HotRegion]) -> None:
    """Count a batch that held writes of these regions as acknowledged."""
    for region in regions:
        region.unacknowledged -= 1


@dataclass(frozen=True, slots=True)
class Leave:
    """Let these regions leave; then there is room."""

    regions: Sequence[HotRegion]


@dataclass(frozen=True, slots=True)
class FlushFirst:
    """Flush the primaries of these volumes, then plan again."""

    volumes: frozenset[str]


@dataclass(frozen=True, slots=True)
class DrainFirst:
    """Publish the open batches and wait until they are acknowledged, then plan again."""


RoomPlan: TypeAlias = Leave | FlushFirst | DrainFirst


def plan_room(
    oldest_first: Iterable[HotRegion],
    durable: Mapping[str, int],
    surplus: int,
    ahead: int = 0,
    awaited: Sequence[HotRegion] = (),
) -> RoomPlan:
    """Return how `surplus` regions can leave, and up to `ahead` more; one at least in all.

    oldest_first: the candidates, the one used longest ago first. durable: by volume, how many of
    its writes the last flush covered. ahead: regions that leave only if they can leave at once.
    awaited: regions that can leave, but a writer is on its way to them: they leave only if others
    don't suffice. They are looked at when the others are exhausted.

    A region may leave once all its writes are acknowledged **and** durable on the primary. If a
    power cut took back a write that a site has copied already, nothing else would name that change.
    If only writes in flight keep regions here, no room can be made: then fewer regions leave, and
    the set grows by the rest.
    """
    leaving: list[HotRegion] = []
    unflushed: list[HotRegion] = []
    waiting = 0
    for region in oldest_first:
        if region.in_flight:
            continue
        if region.unacknowledged:
            waiting += 1
        elif region.last_write > durable[region.volume]:
            unflushed.append(region)
        else:
            leaving.append(region)
            if len(leaving) == surplus + ahead:
                break
    leaving += awaited[: max(surplus - len(leaving), 0)]
    if len(leaving) >= surplus:
        return Leave(leaving)
    if unflushed:
        return FlushFirst(
            frozenset(region.volume for region in unflushed[: max(surplus, FLUSHED_AHEAD)])
        )
    return DrainFirst() if waiting else Leave(leaving)


@dataclass(slots=True, eq=False)
class VolumeRegions:
    """The hot regions of one volume.

    hot: by number. whole: the region that is the whole volume, while there is one.
    finished: the number of writes that have ended. durable: how many of them the last flush
    covered.
    is_stuck: the primary can't be flushed any more, or the node refused a command. The regions
    never leave then, and don't count for the limit of HotRegions.
    """

    name: str
    hot: dict[int, HotRegion] = field(default_factory=dict)
    whole: HotRegion | None = None
    finished: int = 0
    durable: int = 0
    is_stuck: bool = False

    def fall_back_to_whole_volume(self, kept: dict[int, HotRegion]) -> HotRegion:
        """Replace all hot regions but `kept` by one that is the whole volume, and return it.

        The caller has written that durably.
        """
        self.hot = kept
        self.whole = self.whole or HotRegion(self.name, WHOLE_VOLUME)
        self.whole.last_write = self.finished
        return self.whole


@dataclass(slots=True)
class HotRegions:
    """The hot regions of all open volumes.

    There are at most `limit`. Not counted are those that writes in flight need, and the one of each
    volume that is the whole volume.

    _room: at least so many more regions have room. It is never too high, so that plan() counts the
    regions of all volumes only when it is used up.
    _oldest: the regions whose last use had a number up to `_oldest_through` when they were sorted
    by it, each with that number. Those used since then, or gone, are passed over; so regions are
    sorted only once for many that leave.
    """

    limit: int
    volumes: dict[str, VolumeRegions] = field(default_factory=dict)
    _last_use: int = 0
    _room: int = 0
    _oldest: list[tuple[int, HotRegion]] = field(default_factory=list)
    _oldest_through: int = -1

    def missing(self, volume: VolumeRegions, numbers: Iterable[int]) -> list[int]:
        """Return those of `numbers` that aren't hot."""
        return [number for number in numbers if number not in volume.hot]

    @property
    def room(self) -> int:
        """How many more regions are known to have room; below 0 if there are too many."""
        return self._room

    def has_room(self, missing: int) -> bool:
        """Return whether `missing` more regions are known to have room."""
        return missing <= self._room

    def plan(
        self,
        kept: Mapping[str, Collection[int]],
        missing: int,
        busy: Mapping[str, Collection[int]],
        *,
        wanted: int = 0,
    ) -> RoomPlan:
        """Return how to make room for `missing` more regions.

        These stay, by volume: the regions `kept`, and the `busy` ones, with lock-free writes in
        flight. wanted: for so many more, room is made only if it can be made at once.
        """
        able = [regions for regions in self.volumes.values() if not regions.is_stuck]
        self._room = self.limit - sum(len(regions.hot) for regions in able)
        if self.has_room(missing + wanted):
            return Leave(())
        awaited: list[HotRegion] = []
        others = (
            region
            for region in self._oldest_first()
            if region.number not in kept.get(region.volume, ())
            and region.number not in busy.get(region.volume, ())
            and not self._note_awaited(region, awaited)
        )
        durable = {regions.name: regions.durable for regions in able}
        surplus = missing - self._room
        ahead = max(self.limit // _LEFT_AHEAD, wanted) + min(surplus, 0)
        return plan_room(others, durable, max(surplus, 0), ahead, awaited)

    def _note_awaited(self, region: HotRegion, awaited: list[HotRegion]) -> bool:
        """Add the region to `awaited`, and return True, if it became hot ahead of a writer lately.

        Nobody has written to it, and there were fewer uses of regions since then than `limit`.
        """
        is_unused = not (region.last_write or region.in_flight or region.unacknowledged)
        if not is_unused or self._last_use - region.last_use >= self.limit:
            return False
        awaited.append(region)
        return True

    def _oldest_first(self) -> Iterator[HotRegion]:
        """Yield the regions that may leave, the one used longest ago first."""
        gone = 0
        while gone < len(self._oldest) and not self._is_as_old(*self._oldest[gone]):
            gone += 1
        del self._oldest[:gone]
        for last_use, region in self._oldest:
            if self._is_as_old(last_use, region) and not self.volumes[region.volume].is_stuck:
                yield region
        newer = [
            region
            for regions in self.volumes.values()
            for region in regions.hot.values()
            if region.last_use > self._oldest_through
        ]
        newer.sort(key=attrgetter("last_use"))
        self._oldest = [entry for entry in self._oldest if self._is_as_old(*entry)]
        self._oldest += [(region.last_use, region) for region in newer]
        self._oldest_through = self._last_use
        yield from (region for region in newer if not self.volumes[region.volume].is_stuck)

    def _is_as_old(self, last_use: int, region: HotRegion) -> bool:
        """Return whether the region is hot, and hasn't been used since that number."""
        volume = self.volumes.get(region.volume)
        return (
            region.last_use == last_use
            and volume is not None
            and volume.hot.get(region.number) is region
        )

    def begin(self, volume: VolumeRegions, numbers: Collection[int]) -> list[HotRegion]:
        """Make these regions hot and the last to leave, each with one more write in flight."""
        begun = self.add(volume, numbers)
        for region in begun:
            region.in_flight += 1
        return begun

    def add(self, volume: VolumeRegions, numbers: Collection[int]) -> list[HotRegion]:
        """Make these regions hot and the last to leave."""
        added = []
        hot, name = volume.hot, volume.name
        for use, number in enumerate(numbers, self.next_uses(len(numbers))):
            region = hot.get(number)
            if region is None:
                region = hot[number] = HotRegion(name, number, last_use=use)
                self._room -= 1
            else:
                region.last_use = use
            added.append(region)
        return added

    @property
    def last_use(self) -> int:
        """The highest value of HotRegion.last_use."""
        return self._last_use

    def next_use(self) -> int:
        """Return the next value of HotRegion.last_use."""
        return self.next_uses(1)

    def next_uses(self, count: int) -> int:
        """Return the first of the next `count` values of HotRegion.last_use."""
        self._last_use += count
        return self._last_use - count + 1

    def leave(self, regions: Iterable[HotRegion]) -> None:
        """Remove `regions` from the hot set.

        Pass only regions that plan_room or plan_cooling returned, or whole-volume regions. The
        caller then writes COOL (or REGIONS) durably.
        """
        for region in regions:
            volume = self.volumes[region.volume]
            if region.number == WHOLE_VOLUME:
                volume.whole = None
            else:
                del volume.hot[region.number]
                self._room += not volume.is_stuck

    def put_back(self, regions: Iterable[HotRegion]) -> None:
        """Undo leave() for these regions."""
        self._oldest, self._oldest_through = [], -1
        for region in regions:
            self.volumes[region.volume].hot[region.number] = region
            self._room -= 1
