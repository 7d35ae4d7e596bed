"""How a write gets its regions into the activity log, and how others make room for them.

C1 to C3 and H1 are steps of the protocol in batches/lock_free_writes.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from mirrorlog.errors import DeviceFailed
from mirrorlog.producers.batches.hot_regions import (
    DrainFirst,
    FlushFirst,
    HotRegion,
    Leave,
    RoomPlan,
)
from mirrorlog.producers.durable.activity_format import ActivityEntry, ActivityOp
from mirrorlog.producers.writes.batch_sending import send_all_batches
from mirrorlog.producers.writes.open_batch import collect_all_ended
from mirrorlog.producers.writes.primary_flush import flush_primary
from mirrorlog.producers.writes.tracker_state import OpenVolume, TrackerState
from mirrorlog.producers.writes.whole_volume_fallback import (
    fall_back_to_whole_volume,
    return_all_to_regions,
    volume_with_most_to_gain,
)

Result = TypeVar("Result")


def make_hot(
    state: TrackerState,
    opened: OpenVolume,
    numbers: Sequence[int],
    then: Callable[[list[HotRegion]], Result],
) -> Result:
    """Make these regions durable in the activity log, and return what `then` returns for them.

    Call it without the lock: it may wait for a flush or for Kafka. `then` runs with the lock held.
    Each region has one more write in flight; a volume tracked as a whole has its one region once
    for each number. Raise what TrackerState.check_writable() and ActivityLog.append() raise, and
    KafkaFailed if there is no room for too long.
    """
    while True:
        with state.lock:
            state.check_writable(opened)
            plan = _plan(state, opened, numbers)
            if isinstance(plan, Leave):
                regions = _exchange(state, opened, plan, numbers)
                if regions is None:
                    continue
                return then(regions)
        _make_room(state, opened, plan, numbers)


def _plan(state: TrackerState, opened: OpenVolume, numbers: Sequence[int]) -> RoomPlan:
    """Return how to make room for these regions. Call it with the lock held."""
    if opened.tracks_whole_volume:
        return Leave(())
    if not state.outbox.accepts_writes:
        return DrainFirst()
    missing = len(state.hot.missing(opened.regions, numbers))
    if not missing:
        return Leave(())
    collect_all_ended(state)
    busy = {
        name: volume.lock_free.regions_in_flight(state.settings.region_bytes)
        for name, volume in state.volumes.items()
        if volume.lock_free.in_flight
    }
    return state.hot.plan(opened.regions, numbers, missing, busy)


def _exchange(
    state: TrackerState, opened: OpenVolume, plan: Leave, numbers: Sequence[int]
) -> list[HotRegion] | None:
    """Let the plan's regions leave, and make `numbers` hot, durably. Call it with the lock held.

    Return None, with nothing changed, if a write has begun in a region that was to leave.
    """
    region_bytes = state.settings.region_bytes
    whole = opened.regions.whole
    if opened.tracks_whole_volume and whole is not None:
        whole.in_flight += len(numbers)
        return [whole] * len(numbers)
    state.hot.leave(plan.regions)  # C1
    if any(
        region.number in state.volumes[region.volume].lock_free.regions_in_flight(region_bytes)
        for region in plan.regions
    ):
        state.hot.put_back(plan.regions)  # C2
        return None
    missing = state.hot.missing(opened.regions, numbers)
    if missing:
        cool = [
            ActivityEntry(ActivityOp.COOL, region.volume, region=region.number)
            for region in plan.regions
        ]
        hot = [ActivityEntry(ActivityOp.HOT, opened.name, region=number) for number in missing]
        left = {state.volumes[region.volume].volume.partition for region in plan.regions}
        state.log.append([*cool, *hot, *state.outbox.reached_entries(left)])  # C3, H1
    return state.hot.begin(opened.regions, numbers)


def _make_room(
    state: TrackerState,
    opened: OpenVolume,
    plan: FlushFirst | DrainFirst,
    numbers: Sequence[int],
) -> None:
    """Do what the plan asks for. Call it without the lock.

    While Kafka acknowledges commands, the write waits for it. While Kafka is away:

    1. Everything unacknowledged is saved in the spool, durably. Then regions may leave.
    2. That lets no region leave if the spool is full, or if it may not stand for regions. Then the
       volume with the most regions falls back to a whole volume; or, with `host_when_full`
       "fail", the write waits for Kafka until the deadline, and fails.
    """
    if isinstance(plan, FlushFirst):
        with state.lock:
            names = [name for name in sorted(plan.volumes) if name in state.volumes]
            volumes = [state.volumes[name] for name in names]
        for volume in volumes:
            # After a failure its regions are stuck. Its own writes and flushes raise the error.
            with suppress(DeviceFailed):
                flush_primary(state, volume)
        return
    with state.lock:
        send_all_batches(state)
    is_away = not state.outbox.wait_unless_away()
    with state.lock:
        return_all_to_regions(state)
        if not is_away or not isinstance(_plan(state, opened, numbers), DrainFirst):
            return
        if state.outbox.save_to_spool():  # 1
            return
        if state.settings.host_when_full == "widen":
            fall_back_to_whole_volume(state, [volume_with_most_to_gain(state, opened)])  # 2
            return
    state.outbox.wait()
