"""What shows, when a partition is assigned, that its history ended. Pure.

The positions of the log are held against the commands topic as it is now. The descriptions of
volumes are held against both, because they lie in a topic of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import Volume
from mirrorlog.tracking_log.breaks import CommandsNow, break_reason
from mirrorlog.tracking_log.heads import Watermark

AnchorAt: TypeAlias = Callable[[int], bytes | None]
"""Returns the digest of the command at a position, None if none is kept there."""


@dataclass(frozen=True, slots=True)
class KnownWatermark:
    """A watermark, and the commands topic as it was asked about after that."""

    watermark: Watermark
    now: CommandsNow


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignedPartition:
    """The facts about a partition that was just assigned.

    of_log: the watermark of the log; None if the log has none.
    of_discarded: that of a table which was discarded, because the changelog no longer holds its
        rows; None if none was.
    newest_epoch: the highest epoch that a head or a watermark names, in the log or in such a table.
    replaced: the volumes whose head in the log is of an earlier history than its watermark.
    topic: Kafka's id of the commands topic.
    first_kept, end: of the commands topic, as PartitionBounds says.
    volumes: the descriptions of the partition's volumes.
    """

    of_log: KnownWatermark | None
    of_discarded: KnownWatermark | None
    newest_epoch: int
    replaced: Sequence[str]
    topic: str | None
    first_kept: int
    end: int
    volumes: Sequence[Volume]


def ended_reason(partition: AssignedPartition) -> str | None:
    """Return what shows that the partition's history ended; None if nothing does.

    The first case that applies is named:

    1. A volume's description is of a later history than the log: a renewal wasn't finished. Or the
       log is lost, and the descriptions don't name this commands topic, or not one history: else
       the log is folded again in the history that it had.
    2. A head, or a table that was discarded, is of a later history than the log: log and
       descriptions went back in time behind a renewal. Two histories must not have one epoch, so
       the next one goes beyond it. Or a head is of an earlier one: a worker that had lost the
       partition wrote it after the renewal, in the place of the head that counted.
    3. The log and the commands topic contradict each other (break_reason).
    4. A table that was discarded contradicts the commands topic: log and commands went back in time
       together.
    5. A volume's description names a position that the commands topic hasn't reached.
    6. Retention deleted commands that the log lacks and that a volume needs.
    """
    if reason := _epochs_reason(partition):
        return reason
    for known in (partition.of_log, partition.of_discarded):
        if known is not None and (reason := break_reason(known.watermark, known.now)):
            return reason
    for volume in partition.volumes:
        position = max(volume.origin_position, volume.described_position)
        if position >= partition.end:
            return (
                f"volume {volume.volume} is described as of position {position}, and the commands "
                f"topic ends at position {partition.end}"
            )
    return _lost_reason(partition)


def _epochs_reason(partition: AssignedPartition) -> str | None:
    """Return how descriptions or rows contradict the log, or the topic if the log is lost."""
    described = [volume for volume in partition.volumes if volume.history_id is not None]
    if partition.of_log is not None:
        epoch = partition.of_log.watermark.epoch
        if later := _names(volume for volume in described if volume.epoch > epoch):
            return (
                f"the log is of the history of epoch {epoch}, and the descriptions of {later} are "
                "of a later one: a renewal wasn't finished, or the log went back in time"
            )
        if partition.newest_epoch > epoch:
            return (
                f"the log is of the history of epoch {epoch}, and rows of epoch "
                f"{partition.newest_epoch} are known: the log went back in time behind a renewal"
            )
        if partition.replaced:
            return (
                f"the log is of the history of epoch {epoch}, and heads of an earlier one took the "
                f"place of those of the volumes {', '.join(partition.replaced[:5])}: a worker that "
                "had lost the partition wrote them"
            )
        return None
    if gone := _names(volume for volume in described if volume.topic_id != partition.topic):
        return (
            f"the log is lost, and the commands topic isn't the one in which {gone} were described"
        )
    if len({volume.history_id for volume in described}) > 1:
        return "the log is lost, and the volumes were described in more than one history"
    return None


def _lost_reason(partition: AssignedPartition) -> str | None:
    """Return which commands are gone that the log lacks and that a volume needs; None if none."""
    log_end = partition.of_log.watermark.through if partition.of_log else BEFORE_FIRST
    if log_end + 1 >= partition.first_kept:
        return None
    lost = _names(
        volume
        for volume in partition.volumes
        if max(volume.origin_position, log_end) + 1 < partition.first_kept
    )
    if not lost:
        return None
    return (
        f"the log ends at position {log_end} and the commands are kept from {partition.first_kept} "
        f"on: what lies between is lost for the volumes {lost}"
    )


def _names(volumes: Iterable[Volume]) -> str:
    """Return the first few names, with commas; an empty text for no volume."""
    names = sorted(volume.volume for volume in volumes)
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


def unbroken_through(
    notes: Sequence[Watermark], anchors: AnchorAt, *, first_kept: int, end: int
) -> int:
    """Return a position through which the commands topic is still the one that the log recorded.

    notes: watermarks of the history that ended, in any order. anchors: reads the digest of the
    command at a position now. Return first_kept - 1 if no note is known to hold.

    A topic is only ever appended to, so the commands at and below a note whose command is still the
    same are all the same. The newest such note is found by bisection, with a read for each look.
    """
    kept = {
        note.through: note.anchor
        for note in notes
        if note.anchor is not None and first_kept <= note.through < end
    }
    positions = sorted(kept)
    low, high = 0, len(positions)
    while low < high:
        middle = (low + high) // 2
        if anchors(positions[middle]) == kept[positions[middle]]:
            low = middle + 1
        else:
            high = middle
    return positions[low - 1] if low else first_kept - 1
