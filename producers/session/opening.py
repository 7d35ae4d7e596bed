"""Opening volumes in a session: the checks, SESSION_OPEN, and the search for other hosts.

Host.open_all has the order of these steps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterator, Mapping
from dataclasses import dataclass

from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.positions import OPENED_EARLIER
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, KafkaFailed
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.producers.batches.batch import whole_volume
from mirrorlog.producers.durable.activity_format import ActivityEntry, ActivityOp
from mirrorlog.producers.forks.fork_plans import ForkPlan
from mirrorlog.producers.session.fence import find_other_sessions, other_hosts_error
from mirrorlog.producers.session.parts import SessionParts
from mirrorlog.reading.open_sessions import KnownSessions, OpenSession


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A volume to open on its primary, `device`.

    newly_created: nobody can have written to the volume before this host. If False, and if the
        activity log doesn't cover the volume (the log was missing or damaged, or the volume was
        never opened through it), the whole volume is dirty: a tracker may have been off.
    take_over: sessions of other hosts that are gone for good.
    on_close: what TrackedVolume.close() calls instead of closing this volume alone.
    forks: the secondaries that the volume's writes go to as well.
    is_promoted: the last promotion has just made this the primary, and it holds what the log says.
        Whatever the state folder knows is about an earlier primary.
    """

    volume: Volume
    device: BlockDevice
    newly_created: bool
    take_over: Collection[str] = ()
    on_close: Callable[[], None] | None = None
    forks: ForkPlan | None = None
    is_promoted: bool = False


def check_requests(
    requests: Collection[OpenRequest], open_names: Container[str], *, can_fork: bool, has_key: bool
) -> None:
    """Raise BadUse if one of the volumes can't be opened.

    A volume can't be opened if it is open or retired, if its primary is smaller than it, or if it
    is forked although it is shared or the host has no ForkPorts (`can_fork`). An authenticated one
    can't by a host without a key (`has_key`).
    """
    for request in requests:
        name, size_bytes = request.volume.volume, request.volume.size_bytes
        if name in open_names:
            raise BadUse(
                "the volume is open already", where=f"volume {name}", next="Close it first."
            )
        if request.volume.is_retired:
            raise BadUse(
                "the volume is retired",
                where=f"volume {name}, position {request.volume.described_position}",
                next="Create a new one.",
            )
        if request.volume.is_authenticated and not has_key:
            raise BadUse(
                "the volume is authenticated: only commands with the code of a host key count, and "
                "this host has no key",
                where=f"volume {name}",
                next="Set host_key_file (docs/host-keys.md).",
            )
        if request.device.size_bytes < size_bytes:
            raise BadUse(
                f"the primary has {request.device.size_bytes} bytes, the volume {size_bytes}",
                where=f"volume {name}",
                next="Grow the primary.",
            )
        if request.forks is not None:
            _check_forks(request.volume, can_fork=can_fork)


def opened_entries(
    parts: SessionParts, requests: Mapping[str, OpenRequest]
) -> Iterator[ActivityEntry]:
    """Yield the entries that say that the session is open on the volumes.

    The log covers the newly created volumes from the beginning. Whatever Kafka knows of one since
    its origin is then a write that its primary may lack (unvouched.py).
    """
    for name, request in requests.items():
        activity = parts.log.state.volumes.get(name)
        is_unpublished = activity is not None and activity.may_be_unpublished
        is_new = request.newly_created and activity is None
        if is_new or (request.is_promoted and not is_unpublished):
            yield ActivityEntry(ActivityOp.SETTLED, name)
            known = request.volume.origin_position
            if request.is_promoted:
                known = request.volume.promotions[-1].position
            now_us = parts.outbox.now_us()
            yield ActivityEntry(ActivityOp.KNOWN, name, position=known, at_us=now_us)
        yield ActivityEntry(ActivityOp.OPENED, name, session=parts.session)


def exclude_other_hosts(
    parts: SessionParts, requests: Mapping[str, OpenRequest], known: KnownSessions
) -> Collection[str]:
    """Raise BadUse if another host may write to one of the volumes; take over what is asked for.

    Return the volumes that were taken over. They are dirty as a whole.

    SESSION_OPEN of each volume must have been acknowledged before `known` was read. Shared volumes
    are left out. Of two hosts that open a volume at the same time, the one whose SESSION_OPEN has
    the lower position finds nobody, and the other one finds it: only the order in the partition
    decides.

    Sessions in `take_over` of their request are ended:

    1. The primary is flushed (see settling.settle()).
    2. MARK_DIRTY of the whole volume is acknowledged, because only the other host's activity log
       knew what was unpublished.
    3. SESSION_CLOSE of the other session is acknowledged: sites wait for it no longer.
    """
    volumes = {name: request.volume for name, request in requests.items()}
    activities, positions = parts.log.state.volumes, parts.outbox.last_positions
    others = find_other_sessions(
        {name: positions[name] for name in volumes},
        volumes,
        own_sessions={name: activities[name].sessions | parts.log.state.lost for name in volumes},
        find_open=known.open_before,
    )
    taken_over = [other for other in others if other.session in requests[other.volume].take_over]
    if len(taken_over) < len(others):
        raise other_hosts_error([other for other in others if other not in taken_over])
    _take_over(parts, requests, taken_over)
    return {other.volume for other in taken_over}


def withdraw(parts: SessionParts, requests: Mapping[str, OpenRequest]) -> None:
    """End the session on volumes to which it has written nothing.

    The activity log keeps what was unsettled before.
    """
    with parts.lock:
        for request in requests.values():
            parts.outbox.send(request.volume, CommandKind.SESSION_CLOSE)
    parts.outbox.wait_published()
    with parts.lock:
        parts.log.append(
            [
                ActivityEntry(ActivityOp.SETTLED, name)
                for name in requests
                if not parts.is_unsettled(name)
            ]
        )


def _check_forks(volume: Volume, *, can_fork: bool) -> None:
    where = f"volume {volume.volume}"
    if volume.shared:
        raise BadUse(
            "a shared volume can't be forked: nobody orders the writes of two hosts",
            where=where,
            next="Leave --fork out: its sites follow the log.",
        )
    if not can_fork:
        raise BadUse(
            "a volume is forked, but this host has nothing to write to secondaries with",
            where=where,
        )


def check_own_sessions(
    parts: SessionParts, requests: Mapping[str, OpenRequest], known: KnownSessions
) -> None:
    """Raise KafkaFailed if the SESSION_OPEN of a volume isn't in what was read of the log.

    A search that doesn't find this session finds no other one either. If the history of the
    partition was renewed meanwhile, and the session is open in the new one, what was acknowledged
    before counts no longer.
    """
    for name, request in requests.items():
        position = parts.outbox.last_positions[name]
        heads = known.partition_of(name).heads[name].sessions
        own = next((head for head in heads if head.session == parts.session), None)
        if own is not None and own.opened_position == OPENED_EARLIER:
            with parts.lock:
                partition = request.volume.partition
                parts.outbox.enter_history(partition, parts.outbox.positions.histories[partition])
        elif own is None or own.last_position < position:
            raise KafkaFailed(
                "the log doesn't name the session that was opened: its history broke meanwhile, or "
                "the node refused the command",
                where=f"volume {name}, position {position}",
                next="Open the volume again. Statuses (docs/statuses.md) say what was refused.",
            )


def _check_histories(parts: SessionParts, volumes: Collection[Volume]) -> None:
    """Raise KafkaFailed if the history of one of the volumes' partitions broke."""
    for volume in volumes:
        if volume.partition in parts.outbox.positions.broken:
            raise KafkaFailed(
                "the history of the partition broke while the volume was being opened",
                where=f"volume {volume.volume}, partition {volume.partition}",
                next="Open the volume again.",
            )


def _take_over(
    parts: SessionParts, requests: Mapping[str, OpenRequest], taken_over: Collection[OpenSession]
) -> None:
    """End other hosts' sessions; exclude_other_hosts() has the steps."""
    for name in {other.volume for other in taken_over}:
        volume = requests[name].volume
        requests[name].device.flush()  # 1
        parts.report(f"volume {name} counts as dirty as a whole: it was taken over")
        with parts.lock:
            parts.outbox.send(
                volume,
                CommandKind.MARK_DIRTY,
                whole_volume(volume.size_bytes),
                note="taken over from a host that is gone",
            )
    parts.outbox.wait_published()  # 2
    _check_histories(parts, [requests[other.volume].volume for other in taken_over])
    with parts.lock:
        for other in taken_over:
            parts.outbox.send(
                requests[other.volume].volume,
                CommandKind.SESSION_CLOSE,
                for_session=other.session,
                note=f"taken over from host '{other.host}'",
            )
    parts.outbox.wait_published()  # 3
