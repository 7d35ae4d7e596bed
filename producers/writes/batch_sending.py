"""How writes that have ended leave as tracking commands.

Every function needs the tracker's lock, from closing a batch until it is published: a batch that
closes earlier must not be published later (invariant 8).
"""

from __future__ import annotations

from collections.abc import Callable

from mirrorlog.domain.commands import CommandKind
from mirrorlog.producers.writes.open_batch import (
    collect_all_ended,
    collect_ended,
    keep_only_regions,
    note_published,
    start_batch,
)
from mirrorlog.producers.writes.tracker_state import OpenVolume, TrackerState


def send_batch(
    state: TrackerState,
    opened: OpenVolume,
    on_position: Callable[[int], None] | None = None,
) -> bool:
    """Close the open batch and hand it to Outbox.offer(), with everything that is in flight.

    Return True if all that the session held for the volume is on its way. While the volume has
    dirty regions, nothing is offered, and only the regions of the batch's writes are kept. If the
    command finds no room, only their regions are kept, too; or, with `host_when_full` "fail", the
    batch stays open and no write begins.

    on_position: as in PublishQueue.offer().
    """
    opened.collect_attached()
    collect_ended(state, opened)
    batch = opened.batch
    if opened.dirty_regions:
        keep_only_regions(state, opened)
        return False
    in_flight = [*opened.in_flight.values(), *opened.lock_free.copy_in_flight()]
    if opened.forks is None:
        closed = batch.closed_with(in_flight)
    else:
        closed = opened.forks.closed_batch(batch, in_flight, state.coarse_clock.now_us)
    if state.outbox.offer(
        opened.volume, CommandKind.WRITES, closed, regions=batch.regions, on_position=on_position
    ):
        start_batch(state, opened)
        note_published(state, opened)
        return True
    if state.settings.host_when_full == "widen":
        keep_only_regions(state, opened)
    else:
        state.outbox.hold_writes()
    return False


def send_all_batches(state: TrackerState) -> None:
    """Send the open batch of every volume that has one."""
    for opened in state.attached.values():
        opened.collect_attached()
    collect_all_ended(state)
    for name in list(state.timers.batch_since_s):
        send_batch(state, state.volumes[name])


def send_heartbeat(state: TrackerState, partition: int) -> None:
    """Send everything that the session holds for volumes of the partition, then a heartbeat.

    Send no heartbeat while Kafka is away, while a volume has dirty regions, if a command finds no
    room, or between a break of the partition's history and the volumes' fallback.

    The acknowledged position that the heartbeat names is read before the batches are closed. An
    attached writer begins writes without the lock. If the position were read later, it could be
    that of an acknowledgement that came after such a write began, and no batch would name the
    write.
    """
    if not state.outbox.can_publish_now or partition in state.outbox.positions.broken:
        return
    volumes = [opened for opened in state.volumes.values() if opened.volume.partition == partition]
    acknowledged = state.outbox.positions.last(partition)
    for opened in volumes:
        opened.collect_attached()
        collect_ended(state, opened)
        holds_back = opened.forks is not None and opened.forks.holds_back
        is_due = opened.batch or opened.in_flight or opened.lock_free.in_flight or holds_back
        if is_due and not send_batch(state, opened):
            break
    else:
        if not any(opened.dirty_regions for opened in volumes):
            _offer_heartbeat(state, partition, acknowledged_position=acknowledged)
            return
    if state.outbox.is_node_silent:
        # It proves nothing. But where Kafka puts it shows whether commands that wait for their
        # statuses are gone: the dirty regions wait for these, and nothing else is published.
        _offer_heartbeat(state, partition, acknowledged_position=None)


def _offer_heartbeat(
    state: TrackerState, partition: int, *, acknowledged_position: int | None
) -> None:
    """Offer a heartbeat; the next one is due an interval after it."""
    if state.outbox.offer_heartbeat(partition, acknowledged_position=acknowledged_position):
        del state.timers.heartbeat_s[partition]
        state.timers.heartbeat_s[partition] = state.clock.monotonic_s()
