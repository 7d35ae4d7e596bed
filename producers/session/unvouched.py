"""What a host can't vouch for, because the log knows more of it than its state folder.

After a crash the folder names the regions that were hot, and the primary holds every other write of
the dead session. That isn't so if the folder and the primary went back in time together, as a
virtual machine does when a snapshot of its disks is restored: the log then names writes that the
primary lacks, and sites hold them. Nothing in the folder tells the two apart. But the folder holds
a position (`known_through`): each command at or below it is older than the folder's state. So
everything that the log names after it is dirty again. After a crash that is what the last
NOTE_S seconds published, which costs little.

If it is proved that the folder went back, the whole volume is dirty: a site may have read a write
from the primary that no command ever named, and only the lost state of the folder knew its region.
These are proofs:

- The log knows a session of the same host that the folder doesn't, and that wrote. (Or the folder
  was copied, or another folder served the volume under this name.)
- The session that the folder calls open was heard of long after the folder's last note.
- The commands end below the position that the folder knows, or belong to another history.

It is also dirty while the log leaves out sessions of the volume: any of these could be the proof.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.volumes import Volume
from mirrorlog.producers.durable.activity_format import KnownPosition, VolumeActivity
from mirrorlog.reading.open_sessions import KnownSessions, PartitionSessions

NOTE_S: Final = 5.0
"""How often a session notes in its activity log how far its commands are acknowledged."""
LATE_S: Final = 3 * NOTE_S
"""A session that was heard of this long after its last note has made notes that are lost."""
FindChanges: TypeAlias = Callable[[Mapping[str, int]], Mapping[str, BlockSet | None]]
"""Finds the blocks that changed after positions, by volume; None where nobody can tell."""


@dataclass(frozen=True, slots=True, eq=False)
class Unvouched:
    """What of a volume is dirty although the activity log calls it published.

    blocks: None for the whole volume.
    """

    blocks: BlockSet | None
    reason: str


def find_unvouched(
    host: str,
    volumes: Collection[Volume],
    activities: Mapping[str, VolumeActivity],
    lost: Collection[str],
    known: KnownSessions,
    find_changes: FindChanges,
    *,
    region_bytes: int,
) -> dict[str, Unvouched]:
    """Return what the host can't vouch for, by volume; volumes without a doubt are left out.

    Volumes that are dirty as a whole anyway are left out, too, and so are those whose activity log
    comes from a version that noted no position.

    host: the host's name. activities: by volume, what the state folder says.
    lost: the sessions whose log was damaged.
    """
    unvouched: dict[str, Unvouched] = {}
    positions: dict[str, int] = {}
    for volume in volumes:
        name, activity = volume.volume, activities[volume.volume]
        noted = activity.known_through
        if noted is None or activity.is_whole_volume_dirty:
            continue
        position, partition = noted.position, known.partition_of(name)
        reason = went_back_reason(host, partition, name, noted, activity.sessions, lost)
        if reason is not None:
            unvouched[name] = Unvouched(None, reason)
        elif partition.names_after(name, position):
            positions[name] = position
    changed = find_changes(positions) if positions else {}
    by_name = {volume.volume: volume for volume in volumes}
    for name, blocks in changed.items():
        since = f"after position {positions[name]}, the last that the host's state folder knows"
        if blocks is None:
            unvouched[name] = Unvouched(None, f"the log no longer says what changed {since}")
            continue
        regions = activities[name].regions
        left = blocks - _blocks_inside(regions, region_bytes, by_name[name].block_size)
        if left:
            unvouched[name] = Unvouched(left, f"the log names them {since}")
    return unvouched


def went_back_reason(
    host: str,
    partition: PartitionSessions,
    volume: str,
    noted: KnownPosition,
    own_sessions: Collection[str],
    lost: Collection[str],
) -> str | None:
    """Return the proof that the folder doesn't continue the volume's history; None if none.

    host: the host's name. noted: what the folder noted last. own_sessions: those that it calls
    open. lost: the sessions whose log was damaged.
    """
    known_through = noted.position
    history = partition.history_id
    if partition.is_broken or (history and noted.history not in ("", history)):
        return (
            f"the history of the partition is another one than that in which the host's state "
            f"folder knows position {known_through}"
        )
    if partition.end <= known_through:
        return (
            f"the commands end at position {partition.end}, and the host's state folder knows "
            f"position {known_through}: the topic lost its end or was made again"
        )
    if partition.heads[volume].has_left_out:
        return (
            "the volume has more open sessions than the log names, and some may be of this host, "
            "unknown to its state folder"
        )
    for session in partition.heads[volume].sessions:
        if session.session in own_sessions and session.opened_position <= known_through:
            heard_at_us = max(session.last_at_us, partition.beats[session.session])
            late_s = (heard_at_us - noted.at_us) / 1e6
            if late_s > LATE_S:
                return (
                    f"session {session.session} was heard of {late_s:.0f} s after the last note in "
                    "the host's state folder: the folder went back in time"
                )
        # A session that was refused the volume sent its SESSION_OPEN alone.
        wrote = session.last_position > session.opened_position > known_through
        is_known = session.session in own_sessions or session.session in lost
        if session.host == host and wrote and not is_known:
            return (
                f"the log knows session {session.session} of host '{host}', which the host's state "
                "folder doesn't know: the folder went back in time, or another folder was used "
                "under this name"
            )
    return None


def _blocks_inside(regions: Collection[int], region_bytes: int, block_size: int) -> BlockSet:
    """Return the blocks that lie whole in one of the regions."""
    blocks = BlockSet()
    for region in regions:
        first = -(-region * region_bytes // block_size)
        end = (region + 1) * region_bytes // block_size
        if first < end:
            blocks.add_range(first, end)
    return blocks
