"""How a write gets its regions into the activity log, and how others make room for them.

C1 to C3 and H1 are steps of the protocol in batches/lock_free_writes.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from mirrorlog.errors import MirrorlogError
from mirrorlog.ports.task_runner import run_all
from mirrorlog.producers.batches.hot_regions import (
    DrainFirst,
    FlushFirst,
    HotRegion,
    Leave,
    RoomPlan,
)
from mirrorlog.producers.batches.look_ahead import RegionLookAhead
from mirrorlog.producers.durable.activity_format import ActivityEntry, ActivityOp, region_entries
from mirrorlog.producers.writes.batch_sending import send_all_batches
from mirrorlog.producers.writes.open_batch import collect_all_ended
from mirrorlog.producers.writes.primary_flush import flush_in_background, flush_primary
from mirrorlog.producers.writes.tracker_state import OpenVolume, TrackerState
from mirrorlog.producers.writes.whole_volume_fallback import (
    fall_back_to_whole_volume,
    return_all_to_regions,
    volume_with_most_to_gain,
)

Result = TypeVar("Result")
_AHEAD_PART: Final = 8
"""At most this part of the hot regions is made hot before a write needs it."""


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

    The writers that wait for the lock meanwhile share the append (group commit).
    """
    request = (opened.name, numbers)
    state.admissions[id(request)] = request
    try:
        while True:
            with state.lock:
                state.check_writable(opened)
                plan = _plan(state, opened, numbers)
                if isinstance(plan, Leave):
                    regions = _exchange(state, opened, plan, numbers)
                    if regions is None:
                        continue
                    result = then(regions)
                    break
            _make_room(state, opened, plan, numbers)
    finally:
        del state.admissions[id(request)]
    flush_in_background(state, plan.flush_soon)
    return result


def make_hot_now(
    state: TrackerState, opened: OpenVolume, numbers: Sequence[int]
) -> list[HotRegion] | None:
    """Do as make_hot(), but return None where that would wait for a flush or for Kafka.

    A flush that is missing is then made in the background.
    """
    with state.lock:
        state.check_writable(opened)
        plan = _plan(state, opened, numbers)
        regions = _exchange(state, opened, plan, numbers) if isinstance(plan, Leave) else None
    if isinstance(plan, Leave):
        flush_in_background(state, plan.flush_soon)
    elif isinstance(plan, FlushFirst):
        flush_in_background(state, plan.volumes)
    return regions


def make_hot_ahead(state: TrackerState, coming: Mapping[str, Collection[int]]) -> None:
    """Make the regions of coming writes durable in the activity log, with one wait for the disk.

    coming: by volume, the numbers of its regions. Call it without the lock. It saves time only:
    volumes whose writes may not begin are passed over, and no room is made by waiting for Kafka.
    Then the writes do that, and raise what is to be raised. DeviceFailed as ActivityLog.append().
    """
    while True:
        with state.lock:
            wanted = _wanted_ahead(state, coming, state.hot.limit)
            if not wanted or not state.outbox.accepts_writes:
                return
            plan = _plan_for(state, wanted)
            if isinstance(plan, Leave):
                if not _leave(state, plan):
                    continue
                _append(state, plan, wanted)
                for name, numbers in wanted.items():
                    state.hot.add(state.hot.volumes[name], numbers)
                break
        if isinstance(plan, DrainFirst):
            return
        _flush_primaries(state, plan)
    flush_in_background(state, plan.flush_soon)


def _wanted_ahead(
    state: TrackerState, coming: Mapping[str, Collection[int]], room: int
) -> dict[str, list[int]]:
    """Return, by volume, the regions that can be made hot before their writes begin, and aren't.

    They are `room` at most, and no more than an eighth of all: they may not take the place of all
    others. Call it with the lock held.
    """
    wanted: dict[str, list[int]] = {}
    left = max(min(state.hot.limit // _AHEAD_PART, room), 0)
    for name, numbers in coming.items():
        opened = state.volumes.get(name)
        if opened is None or opened.closing or opened.tracks_whole_volume:
            continue
        if opened.failed is not None:
            continue
        missing = state.hot.missing(opened.regions, numbers)[:left]
        left -= len(missing)
        if missing:
            wanted[name] = missing
    return wanted


def _plan(state: TrackerState, opened: OpenVolume, numbers: Sequence[int]) -> RoomPlan:
    """Return how to make room for these regions. Call it with the lock held."""
    if opened.tracks_whole_volume:
        return Leave(())
    if not state.outbox.accepts_writes:
        return DrainFirst()
    missing = state.hot.missing(opened.regions, numbers)
    wanted = 0
    if missing:
        wanted = len(_ahead(state, opened, missing, opened.look_ahead.copy(), state.hot.limit))
    return _plan_for(state, {opened.name: numbers}, wanted=wanted)


def _plan_for(
    state: TrackerState, needed: Mapping[str, Collection[int]], *, wanted: int = 0
) -> RoomPlan:
    """Return how to make room for these regions, by volume. Call it with the lock held.

    wanted: for so many more, room is made only if it can be made at once.
    """
    missing = sum(
        len(state.hot.missing(state.hot.volumes[name], numbers)) for name, numbers in needed.items()
    )
    if not missing or state.hot.has_room(missing + wanted):
        return Leave(())
    collect_all_ended(state)
    busy = {
        name: volume.lock_free.regions_in_flight(state.settings.region_bytes)
        for name, volume in state.volumes.items()
        if volume.lock_free.in_flight
    }
    return state.hot.plan(needed, missing, busy, wanted=wanted)


def _exchange(
    state: TrackerState, opened: OpenVolume, plan: Leave, numbers: Sequence[int]
) -> list[HotRegion] | None:
    """Let the plan's regions leave, and make `numbers` hot, durably. Call it with the lock held.

    Return None, with nothing changed, if a write has begun in a region that was to leave.
    """
    whole = opened.regions.whole
    if opened.tracks_whole_volume and whole is not None:
        whole.in_flight += len(numbers)
        return [whole] * len(numbers)
    if not _leave(state, plan):
        return None
    missing = state.hot.missing(opened.regions, numbers)
    early: dict[str, list[int]] = {}
    if missing:
        early = _early(state, opened, missing)
        named = {**early, opened.name: [*missing, *early.get(opened.name, ())]}
        _append(state, plan, named)
    begun = state.hot.begin(opened.regions, numbers)
    for name, others in early.items():
        state.hot.add(state.hot.volumes[name], others)  # last, because they leave last
    return begun


def _early(state: TrackerState, opened: OpenVolume, missing: Sequence[int]) -> dict[str, list[int]]:
    """Return, by volume, the regions that become hot with the `missing` ones of `opened`.

    They are those for which other writers wait, and those that a writer goes towards. There is room
    for them without waiting. Call it with the lock held, when the regions of a plan have left.
    """
    early = _wanted_by_others(state, opened, missing)
    room = state.hot.room - len(missing) - sum(map(len, early.values()))
    own = early.setdefault(opened.name, [])
    ahead = _ahead(state, opened, missing, opened.look_ahead, room)
    own += [number for number in ahead if number not in own]
    return early


def _wanted_by_others(
    state: TrackerState, opened: OpenVolume, missing: Sequence[int]
) -> dict[str, list[int]]:
    """Return, by volume, the regions for which other threads are in make_hot().

    As far as there is room beside the `missing` ones of `opened`. Call it with the lock held.
    """
    if len(state.admissions) <= 1:
        return {}
    coming: dict[str, dict[int, None]] = {}
    for name, numbers in state.admissions.copy().values():
        coming.setdefault(name, {}).update(dict.fromkeys(numbers))
    own = coming.get(opened.name, {})
    for number in missing:
        own.pop(number, None)
    return _wanted_ahead(state, coming, state.hot.room - len(missing))


def _ahead(
    state: TrackerState,
    opened: OpenVolume,
    missing: Sequence[int],
    look_ahead: RegionLookAhead,
    room: int,
) -> list[int]:
    """Return regions that become hot with the `missing` ones, because a writer goes towards them.

    room: they are at most so many. There are none unless Kafka takes commands, so that room can be
    made again. look_ahead: of the volume, or a copy. Call it with the lock held.
    """
    if not state.outbox.can_publish_now:
        return []
    most = max(min(state.hot.limit // _AHEAD_PART, room), 0)
    end = -(-opened.volume.size_bytes // state.settings.region_bytes)
    return [
        number
        for number in look_ahead.extend(missing, most=most, now_s=state.clock.monotonic_s())
        if number < end and number not in opened.regions.hot and number not in missing
    ]


def _leave(state: TrackerState, plan: Leave) -> bool:
    """Remove the plan's regions from the hot set. Call it with the lock held.

    Return False, with nothing changed, if a write has begun in one of them.
    """
    state.hot.leave(plan.regions)  # C1
    if with_writes_in_flight(state, plan.regions):
        state.hot.put_back(plan.regions)  # C2
        return False
    return True


def with_writes_in_flight(state: TrackerState, regions: Sequence[HotRegion]) -> list[HotRegion]:
    """Return the regions in which a lock-free write is in flight (C2)."""
    if not regions:
        return []
    busy = {
        name: state.volumes[name].lock_free.regions_in_flight(state.settings.region_bytes)
        for name in {region.volume for region in regions}
    }
    return [region for region in regions if region.number in busy[region.volume]]


def _append(state: TrackerState, plan: Leave, missing: Mapping[str, Collection[int]]) -> None:
    """Say in the activity log, durably, what leaves by the plan and what becomes hot."""
    cool = cool_entries(plan.regions)
    hot = [
        entry
        for name, numbers in missing.items()
        for entry in region_entries(ActivityOp.HOT_SET, name, numbers)
    ]
    left = {state.volumes[region.volume].volume.partition for region in plan.regions}
    state.log.append([*cool, *hot, *state.outbox.reached_entries(left)])  # C3, H1


def cool_entries(regions: Iterable[HotRegion]) -> list[ActivityEntry]:
    """Return entries that say that these regions are cool."""
    numbers: dict[str, list[int]] = {}
    for region in regions:
        numbers.setdefault(region.volume, []).append(region.number)
    return [
        entry
        for name, of_volume in numbers.items()
        for entry in region_entries(ActivityOp.COOL_SET, name, of_volume)
    ]


def _make_room(
    state: TrackerState,
    opened: OpenVolume,
    plan: FlushFirst | DrainFirst,
    numbers: Sequence[int],
) -> None:
    """Do what the plan asks for. Call it without the lock.

    While Kafka acknowledges commands, the write waits for the first one in flight, and then plans
    again; if none is in flight, the open batches are sent. While Kafka is away:

    1. Everything unacknowledged is saved in the spool, durably. Then regions may leave.
    2. That lets no region leave if the spool is full, or if it may not stand for regions. Then the
       volume with the most regions falls back to a whole volume; or, with `host_when_full`
       "fail", the write waits for Kafka until the deadline, and fails.
    """
    if isinstance(plan, FlushFirst):
        _flush_primaries(state, plan)
        return
    with state.lock:
        first = state.outbox.first_in_flight
        if first is None:
            send_all_batches(state)
    is_away = not state.outbox.wait_unless_away(first)
    with state.lock:
        if is_away and first is not None:
            send_all_batches(state)
        return_all_to_regions(state)
        if not is_away or not isinstance(_plan(state, opened, numbers), DrainFirst):
            return
        if state.outbox.save_to_spool():  # 1
            return
        if state.settings.host_when_full == "widen":
            fall_back_to_whole_volume(state, [volume_with_most_to_gain(state, opened)])  # 2
            return
    state.outbox.wait()


def _flush_primaries(state: TrackerState, plan: FlushFirst) -> None:
    """Flush the primaries that the plan names, then plan again. Call it without the lock."""
    with state.lock:
        names = [name for name in sorted(plan.volumes) if name in state.volumes]
        volumes = [state.volumes[name] for name in names]
    # After a failure its regions are stuck. Its own writes and flushes raise the error.
    run_all(
        state.flushes,
        [partial(flush_primary, state, one, joins=True) for one in volumes],
        MirrorlogError,
    )
