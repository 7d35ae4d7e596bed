"""Which regions are hot, how long they must stay so, and which may leave to make room: decided here, done elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

FLUSHED_AHEAD: Final = 64
"""When a flush is needed to make room, it is made for as many regions at once, so that it isn't needed for each."""
WHOLE_VOLUME: Final = -1
"""Number of the region that is the whole volume."""


@dataclass(slots=True, eq=False)
class HotRegion:
    """One region of the activity log.

    in_flight: writes that have begun and not ended. unacknowledged: batches that hold a write of the region and aren't
    acknowledged. last_write: which of the volume's writes, counted as they end, was the last in it. used: the higher, the
    later a write began in it. counted: the last batch that counts as one of those unacknowledged.
    """

    volume: str
    number: int
    in_flight: int = 0
    unacknowledged: int = 0
    last_write: int = 0
    last_use: int = 0
    counted_by: object = None


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


def plan_room(
    oldest_first: Iterable[HotRegion], durable: Mapping[str, int], surplus: int
) -> RoomPlan:
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
        return FlushFirst(
            frozenset(region.volume for region in unflushed[: max(surplus, FLUSHED_AHEAD)])
        )
    return DrainFirst() if waiting else Leave(leaving)


@dataclass(slots=True, eq=False)
class VolumeRegions:
    """The hot regions of one volume, by number, and the one that is all of it, where there is one.

    finished: writes that have ended; durable: how many of them the last flush covered. is_stuck: its primary can't be flushed
    any more, or a command was refused. Its regions never leave, and take no room from others.
    """

    name: str
    hot: dict[int, HotRegion] = field(default_factory=dict)
    whole: HotRegion | None = None
    finished: int = 0
    durable: int = 0
    is_stuck: bool = False

    def fall_back_to_whole_volume(self, kept: dict[int, HotRegion]) -> HotRegion:
        """One region that is all of the volume takes the place of all others but these."""
        self.hot = kept
        self.whole = self.whole or HotRegion(self.name, WHOLE_VOLUME)
        self.whole.last_write = self.finished
        return self.whole


@dataclass(slots=True)
class HotRegions:
    """At most `limit` regions, and those that writes in flight need, and one that is the whole for each volume."""

    limit: int
    volumes: dict[str, VolumeRegions] = field(default_factory=dict)
    _used: int = 0

    def missing(self, volume: VolumeRegions, numbers: Iterable[int]) -> list[int]:
        """Those that aren't hot."""
        return [number for number in numbers if number not in volume.hot]

    def plan(
        self,
        volume: VolumeRegions,
        numbers: Collection[int],
        missing: int,
        busy: Mapping[str, Collection[int]],
    ) -> RoomPlan:
        """How to make room for `missing` more; the regions `numbers` of the volume stay, and the `busy` ones, by volume."""
        able = [each for each in self.volumes.values() if not each.is_stuck]
        surplus = sum(len(each.hot) for each in able) + missing - self.limit
        if surplus <= 0:
            return Leave(())
        others = [
            region
            for each in able
            for region in each.hot.values()
            if (each is not volume or region.number not in numbers)
            and region.number not in busy.get(each.name, ())
        ]
        others.sort(key=lambda region: region.last_use)
        return plan_room(others, {each.name: each.durable for each in able}, surplus)

    def begin(self, volume: VolumeRegions, numbers: Iterable[int]) -> list[HotRegion]:
        """A write begins in these regions: they are hot, and the last to leave."""
        begun = [volume.hot.get(number) or HotRegion(volume.name, number) for number in numbers]
        for region in begun:
            volume.hot[region.number] = region
            region.in_flight += 1
            region.last_use = self.next_use()
        return begun

    def next_use(self) -> int:
        """For HotRegion.used."""
        self._used += 1
        return self._used

    def leave(self, regions: Iterable[HotRegion]) -> None:
        """These leave."""
        for region in regions:
            volume = self.volumes[region.volume]
            if region.number == WHOLE_VOLUME:
                volume.whole = None
            else:
                del volume.hot[region.number]

    def put_back(self, regions: Iterable[HotRegion]) -> None:
        """They don't leave after all."""
        for region in regions:
            self.volumes[region.volume].hot[region.number] = region
