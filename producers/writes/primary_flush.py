"""Making the writes of a volume durable on its primary."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from mirrorlog.errors import DeviceFailed, MirrorlogError
from mirrorlog.producers.writes.open_batch import collect_ended
from mirrorlog.producers.writes.tracker_state import OpenVolume, TrackerState


def flush_primary(state: TrackerState, opened: OpenVolume, *, joins: bool = False) -> None:
    """Make the writes that ended before durable on the primary. Call it without the lock.

    One call at a time flushes a primary: the kernel tells an error of writing back only once, and
    the other calls must hear of it, too. Those that wait meanwhile share the next flush.

    Raise DeviceFailed if that fails. From then on no write of the volume begins. If the volume has
    failed before, raise that error.

    joins: wait for the flush that is under way, if there is one. Some of the writes that ended
    before the call may not be durable then; the caller looks what is.
    """
    with state.lock:
        begun_before = opened.last_flush if joins else opened.flushes_begun
    with opened.flush_lock:
        with state.lock:
            if opened.failed is not None:
                raise opened.failed
            if opened.last_flush > begun_before:
                return
            opened.flushes_begun += 1
            number = opened.flushes_begun
            collect_ended(state, opened)
            finished = opened.regions.finished
        try:
            opened.device.flush()
        except DeviceFailed as error:
            state.fail(opened, error)
            raise
        with state.lock:
            opened.regions.durable = max(finished, opened.regions.durable)
            opened.last_flush = max(number, opened.last_flush)


def flush_in_background(
    state: TrackerState, names: Collection[str], then: Callable[[], None] = lambda: None
) -> None:
    """Flush the primaries of these volumes, unless such a flush is under way. Nobody waits for it.

    Volumes that are closing, or aren't open any more, are passed over. Call it without the lock.
    After a failed flush no write of the volume begins: the error was this call's alone to see, and
    the volume's next flush might return without it.

    then: called with the lock held when all are flushed.
    """
    with state.lock:
        if state.is_flushing_in_background or not names:
            return
        state.is_flushing_in_background = True
    try:
        state.jobs.start(partial(_flush_each, state, names, then))
    except RuntimeError:  # no thread can be started; a write that needs the flush makes it itself
        with state.lock:
            state.is_flushing_in_background = False


def _flush_each(state: TrackerState, names: Collection[str], then: Callable[[], None]) -> None:
    try:
        for name in names:
            with state.lock:
                opened = state.volumes.get(name)
            if opened is None or opened.closing or opened.failed is not None:
                continue
            try:
                flush_primary(state, opened)
            except MirrorlogError as error:
                state.report(str(error))
    finally:
        with state.lock:
            state.is_flushing_in_background = False
            then()
