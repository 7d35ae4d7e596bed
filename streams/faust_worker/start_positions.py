"""Where the node begins to read the commands of a partition, after each assignment. Pure.

The log decides: its watermark says which commands it holds. What the consumer group has committed
is a hint that Kafka forgets (a group without members keeps its offsets for a week by default), and
that an operator may delete or move. So the node never begins above the watermark.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import OutOfRetention


@dataclass(frozen=True, slots=True)
class PartitionBounds:
    """Positions of one partition of the commands topic.

    first_kept: the oldest position that retention has kept.
    end:        the position that the next command will have.
    committed:  the first position that the node's group has not committed; None if it has committed
                nothing, or Kafka doesn't know of it any more.
    """

    first_kept: int
    end: int
    committed: int | None


def plan_start_position(
    topic: str,
    partition: int,
    bounds: PartitionBounds,
    complete_through: int,
    volumes: Iterable[Volume],
) -> int:
    """Return the position from which the commands of an assigned partition are folded.

    complete_through: the position through which the log is complete.

    It is the position behind `complete_through`, or the committed position if that is lower. A
    source position is committed only after the changelog holds its commands. So a log that ends
    below it has lost acknowledged records, or the changelog was created again, or an operator has
    moved the group ahead: what the log lacks is folded again. A group that was moved back has its
    commands folded and answered again, which changes nothing (invariant 3).

    Raise OutOfRetention if commands that the log lacks are gone and a volume's history needs them
    (invariant 7), or if the topic ends below the log: it was created again, and its positions no
    longer mean what they did.
    """
    where = f"topic {topic}, partition {partition}"
    recorded_end = complete_through + 1
    if recorded_end > bounds.end:
        raise OutOfRetention(
            f"the topic ends at position {bounds.end}, and the log is complete through "
            f"{complete_through}: the topic was created again, or lost acknowledged commands",
            where=where,
            next="Renew the generation of the partition's volumes.",
        )
    if recorded_end < bounds.first_kept:
        _check_nothing_lost(where, partition, bounds, complete_through, volumes)
        return bounds.first_kept
    start = recorded_end if bounds.committed is None else min(bounds.committed, recorded_end)
    return max(start, bounds.first_kept)


def _check_nothing_lost(
    where: str,
    partition: int,
    bounds: PartitionBounds,
    complete_through: int,
    volumes: Iterable[Volume],
) -> None:
    """Raise OutOfRetention if a volume needs a command between the log and `first_kept`."""
    lost = sorted(
        volume.volume
        for volume in volumes
        if volume.partition == partition
        and max(volume.origin_position, complete_through) + 1 < bounds.first_kept
    )
    if lost:
        names = ", ".join(lost[:5]) + (" …" if len(lost) > 5 else "")
        raise OutOfRetention(
            f"the log ends at position {complete_through} and the commands are kept from "
            f"{bounds.first_kept} on: what lies between is lost for the volumes {names}",
            where=where,
            next="Renew the generation of these volumes: their sites copy them in full.",
        )
