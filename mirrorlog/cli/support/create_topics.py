"""The topics of a cluster, created for the `topics` command and for the demo."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.errors import BadUse
from mirrorlog.reading.partition_counts import check_partition_counts
from mirrorlog.settings import Settings
from mirrorlog.topics import BROKER_TIME


@dataclass(frozen=True, slots=True)
class CreatedTopics:
    """What create_topics did.

    names: of all topics. made_broker_time: those that existed and held the times of hosts.
    """

    names: Sequence[str]
    made_broker_time: Sequence[str]


def create_topics(settings: Settings, partitions: int | None = None) -> CreatedTopics:
    """Create the topics that don't exist yet, and let all hold the broker's time.

    Where the log is read from a mirror (kafka_mirror_of), the topics of a mirrored site alone.

    partitions: of the commands topic, the log and the status topic; None: as many as those that
    exist have, or those of the settings.

    Raise BadUse if topics exist with another number of partitions than asked for; KafkaFailed,
    before anything is changed, if they differ from each other.
    """
    with closing(KafkaAdmin(settings.kafka_client())) as admin:
        admin.wait_ready(30)
        existing = admin.names(settings.topic_prefix)
        copies = settings.replication_factor or (3 if admin.brokers() >= 3 else 1)
        if settings.kafka_mirror_of:
            specs = settings.topics.mirror_specs()
            admin.create(specs, 1, copies=copies)
            return CreatedTopics([spec.name for spec in specs], [])
        count = _partitions_of(settings, admin, existing)
        if count is not None and partitions not in (None, count):
            raise BadUse(
                f"the topics exist with {count} partitions, which is final, and {partitions} "
                "were asked for",
                next="Leave --partitions out.",
            )
        specs = settings.topics.specs(single_copy=copies == 1)
        names = [spec.name for spec in specs]
        admin.create(specs, count or partitions or settings.partitions, copies=copies)
        old = [name for name in names if name in existing]
        return CreatedTopics(names, admin.set_config(old, BROKER_TIME) if old else [])


def _partitions_of(settings: Settings, admin: KafkaAdmin, existing: set[str]) -> int | None:
    """Return the number of partitions of the existing topics, None if there are none."""
    topics = settings.topics
    counts = {
        name: admin.partitions(name)
        for name in (topics.commands, topics.changelog, topics.status)
        if name in existing
    }
    return check_partition_counts(counts) if counts else None
