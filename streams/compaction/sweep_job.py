"""The sweep job: deletes records that a record of a higher tier holds.

Nothing is deleted because of its key alone. Usually the covered record is a source of the other
one. But a worker that lost the partition may have written a roll-up from an old table, which claims
positions of which another record knows more. So the blocks are compared before anything is deleted
(docs/decisions/roll-ups.md).
"""

from __future__ import annotations

import logging
from collections.abc import Container, Generator, Sequence
from typing import Final

from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.streams.compaction.partition_records import DamagedRecord, tombstones
from mirrorlog.streams.compaction.partition_state import PartitionState, next_tick_s
from mirrorlog.streams.compaction.rollups import RollUpSource, StoredRecord, is_within
from mirrorlog.streams.compaction.steps import Job, Step, WatermarkDue
from mirrorlog.tracking_log.position_times import NOTE_EVERY_S
from mirrorlog.tracking_log.tiers import TIERS

log = logging.getLogger("mirrorlog.node")

_SWEEPS_AT_ONCE: Final = 256


def sweep(state: PartitionState, now_s: float) -> Job:
    """Delete what is due at the monotonic time `now_s` and has been kept for long enough.

    The watermark is written first: a roll-up that the survey found may have none behind it.
    """
    yield WatermarkDue()
    swept: set[tuple[str, StoredRecord]] = set()
    for _ in range(_SWEEPS_AT_ONCE):
        due = state.sweeps.take_due(now_s)
        if due is None:
            return
        volume, rolled_up = due
        if not _was_kept(state, volume, rolled_up):
            due_s = next_tick_s(state.clock, NOTE_EVERY_S)
            state.sweeps.schedule(volume, rolled_up, due_s=due_s)
            continue
        try:
            yield from _sweep_record(state, volume, rolled_up, swept)
        except DamagedRecord as damaged:
            state.damaged.add(damaged)
            state.sweeps.keep_sources(volume, rolled_up)


def _was_kept(state: PartitionState, volume: str, rolled_up: StoredRecord) -> bool:
    """Return whether the sources of `rolled_up` have been kept for as long as their tier says.

    While nothing is known of the broker's clock, the time counts from the partition's assignment.
    Nothing is lost by that: `rolled_up` holds the blocks.
    """
    keep_s = state.policy.keep_covered_s(volume, rolled_up.tier - 1)
    now_us = state.broker_times.now_us()
    if now_us is None:
        return state.clock.monotonic_s() - state.times.since_s >= keep_s
    return not keep_s or rolled_up.through <= state.times.position_at(now_us - keep_s * 1e6)


def _sweep_record(
    state: PartitionState,
    volume: str,
    rolled_up: StoredRecord,
    swept: set[tuple[str, StoredRecord]],
) -> Job:
    """Delete the records inside `rolled_up` if it is proved to hold them.

    swept: the records that this job has deleted, to which those of this call are added. Tombstones
        leave together, so the table may still have such a record, and lose it at the next step.

    DamagedRecord if one of them, or `rolled_up` itself, can't be read.
    """
    after = rolled_up.after
    if (volume, rolled_up) in swept or rolled_up not in state.records.beginning_in(
        volume, tier=rolled_up.tier, after=after, before=after + 1
    ):
        # It was rolled up itself, or was too old to be kept.
        if (further := _covering(state, volume, rolled_up)) is not None:
            state.sweeps.schedule(volume, further, due_s=state.clock.monotonic_s())
        return
    holder = state.records.source(volume, rolled_up)
    inside = yield from _inside(state, volume, holder, swept)
    if not holder.is_complete:
        # A crash cut it off: its sources are rolled up again.
        for source in inside:
            state.roll_ups.add(volume, tier=source.record.tier, after=source.record.after)
        return
    if not inside:
        return
    is_held = yield from _is_held(state, volume, inside, holder)
    if not is_held:
        state.sweeps.keep_sources(volume, rolled_up)
        log.error(
            "volume %s: the record (%d, %d] of tier %s doesn't hold every block of the records "
            "inside it; all of them stay",
            volume,
            rolled_up.after,
            rolled_up.through,
            TIERS[rolled_up.tier],
        )
        return
    for source in inside:
        swept.add((volume, source.record))
        yield from tombstones(volume, source.record)


def _is_held(
    state: PartitionState, volume: str, inside: Sequence[RollUpSource], holder: RollUpSource
) -> Generator[Step, None, bool]:
    """Return whether the holder has every block of the records inside it."""
    parts = state.records.united(volume, inside)
    held = state.records.united(volume, [holder])
    is_held = False
    for answer in is_within(parts, held):
        is_held = bool(answer)
        yield None
    return is_held


def _inside(
    state: PartitionState,
    volume: str,
    holder: RollUpSource,
    swept: Container[tuple[str, StoredRecord]],
) -> Generator[Step, None, list[RollUpSource]]:
    """Return the records of lower tiers and the same generation that the holder covers."""
    covering, inside = holder.record, []
    for tier in range(covering.tier):
        for record in state.records.beginning_in(
            volume, tier=tier, after=covering.after, before=covering.through
        ):
            if record.is_covered_by(covering) and (volume, record) not in swept:
                source = state.records.source(volume, record)
                if source.first.generation == holder.first.generation:
                    inside.append(source)
                yield None
    return inside


def _covering(state: PartitionState, volume: str, gone: StoredRecord) -> StoredRecord | None:
    """Return the lowest record of a higher tier that covers a record which isn't there any more."""
    for tier in range(gone.tier + 1, state.policy.top_tier + 1):
        for record in state.records.beginning_in(
            volume, tier=tier, after=BEFORE_FIRST, before=gone.after + 1
        ):
            if gone.is_covered_by(record):
                return record
    return None
