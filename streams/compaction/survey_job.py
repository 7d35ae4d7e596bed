"""The survey: what there is to do in a partition that this worker was just assigned.

It reads keys alone, and the values of position times and publication delays.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from mirrorlog.codec.events import decode
from mirrorlog.streams.compaction.partition_state import PartitionState
from mirrorlog.streams.compaction.rollups import CoverIndex, stored_records
from mirrorlog.streams.compaction.steps import Job
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import (
    RECORD_PREFIX,
    RecordKey,
    above_prefix,
    delays_prefix,
    position_times_prefix,
    read_record_key,
)
from mirrorlog.tracking_log.position_times import consistent_times
from mirrorlog.tracking_log.publication_delays import PublicationDelays

_KEYS_AT_ONCE: Final = 2000


def survey(state: PartitionState) -> Job:
    """Fill the state from the table, and delete position times that can't be trusted."""
    yield from _load_times(state)
    _load_delays(state)
    table, partition = state.records.table, state.records.partition
    waiting: list[RecordKey] = []
    start, end = RECORD_PREFIX, above_prefix(RECORD_PREFIX)
    while chunk := table.keys(partition, start, end, _KEYS_AT_ONCE):
        start = chunk[-1] + b"\0"
        waiting += [read_record_key(key) for key in chunk]
        by_volume = [list(keys) for _, keys in groupby(waiting, key=lambda key: key.volume)]
        for keys in by_volume[:-1]:
            _survey_volume(state, keys)
        waiting = by_volume[-1]  # further keys of this volume may follow
        yield None
    if waiting:
        _survey_volume(state, waiting)


def _load_times(state: PartitionState) -> Job:
    table, partition = state.records.table, state.records.partition
    prefix = position_times_prefix(partition)
    keys = table.keys(partition, prefix, above_prefix(prefix))
    times = {key: decode(table.get(partition, key) or b"", Watermark) for key in keys}
    consistent = consistent_times(
        list(times.values()), complete_through=state.records.complete_through()
    )
    state.times.load(consistent)
    for key, time in times.items():
        if time not in consistent:
            yield key, None


def _load_delays(state: PartitionState) -> None:
    table, partition = state.records.table, state.records.partition
    prefix = delays_prefix(partition)
    keys = table.keys(partition, prefix, above_prefix(prefix))
    state.delays.load(
        decode(table.get(partition, key) or b"", PublicationDelays) for key in sorted(keys)
    )


def _survey_volume(state: PartitionState, keys: Sequence[RecordKey]) -> None:
    """Note what is to be done with the records of one volume.

    keys: of all of them. A record that one of a higher tier covers is left over from a crash or is
    kept for a while: it is swept once it is proved to be held.
    """
    volume, records = keys[0].volume, stored_records(keys)
    index = CoverIndex(records)
    for record in records:
        covering = index.covering(record)
        if covering is None:
            state.roll_ups.add(volume, tier=record.tier, after=record.after)
        elif not state.sweeps.is_known(volume, covering):
            state.sweeps.schedule(volume, covering, due_s=state.clock.monotonic_s())
    state.oldest.set(volume, min(record.through for record in records))
