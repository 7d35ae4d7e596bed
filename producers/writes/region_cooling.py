"""Regions that nobody writes to leave the activity log: a crash then marks few of them dirty.

A round, several times in `host_region_idle_s`:

    K1  The lock is taken. Lock-free writes that have ended join the open batch, so that the uses of
        their regions are counted.
    K2  Regions are chosen that nobody has used for `host_region_idle_s`, with no write in flight,
        and whose writes are all acknowledged and, with `host_confirm = "recorded"`, recorded
        (plan_cooling). None is chosen while Kafka is away or while a command is in the spool, of a
        volume that has dirty regions, or in a partition whose history broke.
    K3  If the last write of a chosen region isn't durable on the primary, the region stays. When
        the round is over, and without the lock, its primary is flushed in the background; then the
        next round begins.
    K4  The others leave the hot set, so that no write begins in them without the lock (C1). Those
        in which a lock-free write has begun are put back (C2).
    K5  One append makes the activity log say of all others that they are cool, and through which
        position the commands are acknowledged (C3). The lock is released.

A write to a region after K4 finds it cool. It waits for the lock, which is released after K5, and
makes the region durable in the activity log again before its data (make_hot). If a crash takes K5
back, more is marked dirty, and nothing is lost.

C1 to C3 are steps of the protocol in batches/lock_free_writes.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from mirrorlog.errors import DeviceFailed
from mirrorlog.producers.batches.hot_regions import HotRegion
from mirrorlog.producers.batches.idle_regions import CoolingPlan, plan_cooling
from mirrorlog.producers.writes.hot_region_admission import cool_entries, with_writes_in_flight
from mirrorlog.producers.writes.open_batch import collect_all_ended
from mirrorlog.producers.writes.primary_flush import flush_in_background
from mirrorlog.producers.writes.tracker_state import OpenVolume, TrackerState


class RegionCooling:
    """Lets idle regions leave the activity log of a session."""

    def __init__(self, state: TrackerState) -> None:
        self._state: Final = state

    def tick(self, now_s: float) -> None:
        """Do a round if one is due. Call it from one thread, without the lock.

        now_s: by the monotonic clock.
        """
        state = self._state
        if not state.recent_uses.is_due(now_s):
            return
        with state.lock:
            collect_all_ended(state)  # K1
            state.recent_uses.mark(now_s, state.hot.last_use)
            plan = self._plan()  # K2
            _cool(state, _without_busy(state, plan.leaving))  # K4, K5
        flush_in_background(state, plan.unflushed, self._begin_round)  # K3

    def _plan(self) -> CoolingPlan:
        """Return what the round does. Call it with the lock held."""
        state = self._state
        if not state.outbox.holds_nothing_back:
            return CoolingPlan((), ())
        broken = state.outbox.positions.broken
        volumes = [
            opened.regions
            for opened in state.volumes.values()
            if _can_cool(opened) and opened.volume.partition not in broken
        ]
        return plan_cooling(volumes, state.recent_uses)

    def _begin_round(self) -> None:
        self._state.recent_uses.due_s = float("-inf")


def _can_cool(opened: OpenVolume) -> bool:
    """Return whether idle regions of the volume may leave, as far as the volume is concerned."""
    return not (opened.closing or opened.regions.is_stuck or opened.dirty_regions)


def _without_busy(state: TrackerState, leaving: Sequence[HotRegion]) -> Sequence[HotRegion]:
    """Remove these regions from the hot set, and return those that stay removed (K4).

    Call it with the lock held.
    """
    state.hot.leave(leaving)  # C1
    busy = with_writes_in_flight(state, leaving)
    state.hot.put_back(busy)  # C2
    return [region for region in leaving if region not in busy]


def _cool(state: TrackerState, regions: Sequence[HotRegion]) -> None:
    """Make the activity log say that these regions are cool (K5). Call it with the lock held."""
    if not regions:
        return
    left = {state.volumes[region.volume].volume.partition for region in regions}
    # A failed append raises again in the next write that needs the activity log.
    with suppress(DeviceFailed):
        state.log.append([*cool_entries(regions), *state.outbox.reached_entries(left)])  # C3
