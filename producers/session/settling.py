"""What a dead session left unpublished: it is published as dirty, and the session is closed.

Host.__init__ and Host.open_all have the order of these steps among all others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import MirrorlogError
from mirrorlog.ports.devices import DeviceOpener
from mirrorlog.ports.folders import StateFolder
from mirrorlog.producers.batches.batch import block_batches, region_batches, whole_volume
from mirrorlog.producers.durable.activity_format import (
    ActivityEntry,
    ActivityOp,
    ActivityState,
    VolumeActivity,
)
from mirrorlog.producers.durable.activity_log import carry_over, read_previous_log
from mirrorlog.producers.durable.spool_recovery import PreviousSpool
from mirrorlog.producers.session.parts import SessionParts
from mirrorlog.producers.session.session_search import SessionSearch
from mirrorlog.producers.session.unvouched import Unvouched
from mirrorlog.producers.writes.whole_volume_fallback import WHOLE_VOLUME_NOTE
from mirrorlog.settings import Settings
from mirrorlog.units import format_size


@dataclass(frozen=True, slots=True)
class PreviousSession:
    """The session before, as the state folder describes it.

    state: the state that the new session's activity log begins with.
    unpublished: by volume, what the old activity log says may be unpublished. Unlike `state` it
        lacks the regions that the spool names, because the spool's commands are sent themselves.
    volumes: the volumes to settle that exist.
    unknown: the volumes to settle that don't exist, or aren't known.
    """

    spool: PreviousSpool
    state: ActivityState
    unpublished: Mapping[str, VolumeActivity]
    volumes: Sequence[Volume]
    unknown: Sequence[str]

    def count_as_whole(self, partitions: Collection[int]) -> None:
        """Let every volume in these partitions be dirty as a whole."""
        for volume in self.volumes:
            if volume.partition in partitions:
                self.unpublished[volume.volume].whole_volume = True

    def sessions_but(self, own_session: str) -> dict[str, set[str]]:
        """Return the sessions that the folder calls open, by volume, without the new one."""
        return {
            volume.volume: others
            for volume in self.volumes
            if (others := self.unpublished[volume.volume].sessions - {own_session})
        }


def read_previous_session(
    folder: StateFolder,
    volumes: Mapping[str, Volume],
    *,
    session: str,
    settings: Settings,
    report: Callable[[str], None],
) -> PreviousSession:
    """Read the activity log and the spool that the session before left in `folder`.

    A log that is missing or damaged covers no volume. If the spool doesn't hold what the log
    counts on, every volume with writes in it is dirty as a whole.

    volumes: every volume that exists, by name.
    session: the new session, which `state` names as open on each volume to settle.
    """
    log = read_previous_log(folder)
    if log.damaged:
        report("the activity log is damaged: every volume that isn't newly created counts as dirty")
    state = carry_over(log, settings.region_bytes, volumes)
    spool = PreviousSpool(folder, log)
    for name in spool.lost:
        report(f"volume {name} counts as dirty as a whole: the host's spool is damaged")
        state.volumes[name].covered = False
    known = [volumes[name] for name in sorted(log.volumes) if name in volumes]
    for volume in known:
        state.volumes[volume.volume].sessions.add(session)
    unpublished = {
        name: replace(activity, regions=set(activity.regions))
        for name, activity in state.volumes.items()
    }
    spool.add_regions(state, settings.region_bytes, limit=settings.hot_regions)
    return PreviousSession(
        spool, state, unpublished, known, sorted(log.volumes.difference(volumes))
    )


def settle_previous(
    parts: SessionParts,
    previous: PreviousSession,
    open_device: DeviceOpener,
    search: SessionSearch | None,
) -> None:
    """Publish what the previous session left, for all volumes whose primary can be flushed.

    The others are reported and stay in the activity log. KafkaFailed as for Outbox.wait().

    1. The primaries are flushed.
    2. The log is read: it may know more than the state folder (unvouched.py). None for `search`:
       it isn't read.
    3. The commands in the spool are sent, as they were made.
    4. settle() does the rest.
    """
    for name in previous.unknown:
        parts.report(
            f"volume {name} may hold unpublished writes, but it isn't known: "
            "they stay in the activity log"
        )
    flushed = {
        volume.volume: volume
        for volume in previous.volumes
        if _may_speak_for(parts, volume) and _flush_primary(parts, volume, open_device)  # 1
    }
    unvouched: Mapping[str, Unvouched] = {}
    if search is not None and flushed:
        unvouched = search.unvouched(search.read(flushed), flushed, previous.unpublished)  # 2
    with parts.lock:
        for record in previous.spool.records():
            if record.volume in flushed:
                parts.outbox.resend(record)  # 3
    settle(
        parts,
        list(flushed.values()),
        previous.unpublished,
        unvouched,
        reopened=False,
        histories=None if search is None else search.histories,
    )  # 4


def settle(
    parts: SessionParts,
    volumes: Collection[Volume],
    unpublished: Mapping[str, VolumeActivity],
    unvouched: Mapping[str, Unvouched],
    *,
    reopened: bool,
    histories: Mapping[int, str] | None,
) -> None:
    """Publish what may be unpublished of these volumes, and close the sessions that are dead.

    The primaries of the volumes must have been flushed: no power cut can take back what a site
    reads there now. The commands in the spool must have been sent.

    1. MARK_DIRTY of the regions that were hot and of what the host can't vouch for, or of the whole
       volume, is acknowledged.
    2. SESSION_CLOSE is acknowledged: of each session that is open on a volume, also of this one
       unless it is `reopened`; and one for all volumes of a partition where an old session has no
       other volume open. Only now may a site stop waiting for them.
    3. The activity log forgets it all. If a crash loses that, it is only repeated.

    If the node refuses a command of a volume, or the history of its partition breaks, the steps
    that follow pass over that volume, and the activity log keeps it.

    unpublished: by volume, what an activity log says may be unpublished.
    unvouched: by volume, what the log names and the activity log doesn't know.
    reopened: whether this session stays open on the volumes.
    histories: by partition, the id of its history, if the log was asked for `unvouched`: then all
        of it is known from now on. None if it wasn't asked.
    """
    if not volumes:
        parts.outbox.wait_published()
        return
    unpublished = {volume.volume: unpublished[volume.volume] for volume in volumes}
    with parts.lock:
        for volume in volumes:
            _mark_dirty(
                parts, volume, unpublished[volume.volume], unvouched.get(volume.volume)
            )  # 1
    parts.outbox.wait(until_break=True)
    volumes = _accepted(parts, volumes)
    with parts.lock:
        for volume in volumes:
            _close_sessions(parts, volume, unpublished[volume.volume], reopened=reopened)  # 2
        for session, partition in _sessions_ended(parts, volumes):
            parts.outbox.send_close_for_all(partition, for_session=session)
    parts.outbox.wait(until_break=True)
    volumes = _accepted(parts, volumes)
    with parts.lock:
        settled = [ActivityEntry(ActivityOp.SETTLED, volume.volume) for volume in volumes]
        opened = [
            ActivityEntry(ActivityOp.OPENED, volume.volume, session=parts.session)
            for volume in volumes
            if reopened
        ]
        known: Iterable[ActivityEntry] = ()
        if histories is not None:
            known = known_entries(parts, volumes, histories, follow=reopened)
        parts.log.append([*settled, *opened, *known])  # 3


def known_entries(
    parts: SessionParts,
    volumes: Iterable[Volume],
    histories: Mapping[int, str],
    *,
    follow: bool,
) -> Iterator[ActivityEntry]:
    """Yield the entries that say how far the state folder knows the log of the volumes.

    This is the session's last command in the partition, not only of the volume: a record of the log
    may end behind the volume's last command. All commands must have been acknowledged.
    follow: it is raised as the session publishes more. histories: by partition, the id of its
    history.
    """
    for volume in volumes:
        position = parts.outbox.positions.last(volume.partition)
        if position is not None:
            yield ActivityEntry(
                ActivityOp.KNOWN,
                volume.volume,
                position=position,
                at_us=parts.outbox.now_us(),
                history=histories.get(volume.partition, ""),
            )
        if follow:
            yield ActivityEntry(ActivityOp.FOLLOWED, volume.volume, partition=volume.partition)


def _flush_primary(parts: SessionParts, volume: Volume, open_device: DeviceOpener) -> bool:
    """Flush the volume's primary. If that fails, report it and return False."""
    try:
        with open_device(volume.primary, writable=False) as device:
            device.flush()
    except MirrorlogError as error:
        parts.report(
            f"volume {volume.volume} may hold unpublished writes, which stay in the activity log: "
            f"{error}"
        )
        return False
    return True


def _may_speak_for(parts: SessionParts, volume: Volume) -> bool:
    """Return whether the node may believe this host about the volume. If not, report it."""
    if volume.is_authenticated and not parts.settings.host_key:
        parts.report(
            f"volume {volume.volume} may hold unpublished writes, which stay in the activity log: "
            "it is authenticated, and this host has no key (host_key_file)"
        )
        return False
    return True


def _accepted(parts: SessionParts, volumes: Collection[Volume]) -> list[Volume]:
    """Return the volumes of which the node has refused no command, and no command is gone."""
    return [
        volume
        for volume in volumes
        if volume.volume not in parts.outbox.rejected
        and volume.partition not in parts.outbox.positions.broken
    ]


def _mark_dirty(
    parts: SessionParts,
    volume: Volume,
    unpublished: VolumeActivity,
    unvouched: Unvouched | None,
) -> None:
    """Send MARK_DIRTY of the hot regions, or of the whole volume. The caller holds the lock."""
    is_whole = unvouched is not None and unvouched.blocks is None
    if unpublished.is_whole_volume_dirty or is_whole:
        note = (
            unvouched.reason
            if unvouched is not None
            else WHOLE_VOLUME_NOTE
            if unpublished.covered
            else "recovered: the host's activity log doesn't cover the volume's past"
        )
        parts.report(f"volume {volume.volume} counts as dirty as a whole: {note}")
        parts.outbox.send(
            volume, CommandKind.MARK_DIRTY, whole_volume(volume.size_bytes), note=note
        )
        return
    region_bytes = parts.settings.region_bytes
    if unpublished.regions:
        size_bytes = min(len(unpublished.regions) * region_bytes, volume.size_bytes)
        parts.report(
            f"volume {volume.volume}: a session ended without a close; "
            f"up to {format_size(size_bytes)} count as dirty"
        )
    for batch in region_batches(
        unpublished.regions,
        region_bytes=region_bytes,
        size_bytes=volume.size_bytes,
        max_extents=parts.settings.host_batch_extents,
    ):
        parts.outbox.send(
            volume,
            CommandKind.MARK_DIRTY,
            batch,
            note="recovered: hot when a session ended without a close",
        )
    if unvouched is not None and unvouched.blocks is not None:
        _mark_unvouched(parts, volume, unvouched.blocks, unvouched.reason)


def _mark_unvouched(parts: SessionParts, volume: Volume, blocks: BlockSet, reason: str) -> None:
    """Send MARK_DIRTY of blocks that the host can't vouch for. The caller holds the lock."""
    size_bytes = volume.bytes_of(len(blocks))
    parts.report(f"volume {volume.volume}: {format_size(size_bytes)} more count as dirty: {reason}")
    max_extents = parts.settings.host_batch_extents
    for batch in block_batches(blocks, volume, max_extents=max_extents):
        parts.outbox.send(volume, CommandKind.MARK_DIRTY, batch, note=f"recovered: {reason}")


def _close_sessions(
    parts: SessionParts, volume: Volume, unpublished: VolumeActivity, *, reopened: bool
) -> None:
    """Send SESSION_CLOSE of the sessions that are open on the volume. The caller holds the lock.

    A log that doesn't cover the volume doesn't name all its sessions. Each session whose log was
    lost may be one of them.
    """
    sessions = unpublished.sessions
    if not unpublished.covered:
        sessions = sessions | parts.log.state.lost
    for session in sorted(sessions - {parts.session}):
        parts.outbox.send(volume, CommandKind.SESSION_CLOSE, for_session=session, note="recovered")
    if not reopened:
        parts.outbox.send(volume, CommandKind.SESSION_CLOSE)


def _sessions_ended(parts: SessionParts, settling: Collection[Volume]) -> set[tuple[str, int]]:
    """Return (session, partition) of old sessions that have only these volumes open.

    Sessions whose log was lost are left out: nobody knows what they have open.
    """
    partitions = {volume.volume: volume.partition for volume in settling}
    state = parts.log.state
    elsewhere = {
        session
        for name, activity in state.volumes.items()
        if name not in partitions
        for session in activity.sessions
    }
    return {
        (session, partition)
        for name, partition in partitions.items()
        for session in state.volumes[name].sessions - elsewhere - state.lost - {parts.session}
    }
