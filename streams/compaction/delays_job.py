"""The job that notes publication delays each minute, and joins the older ones."""

from __future__ import annotations

from mirrorlog.codec.events import encode
from mirrorlog.streams.compaction.partition_state import PartitionState
from mirrorlog.streams.compaction.steps import Job
from mirrorlog.tracking_log.keys import delays_key


def note_delays(state: PartitionState) -> Job:
    """Write what was noted since the last time. Let older statements become one.

    What takes the place of others is written first. A crash leaves some of them beside it, which
    does no harm: each is true by itself.
    """
    partition = state.records.partition
    for noted in state.delays.take_noted():
        yield delays_key(partition, after=noted.after), encode(noted)
    now_us = state.broker_times.now_us()
    if now_us is None:
        return
    for join in state.delays.take_joined(now_us):
        yield delays_key(partition, after=join.whole.after), encode(join.whole)
        for part in join.parts[1:]:
            yield delays_key(partition, after=part.after), None
