"""Where the node begins to read the commands of a partition, after each assignment. Pure.

The log decides: its watermark says which commands it holds. What the consumer group has committed
is a hint that Kafka forgets (a group without members keeps its offsets for a week by default), and
that an operator may delete or move. So the node never begins above the watermark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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


def plan_first_commits(
    bounds: Mapping[int, PartitionBounds], log_ends: Mapping[int, int]
) -> dict[int, int]:
    """Return the position to commit for each partition whose log nobody has begun.

    It is the oldest position that is kept. Without it, a worker that dies between its first flush
    and its first commit would leave commands that the log holds and nobody has answered: the next
    worker would begin behind them.

    bounds: by partition, of the commands. log_ends: by partition, where the changelog ends.
    """
    return {
        partition: bound.first_kept
        for partition, bound in bounds.items()
        if bound.committed is None and log_ends[partition] == 0
    }


def plan_start_position(bounds: PartitionBounds, complete_through: int) -> int:
    """Return the position from which the commands of an assigned partition are folded.

    complete_through: the position through which the log is complete. It lies below the topic's end,
    and no volume needs a command between it and the first that is kept: otherwise the history of
    the partition has ended (streams/history/evidence.py), and is renewed first.

    It is the position behind `complete_through`, or the committed position if that is lower. A
    source position is committed only after the changelog holds its commands. So a log that ends
    below it has lost acknowledged records, or the changelog was created again, or an operator has
    moved the group ahead: what the log lacks is folded again. A group that was moved back has its
    commands folded and answered again, which changes nothing (invariant 3).
    """
    recorded_end = complete_through + 1
    start = recorded_end if bounds.committed is None else min(bounds.committed, recorded_end)
    return max(start, bounds.first_kept)
