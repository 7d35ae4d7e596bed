"""Topics of a Kafka cluster, their creation and deletion (TopicAdmin), and committed positions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from mirrorlog.adapters.kafka.client import (
    CHECK_BROKER,
    READ_UNCOMMITTED,
    REQUEST_S,
    ClientSettings,
    KafkaClient,
    answered,
)
from mirrorlog.errors import KafkaFailed
from mirrorlog.topics import CLIENT_GROUPS, TopicSpec, copies_in_sync, differing

_LEAST_S: Final = 0.1
"""The shortest timeout of a request, at a deadline that is over."""


class KafkaAdmin:
    """TopicAdmin of a cluster.

    What a consumer can ask for is asked by one, which never joins a group. The client for all else
    is made at its first use, because each client has threads and connections of its own.

    patience_s: how long a request is repeated while the cluster is unavailable.
    """

    def __init__(self, settings: ClientSettings, patience_s: float = 30.0) -> None:
        self._settings, self._patience_s = dict(settings), patience_s
        self._servers = str(self._settings.get("bootstrap.servers"))
        self._consumer = self._consumer_of(f"{CLIENT_GROUPS}asker")
        self._made_admin: KafkaClient | None = None
        self._lock = Lock()

    def _consumer_of(self, group: str) -> KafkaClient:
        """Return a consumer named after `group`. It never joins the group."""
        settings: ClientSettings = {
            **self._settings,
            "group.id": group,
            "enable.auto.commit": False,
            # Whoever asks for a topic that doesn't exist may create it, with the wrong settings.
            "allow.auto.create.topics": False,
            **READ_UNCOMMITTED,
        }
        return KafkaClient(Consumer, settings)

    @property
    def _admin(self) -> KafkaClient:
        """The client for what no consumer can ask for."""
        with self._lock:
            if self._made_admin is None:
                self._made_admin = KafkaClient(AdminClient, self._settings)
            return self._made_admin

    def wait_ready(self, deadline_s: float) -> None:
        """Return when a broker answers. KafkaFailed at the deadline."""
        until_s = monotonic() + deadline_s
        self._consumer.request(
            lambda timeout_s: self._consumer.raw.list_topics(
                timeout=min(timeout_s, max(until_s - monotonic(), _LEAST_S))
            ),
            patience_s=deadline_s,
            doing="asking for a broker",
            where=self._servers,
        )

    def brokers(self) -> int:
        """Return the number of brokers in the cluster."""
        return len(self._cluster().brokers)

    def cluster_id(self) -> str:
        """Return the id that the cluster gave itself when it was made."""
        return str(self._cluster().cluster_id)

    def create(self, specs: Sequence[TopicSpec], partitions: int, *, copies: int = 1) -> None:
        """Create the missing topics and wait for their leaders. Existing topics stay as they are.

        copies: the replication factor; all but one of the copies must be in sync.
        """
        durable = copies_in_sync(copies)
        wanted = [
            NewTopic(
                spec.name,
                1 if spec.one_partition else partitions,
                copies,
                config={**durable, **spec.config},
            )
            for spec in specs
        ]
        created = self._admin.raw.create_topics(wanted, request_timeout=REQUEST_S)
        for topic, future in created.items():
            _finish(future, topic, "created", ignored=KafkaError.TOPIC_ALREADY_EXISTS)
        self._await_leaders({spec.name for spec in specs})

    def set_config(self, topics: Sequence[str], config: Mapping[str, str]) -> list[str]:
        """Give existing topics these settings. Return the topics that had others, in order.

        Other settings of the topics stay. Raise KafkaFailed if the cluster refuses: reading and
        changing settings are rights of their own (DescribeConfigs and AlterConfigs).
        """

        where = f"topics {', '.join(topics)}"
        changed = sorted(
            topic for topic, known in self.configs(topics).items() if differing(config, known)
        )

        def alter(timeout_s: float) -> None:
            entries = [
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                for name, value in config.items()
            ]
            resources = [
                ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
                for topic in changed
            ]
            altered = self._admin.raw.incremental_alter_configs(
                resources, request_timeout=timeout_s
            )
            for future in altered.values():
                future.result(timeout_s + 1)

        if changed:
            self._admin.request(
                alter, patience_s=self._patience_s, doing="changing the settings", where=where
            )
        return changed

    def delete_before(self, topic: str, partition: int, position: int) -> None:
        """Delete the messages of a partition below a position. It is a right of its own (Delete).

        Raise KafkaFailed if the cluster refuses.
        """
        wanted = TopicPartition(topic, partition, position)

        def delete(timeout_s: float) -> None:
            deleted = self._admin.raw.delete_records([wanted], request_timeout=timeout_s)
            for future in deleted.values():
                future.result(timeout_s + 1)

        self._admin.request(
            delete,
            patience_s=self._patience_s,
            doing="deleting archived messages",
            where=f"topic {topic}, partition {partition}, below position {position}",
        )

    def configs(self, topics: Collection[str]) -> dict[str, dict[str, str | None]]:
        """Return the settings of existing topics, by topic and name, with the broker's defaults.

        A value is None if the cluster keeps it secret. Raise KafkaFailed if the cluster refuses.
        """
        if not topics:
            return {}

        def describe(timeout_s: float) -> dict[str, dict[str, str | None]]:
            resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
            described = self._admin.raw.describe_configs(resources, request_timeout=timeout_s)
            return {
                resource.name: {
                    name: entry.value for name, entry in future.result(timeout_s + 1).items()
                }
                for resource, future in described.items()
            }

        answer: dict[str, dict[str, str | None]] = self._admin.request(
            describe,
            patience_s=self._patience_s,
            doing="asking for the settings",
            where=f"topics {', '.join(sorted(topics))}",
        )
        return answer

    def _await_leaders(self, names: set[str]) -> None:
        """Return when every broker knows the topics: a new topic has no leader for a moment."""

        def check_leaders(timeout_s: float) -> None:
            topics = self._consumer.raw.list_topics(timeout=timeout_s).topics
            led = {
                name
                for name in names
                if name in topics and all(p.leader >= 0 for p in topics[name].partitions.values())
            }
            if led != names:
                raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))

        self._consumer.request(
            check_leaders,
            patience_s=self._patience_s,
            doing="waiting for the topics' leaders",
            where=", ".join(sorted(names)),
        )

    def copies(self, prefix: str) -> dict[str, list[int]]:
        """Return, for each topic that begins with `prefix`, the copies that each partition has."""
        return {
            name: [len(part.replicas) for _, part in sorted(topic.partitions.items())]
            for name, topic in self._cluster().topics.items()
            if name.startswith(prefix)
        }

    def names(self, prefix: str) -> set[str]:
        """Return the names of the topics that begin with `prefix`."""
        return {name for name in self._cluster().topics if name.startswith(prefix)}

    def delete(self, topics: Sequence[str]) -> None:
        """Delete topics with all their messages."""
        if not topics:
            return
        deleted = self._admin.raw.delete_topics(list(topics), request_timeout=REQUEST_S)
        for topic, future in deleted.items():
            _finish(future, topic, "deleted")

    def partitions(self, topic: str) -> int:
        """Return the number of partitions. Raise KafkaFailed if there is no such topic."""
        metadata = self._cluster(topic).topics.get(topic)
        if metadata is None or metadata.error is not None:
            raise KafkaFailed(
                "there is no such topic",
                where=f"topic {topic}",
                next="Run `mirrorlog topics create`.",
            )
        return len(metadata.partitions)

    def end_position(self, topic: str, partition: int) -> int:
        """Return the position that the next message will have."""
        return self.bounds(topic, partition)[1]

    def first_position(self, topic: str, partition: int) -> int:
        """Return the oldest position that is kept."""
        return self.bounds(topic, partition)[0]

    def appended_from(self, topic: str, partition: int, at_us: int) -> tuple[int, int]:
        """Return (position, end): of the first message with that time or later (TopicAdmin)."""
        # The end is asked for first: what is appended later isn't older than the time.
        end = self.end_position(topic, partition)
        wanted = [TopicPartition(topic, partition, at_us // 1000)]

        def position(timeout_s: float) -> int:
            raw = self._consumer.raw
            (answer,) = _without_errors(raw.offsets_for_times(wanted, timeout=timeout_s))
            return int(answer.offset)

        first = self._consumer.request(
            position,
            patience_s=self._patience_s,
            doing="asking for the position of a time",
            where=f"topic {topic}, partition {partition}",
        )
        return (min(first, end) if first >= 0 else end), end

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return (first_position, end_position) of a partition in one request."""

        def watermarks(timeout_s: float) -> tuple[int, int]:
            low, high = self._consumer.raw.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=timeout_s
            )
            return int(low), int(high)

        low, high = self._consumer.request(
            watermarks,
            patience_s=self._patience_s,
            doing="asking where the topic begins and ends",
            where=f"topic {topic}, partition {partition}",
        )
        return low, high

    def committed_positions(self, group: str, topic: str) -> dict[int, int | None]:
        """Return, by partition, the position that `group` committed; None where it never did."""
        wanted = [TopicPartition(topic, partition) for partition in range(self.partitions(topic))]
        committed = self._of_group(
            group,
            lambda consumer, timeout_s: consumer.committed(wanted, timeout=timeout_s),
            doing="asking for committed positions",
        )
        return {entry.partition: entry.offset if entry.offset >= 0 else None for entry in committed}

    def commit(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        """Commit positions, by partition, for a group without members.

        Raise KafkaFailed if the group has members.
        """
        wanted = [
            TopicPartition(topic, partition, position) for partition, position in positions.items()
        ]
        self._of_group(
            group,
            lambda consumer, _: consumer.commit(offsets=wanted, asynchronous=False),
            doing="committing positions",
        )

    def _of_group(
        self, group: str, ask: Callable[[Any, float], Sequence[TopicPartition]], doing: str
    ) -> Sequence[TopicPartition]:
        """Return what `ask` returns for a new consumer of the group and a timeout.

        An AdminClient has such requests, too. But it goes on asking the group's former coordinator
        when that broker is lost, and may end the process (confluentinc/librdkafka#4605, #5040).
        """
        consumer = self._consumer_of(group)
        try:
            told: Sequence[TopicPartition] = consumer.request(
                lambda timeout_s: _without_errors(ask(consumer.raw, timeout_s)),
                patience_s=self._patience_s,
                doing=doing,
                where=f"group {group}",
            )
            return told
        finally:
            consumer.raw.close()
            consumer.release()

    def identity(self, topic: str) -> str:
        """Return Kafka's id of the topic. It changes if the topic is deleted and created again."""

        def describe(timeout_s: float) -> str:
            wanted = TopicCollection([topic])
            described = self._admin.raw.describe_topics(wanted, request_timeout=timeout_s)
            return str(described[topic].result(timeout_s + 1).topic_id)

        return str(
            self._admin.request(
                describe,
                patience_s=self._patience_s,
                doing="asking for the topic's id",
                where=f"topic {topic}",
            )
        )

    def close(self) -> None:
        """Release the clients. A second call does nothing."""
        with suppress(KafkaException):  # it was released before
            self._consumer.raw.close()
        self._consumer.release()
        with self._lock:
            # What was released refuses every request, and is not made again.
            made, self._made_admin = self._made_admin, self._consumer
        if made is not None:
            made.release()

    def _cluster(self, topic: str | None = None) -> Any:
        """Return the cluster's metadata: its brokers, and all of its topics or one."""
        return self._consumer.request(
            lambda timeout_s: self._consumer.raw.list_topics(topic, timeout=timeout_s),
            patience_s=self._patience_s,
            doing="asking the cluster",
            where=self._servers,
        )


def _without_errors(answered: Sequence[TopicPartition]) -> Sequence[TopicPartition]:
    """Return what a request answered. Raise KafkaException if it failed for a partition."""
    for entry in answered:
        if entry.error is not None:
            raise KafkaException(entry.error)
    return answered


def _finish(future: Any, topic: str, done: str, *, ignored: int | None = None) -> None:
    """Wait for a request's future.

    Raise KafkaFailed if it fails with a code other than `ignored`.
    """
    try:
        answered(future.result, REQUEST_S)
    except KafkaException as error:
        if ignored is None or error.args[0].code() != ignored:
            raise KafkaFailed(
                f"the topic can't be {done}: {error}", where=f"topic {topic}", next=CHECK_BROKER
            ) from error
