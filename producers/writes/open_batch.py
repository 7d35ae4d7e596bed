"""The open batch of a volume: how writes join it, and how it starts again.

Every function needs the tracker's lock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import repeat
from typing import Final

from mirrorlog.producers.batches.batch import Batch, InFlightTuple, InFlightWrite, Outcomes
from mirrorlog.producers.batches.hot_regions import HotRegion
from mirrorlog.producers.forks.forked_volume import ForkedVolume
from mirrorlog.producers.forks.forked_write import ForkedWrites
from mirrorlog.producers.writes.tracker_state import OpenVolume, TrackerState

_KEPT_PART: Final = 4
"""A batch keeps this part of the hot regions at most, before it leaves."""
_FEWEST_KEPT: Final = 16
"""No batch leaves because of fewer regions than these."""


def collect_ended(state: TrackerState, opened: OpenVolume) -> None:
    """Add the lock-free writes that have ended to the open batch, or hand them to the secondaries.

    Those of a forked volume join the batch when their outcomes are known.
    """
    state.with_ended.pop(opened.name, None)
    if opened.forks is not None:
        _collect_to_fork(state, opened, opened.forks)
        return
    since_s = opened.lock_free.ended_since_s
    ended = opened.lock_free.take_ended()
    if ended:
        add_ended(state, opened, ended, _hot_regions_of(state, opened, ended), since_s=since_s)


def _collect_to_fork(state: TrackerState, opened: OpenVolume, forks: ForkedVolume) -> None:
    """Hand lock-free writes that have ended to the secondaries. They stay in flight."""
    writes, contents = opened.lock_free.take_to_fork()
    fates: list[tuple[list[InFlightTuple], list[bytes | None] | None]] = []
    if None in contents:  # the primary failed: all secondaries miss that write
        for write, data in zip(writes, contents, strict=True):
            fates.append(([write], None if data is None else [data]))
    elif writes:
        fates.append((writes, contents))
    for together, data_of_each in fates:
        regions = _hot_regions_of(state, opened, together)
        for region in regions:
            region.in_flight += 1
        opened.in_flight.update((id(write), write) for write in together)
        forks.writes_ended(together, regions, data_of_each)


def _hot_regions_of(
    state: TrackerState, opened: OpenVolume, writes: Collection[InFlightTuple]
) -> list[HotRegion]:
    """Return the regions of lock-free writes, each once."""
    hot, size = opened.regions.hot, state.settings.region_bytes
    return [hot[number] for number in {write[1] // size for write in writes}]


def is_full(state: TrackerState, opened: OpenVolume) -> bool:
    """Return whether the open batch leaves now: it has many extents, or keeps many regions hot.

    Kafka then has acknowledged a part of the hot regions before others need their room.
    """
    batch, settings = opened.batch, state.settings
    most_extents = opened.attached_batch_extents or settings.host_batch_extents
    most_regions = max(state.hot.limit // _KEPT_PART, _FEWEST_KEPT)
    return len(batch.writes) >= most_extents or len(batch.regions) >= most_regions


def collect_all_ended(state: TrackerState) -> None:
    """Call collect_ended() for each volume that needs it."""
    for opened in list(state.with_ended.values()):
        collect_ended(state, opened)


def add_ended(
    state: TrackerState,
    opened: OpenVolume,
    ended: Sequence[InFlightTuple],
    regions: Collection[HotRegion],
    *,
    since_s: float | None = None,
    outcomes: Iterable[Outcomes] = (),
) -> None:
    """Add writes that have ended to the open batch. They aren't in `in_flight`.

    regions: those that the writes lie in. since_s: when the first of them ended; None for now.
    outcomes: one for each write, if the volume is forked.
    """
    start_s = state.clock.monotonic_s() if since_s is None else since_s
    state.timers.batch_since_s.setdefault(opened.name, start_s)
    opened.regions.finished += len(ended)
    batch, finished = opened.batch, opened.regions.finished
    batch.writes.extend(ended)
    batch.outcomes.extend(outcomes)
    for use, region in enumerate(regions, state.hot.next_uses(len(regions))):
        region.last_write, region.last_use = finished, use
        batch.keep_hot(region)


def end_write(state: TrackerState, opened: OpenVolume, write: InFlightWrite) -> None:
    """Move a write from `in_flight` to the open batch."""
    regions = opened.regions
    finished = regions.finished = regions.finished + 1
    for region in write.regions:
        region.in_flight -= 1
        region.last_write = finished
    state.timers.batch_since_s.setdefault(opened.name, state.clock.monotonic_s())
    opened.batch.add(write)
    del opened.in_flight[id(write)]
    if opened.closing:
        state.write_ended.notify_all()


def end_forked_writes(
    state: TrackerState, opened: OpenVolume, forked: ForkedWrites, outcomes: Outcomes
) -> None:
    """Move forked writes, whose outcomes are known, from `in_flight` to the open batch."""
    for region in forked.regions:
        region.in_flight -= 1
    for write in forked.writes:
        del opened.in_flight[id(write)]
    add_ended(
        state, opened, forked.writes, forked.regions, outcomes=repeat(outcomes, len(forked.writes))
    )
    if opened.closing:
        state.write_ended.notify_all()


def start_batch(state: TrackerState, opened: OpenVolume) -> None:
    """Start an empty batch. What the old one named is published or kept elsewhere."""
    opened.batch = Batch()
    state.timers.batch_since_s.pop(opened.name, None)


def keep_only_regions(state: TrackerState, opened: OpenVolume, *more: HotRegion) -> None:
    """Forget the writes of the open batch, and keep their regions as dirty; `more` too.

    Each dirty region counts once in its `unacknowledged`, until a command that marks it dirty is
    acknowledged.
    """
    for region in more:
        region.unacknowledged += 1
    for region in (*opened.batch.regions, *more):
        if region in opened.dirty_regions:
            region.unacknowledged -= 1
        else:
            opened.dirty_regions.add(region)
    start_batch(state, opened)
    state.with_dirty_regions[opened.name] = opened


def note_published(state: TrackerState, opened: OpenVolume, *, with_held_back: bool = True) -> None:
    """Tell the forks that the last command names all that was missed, and all in flight.

    with_held_back: it names the held-back blocks too (ForkedVolume.published).
    """
    if opened.forks is not None:
        opened.forks.published(state.outbox.last_number, with_held_back=with_held_back)
