"""Which regions are hot, how long they must stay so, and which may leave to make room: decided here, done elsewhere."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

RegionKey: TypeAlias = tuple[str, int]
FLUSHED_AHEAD: Final = 64
"""When a flush is needed to make room, it is made for as many regions at once, so that it isn't needed for each."""


@dataclass(slots=True, eq=False)
class HotRegion:
    """One region of the activity log.

    in_flight: writes that have begun and not ended. unacknowledged: batches that hold a write of the region and aren't
    acknowledged. last_write: which of the volume's writes, counted as they end, was the last in it.
    """

    volume: str
    number: int
    in_flight: int = 0
    unacknowledged: int = 0
    last_write: int = 0

    @property
    def key(self) -> RegionKey:
        """What it is found by."""
        return self.volume, self.number


def release(regions: Iterable[HotRegion]) -> None:
    """A batch that held writes of these regions is acknowledged."""
    for region in regions:
        region.unacknowledged -= 1


@dataclass(frozen=True, slots=True)
class Leave:
    """These regions leave; then there is room."""

    regions: Sequence[HotRegion]


@dataclass(frozen=True, slots=True)
class FlushFirst:
    """Flush the primaries of these volumes, then plan again."""

    volumes: frozenset[str]


@dataclass(frozen=True, slots=True)
class DrainFirst:
    """Publish the open batches and wait until they are acknowledged, then plan again."""


RoomPlan: TypeAlias = Leave | FlushFirst | DrainFirst


def plan_room(oldest_first: Iterable[HotRegion], durable: Mapping[str, int], surplus: int) -> RoomPlan:
    """How `surplus` (1 or more) regions can leave, those that were used longest ago first.

    A region may leave once all its writes are acknowledged **and** durable on the primary: a power cut that takes back a
    write that a site has copied already is a change that nothing else would name. Where writes in flight are all that
    keeps regions here, the set grows by those.

    durable: by volume, how many of its writes the last flush covered.
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
            if len(leaving) == surplus:
                return Leave(leaving)
    if unflushed:
        return FlushFirst(frozenset(region.volume for region in unflushed[: max(surplus, FLUSHED_AHEAD)]))
    return DrainFirst() if waiting else Leave(leaving)


@dataclass(slots=True)
class HotRegions:
    """At most `limit` regions, and those that writes in flight need; the one used longest ago is the first to leave.

    stuck: volumes whose primary can't be flushed any more. Their regions never leave, and take no room from the others.
    """

    limit: int
    stuck: set[str] = field(default_factory=set)
    finished: dict[str, int] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    _regions: OrderedDict[RegionKey, HotRegion] = field(default_factory=OrderedDict)

    def missing(self, volume: str, numbers: Iterable[int]) -> list[int]:
        """Those that aren't hot."""
        return [number for number in numbers if (volume, number) not in self._regions]

    def plan(self, volume: str, numbers: Sequence[int], missing: int) -> RoomPlan:
        """How to make room for `missing` more; the regions `numbers` of the volume stay."""
        stuck = sum(region.volume in self.stuck for region in self._regions.values()) if self.stuck else 0
        surplus = len(self._regions) - stuck + missing - self.limit
        if surplus <= 0:
            return Leave(())
        wanted = {(volume, number) for number in numbers}
        others = (r for key, r in self._regions.items() if key not in wanted and r.volume not in self.stuck)
        return plan_room(others, self.durable, surplus)

    def begin(self, volume: str, numbers: Iterable[int]) -> list[HotRegion]:
        """A write begins in these regions: they are hot, and the last to leave."""
        begun = []
        for number in numbers:
            key = (volume, number)
            region = self._regions.get(key)
            if region is None:
                region = self._regions[key] = HotRegion(volume, number)
            else:
                self._regions.move_to_end(key)
            region.in_flight += 1
            begun.append(region)
        return begun

    def end(self, volume: str, regions: Iterable[HotRegion]) -> None:
        """That write has ended, well or not."""
        self.finished[volume] += 1
        for region in regions:
            region.in_flight -= 1
            region.last_write = self.finished[volume]

    def leave(self, regions: Iterable[HotRegion]) -> None:
        """These leave."""
        for region in regions:
            del self._regions[region.key]

    def admit_volume(self, volume: str) -> None:
        """A volume without hot regions."""
        self.finished[volume] = self.durable[volume] = 0

    def drop_volumes(self, volumes: Collection[str]) -> None:
        """The volumes are settled: none of their regions is hot any more."""
        self.leave([region for region in self._regions.values() if region.volume in volumes])
        self.stuck.difference_update(volumes)

    def __len__(self) -> int:
        return len(self._regions)
