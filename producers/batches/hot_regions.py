"""Which regions are hot, how long they stay so, and which may leave to make room.

Everything here is decisions: writes/hot_region_admission.py carries them out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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

    @property
    def is_unused(self) -> bool:
        """Return whether it became hot ahead of a writer, and nobody has written to it."""
        return not (self.last_write or self.in_flight or self.unacknowledged)


def release(regions: Iterable[HotRegion]) -> None:
    """Count a batch that held writes of these regions as acknowledged."""
    for region in regions:
        region.unacknowledged -= 1


@dataclass(frozen=True, slots=True)
class Leave:
    """Let these regions leave; then there is room.

    flush_soon: volumes whose primaries are flushed in the background then. Otherwise a write would
    soon have to wait for it.
    """

    regions: Sequence[HotRegion]
    flush_soon: frozenset[str] = frozenset()


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
    flushed_ahead: int = FLUSHED_AHEAD,
) -> RoomPlan:
    """Return how `surplus` regions can leave, and up to `ahead` more; one at least in all.

    oldest_first: the candidates, the one used longest ago first. durable: by volume, how many of
    its writes the last flush covered. ahead: regions that leave only if they can leave at once.
    awaited: regions that can leave, but a writer is on its way to them: they leave only if others
    don't suffice. flushed_ahead: when so many regions wait only for a flush, and fewer could leave
    later without one, a flush is due soon.

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
    spare = len(leaving) - surplus - ahead
    del leaving[surplus + ahead :]
    leaving += awaited[: max(surplus - len(leaving), 0)]
    if len(leaving) >= surplus:
        is_due = len(unflushed) >= max(flushed_ahead, spare + 1)
        return Leave(leaving, frozenset(region.volume for region in unflushed if is_due))
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
    """

    limit: int
    volumes: dict[str, VolumeRegions] = field(default_factory=dict)
    _last_use: int = 0
    _room: int = 0

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
        others: list[HotRegion] = []
        awaited: list[HotRegion] = []  # became hot lately, fewer uses ago than `limit`
        lately = self._last_use - self.limit
        for regions in able:
            staying = {*kept.get(regions.name, ()), *busy.get(regions.name, ())}
            for number, region in regions.hot.items():
                # One with a write in flight stays in any case. It needn't be sorted.
                if not region.in_flight and number not in staying:
                    is_awaited = region.last_use > lately and region.is_unused
                    (awaited if is_awaited else others).append(region)
        for candidates in (others, awaited):
            candidates.sort(key=attrgetter("last_use"))
        durable = {regions.name: regions.durable for regions in able}
        surplus = missing - self._room
        ahead = max(self.limit // _LEFT_AHEAD, wanted) + min(surplus, 0)
        flushed_ahead = min(FLUSHED_AHEAD, self.limit // _LEFT_AHEAD + 1)
        return plan_room(others, durable, max(surplus, 0), ahead, awaited, flushed_ahead)

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
        for region in regions:
            self.volumes[region.volume].hot[region.number] = region
            self._room -= 1
