"""Where a partition begins when a worker is given it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import OutOfRetention


@dataclass(frozen=True, slots=True)
class PartitionBounds:
    """Where one partition of the commands stands."""

    first_kept: int
    end: int
    committed: int | None


def plan_start_position(
    topic: str,
    partition: int,
    start: PartitionBounds,
    complete_through: int,
    volumes: Iterable[Volume],
) -> int:
    """The position from which commands are folded: what was committed, or where the log ends if that is before it.

    Nothing is committed before the changelog has it. A log that ends before it lost what was acknowledged, or the topic
    was made anew: what it doesn't hold is folded again. OutOfRetention where those commands are gone too.
    """
    assert start.committed is not None
    if complete_through + 1 >= start.committed:
        return start.committed
    if complete_through + 1 >= start.first_kept:
        return complete_through + 1
    lost = sorted(
        each.volume
        for each in volumes
        if each.partition == partition
        and max(each.origin_position, complete_through) + 1 < start.first_kept
    )
    if lost:
        names = ", ".join(lost[:5]) + (" …" if len(lost) > 5 else "")
        raise OutOfRetention(
            f"the log ends at position {complete_through} and the commands are kept from {start.first_kept} on: what lies "
            f"between is lost for the volumes {names}",
            where=f"topic {topic}, partition {partition}",
            next="Renew the generation of these volumes: their sites copy them in full.",
        )
    return start.first_kept
