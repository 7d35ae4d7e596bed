"""Making the writes of a volume durable on its primary."""

from __future__ import annotations

from mirrorlog.errors import DeviceFailed
from mirrorlog.producers.writes.open_batch import collect_ended
from mirrorlog.producers.writes.tracker_state import OpenVolume, TrackerState


def flush_primary(state: TrackerState, opened: OpenVolume) -> None:
    """Make the writes that ended before durable on the primary. Call it without the lock.

    Raise DeviceFailed if that fails. From then on no write of the volume begins. If the volume has
    failed before, raise that error.
    """
    with state.lock:
        if opened.failed is not None:
            raise opened.failed
        collect_ended(state, opened)
        finished = opened.regions.finished
    try:
        opened.device.flush()
    except DeviceFailed as error:
        state.fail(opened, error)
        raise
    with state.lock:
        opened.regions.durable = max(finished, opened.regions.durable)
