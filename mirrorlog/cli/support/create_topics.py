"""The topics of a cluster, created for the `topics` command and for the demo."""

from __future__ import annotations

from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.settings import Settings


def create_topics(settings: Settings, partitions: int) -> list[str]:
    """Create the topics that don't exist yet; return the names of all.

    partitions: of the commands topic and of the changelog. Errors: KafkaFailed.
    """
    admin = KafkaAdmin(settings.kafka_client())
    admin.wait_ready(30)
    copies = settings.replication_factor or (3 if admin.brokers() >= 3 else 1)
    specs = settings.topics.specs(single_copy=copies == 1)
    admin.create(specs, partitions, copies=copies)
    admin.close()
    return [spec.name for spec in specs]
