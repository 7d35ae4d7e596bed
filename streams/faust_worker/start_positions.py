"""Where the node begins to read the commands of a partition: when it first starts, and after each
assignment. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import OutOfRetention


@dataclass(frozen=True, slots=True)
class PartitionBounds:
    """Positions of one partition of the commands topic.

    first_kept: the oldest position that retention has kept.
    end:        the position that the next command will have.
    committed:  the first position that the node's group has not committed; None if it never did.
    """

    first_kept: int
    end: int
    committed: int | None


def plan_first_commits(topic: str, all_bounds: Mapping[int, PartitionBounds]) -> dict[int, int]:
    """Return the position to commit for each partition that the group has never committed.

    It is the oldest position that is kept, so no command is skipped.

    Raise OutOfRetention if commands at or above a committed position are gone (invariant 7), or if
    the topic ends below a committed position: it was created again, and its positions no longer
    mean what they did.
    """
    for partition, bounds in all_bounds.items():
        if bounds.committed is None:
            continue
        where = f"topic {topic}, partition {partition}, committed {bounds.committed}"
        if bounds.committed < bounds.first_kept:
            raise OutOfRetention(
                f"commands up to position {bounds.first_kept - 1} were deleted before the node "
                "recorded them",
                where=where,
                next="Renew the generation of the partition's volumes, then reset the group to the "
                "oldest position.",
            )
        if bounds.committed > bounds.end:
            raise OutOfRetention(
                f"the topic ends at position {bounds.end}: it was created again, or lost "
                "acknowledged commands",
                where=where,
                next="Renew the generation of the partition's volumes, then reset the group.",
            )
    return {
        partition: bounds.first_kept
        for partition, bounds in all_bounds.items()
        if bounds.committed is None
    }


def plan_start_position(
    topic: str,
    partition: int,
    bounds: PartitionBounds,
    complete_through: int,
    volumes: Iterable[Volume],
) -> int:
    """Return the position from which the commands of an assigned partition are folded.

    It is the committed position, or the position after `complete_through`, where the log ends, if
    that is lower. A source position is committed only after the changelog holds its commands. So a
    log that ends below it has lost acknowledged records, or the changelog was created again: what
    the log lacks is folded again.

    Raise OutOfRetention if those commands are gone too and a volume's history needs them.
    """
    assert bounds.committed is not None
    if complete_through + 1 >= bounds.committed:
        return bounds.committed
    if complete_through + 1 >= bounds.first_kept:
        return complete_through + 1
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
            where=f"topic {topic}, partition {partition}",
            next="Renew the generation of these volumes: their sites copy them in full.",
        )
    return bounds.first_kept
