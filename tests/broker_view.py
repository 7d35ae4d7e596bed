"""What the brokers of docker-compose.yml say of leaders and of copies in sync."""

from __future__ import annotations

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient  # type: ignore[attr-defined]
from deadlines import wait_until

from mirrorlog.settings import Settings


class BrokerView:
    """What the brokers say. They are named as their services are."""

    def __init__(self, settings: Settings) -> None:
        self._admin = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
        self._prefix = settings.topic_prefix

    def leader(self, topic: str, partition: int) -> str:
        """Return the leader of a partition."""
        answered = self._admin.list_topics(topic, timeout=60)
        return f"kafka-{answered.topics[topic].partitions[partition].leader}"

    def in_sync(self) -> list[set[str]]:
        """Return the brokers in sync of each partition of mirrorlog; an empty list if none says."""
        try:
            topics = self._admin.list_topics(timeout=5).topics
        except KafkaException:
            return []
        return [
            {f"kafka-{broker}" for broker in partition.isrs}
            for name, topic in topics.items()
            if name.startswith(self._prefix)
            for partition in topic.partitions.values()
        ]

    def wait_for_all(self) -> None:
        """Return when every partition has three copies in sync."""
        wait_until(lambda: {len(brokers) for brokers in self.in_sync()} == {3}, every_s=0.5)

    def wait_without(self, broker: str) -> None:
        """Return when no partition counts on the broker any more."""
        wait_until(
            lambda: (seen := self.in_sync()) and not any(broker in brokers for brokers in seen),
            every_s=0.5,
        )
