"""How many partitions the topics have: one number for all that a volume's partition stands for."""

from __future__ import annotations

from collections.abc import Mapping

from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.streams import TopicAdmin
from mirrorlog.topics import Topics


def partition_count(admin: TopicAdmin, topics: Topics) -> int:
    """Return the number of partitions of the commands topic, the log and the status topic.

    Call it before anything is published or read by partition. A volume keeps the partition that its
    description names, whatever the number.

    Raise KafkaFailed if a topic is missing, or if the numbers differ (`check_partition_counts`).
    """
    names = (topics.commands, topics.changelog, topics.status)
    return check_partition_counts({name: admin.partitions(name) for name in names})


def check_partition_counts(counts: Mapping[str, int]) -> int:
    """Return the number of partitions that all the topics have. Pure.

    counts: by topic; at least one. A command of a partition is recorded in the log's partition of
    the same number, and answered in that of the status topic.

    Raise KafkaFailed if the numbers differ: partitions were added to some of the topics.
    """
    most = max(counts.values())
    if min(counts.values()) == most:
        return most
    raise KafkaFailed(
        "the topics must have equally many partitions, and don't",
        where=", ".join(f"topic {name}: {count}" for name, count in counts.items()),
        next=f"Add partitions to the others, so that each has {most}, then start again. Volumes "
        "keep the partitions that they have.",
    )


def check_unchanged(counts: Mapping[str, int], started_with: int) -> int:
    """Return the number of partitions that all the topics have: `started_with`. Pure.

    Raise KafkaFailed if the numbers differ, or if partitions were added to all topics.
    """
    count = check_partition_counts(counts)
    if count != started_with:
        raise KafkaFailed(
            f"the topics have {count} partitions now, and had {started_with} when this worker "
            "started",
            where=", ".join(f"topic {name}" for name in counts),
            next="Start every worker again.",
        )
    return count
