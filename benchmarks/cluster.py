"""The broker of a benchmark: creates, fills, reads and resets topics."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from workload import Publication

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.broker.embedded import EmbeddedBroker
from mirrorlog.broker.first_start import prepare_runtime
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.streams import Message
from mirrorlog.reading.catalog import publish_volume
from mirrorlog.settings import Settings, load_settings
from mirrorlog.topics import TopicSpec

_DEADLINE_S: Final = 60.0
_LOG_APPEND_TIME: Final = {"message.timestamp.type": "LogAppendTime"}
"""The broker sets the time of each message when it appends it, which is when the log holds it."""
CHANGELOG: Final = {"cleanup.policy": "compact", "flush.messages": "1", **_LOG_APPEND_TIME}
"""The configuration of every changelog: mirrorlog's own and the peers'."""


class Cluster:
    """An embedded broker, with its data in `folder`. It runs while the context lasts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        settings = load_settings()
        self._broker = EmbeddedBroker(folder / "broker", prepare_runtime(settings.cache_dir))

    def __enter__(self) -> Cluster:
        logging.getLogger("stamina").setLevel(logging.ERROR)
        self._broker.start()
        self.admin = KafkaAdmin({"bootstrap.servers": self.servers})
        self._raw = AdminClient({"bootstrap.servers": self.servers, "log_level": 2})
        return self

    def __exit__(self, *_: object) -> None:
        self._broker.stop()

    @property
    def servers(self) -> str:
        """Return the value of bootstrap.servers."""
        return self._broker.bootstrap_servers

    @property
    def broker_pid(self) -> int:
        """Return the process id of the broker."""
        return self._broker.pid

    def settings(self, prefix: str, state_dir: Path, partitions: int) -> Settings:
        """Return the settings of a node whose topics begin with `prefix`."""
        overrides: dict[str, Any] = {
            "bootstrap_servers": self.servers,
            "topic_prefix": prefix,
            "state_dir": state_dir,
        }
        return load_settings(None, overrides | {"partitions": partitions})

    def make_topics(self, settings: Settings) -> None:
        """Create mirrorlog's missing topics with mirrorlog's configuration.

        In addition the changelog's messages have the time at which the broker appended them.
        """
        self.admin.create(
            [_with_append_time(spec, settings) for spec in settings.topics.specs(single_copy=True)],
            settings.partitions,
        )

    def make_changelog(self, name: str, partitions: int) -> None:
        """Create the changelog of a peer."""
        self.admin.create([TopicSpec(name, CHANGELOG)], partitions)

    def describe(self, settings: Settings, volumes: Iterable[Volume]) -> None:
        """Publish the volumes' descriptions."""
        publisher = KafkaPublisher(settings.kafka_client())
        for volume in volumes:
            publish_volume(publisher, settings.topics, volume)
        publisher.flush(_DEADLINE_S)

    def publish(self, topic: str, publications: Iterable[Publication], compression: str) -> None:
        """Publish commands with their own times. KafkaException if the broker refuses one."""
        producer = Producer(
            {
                "bootstrap.servers": self.servers,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "compression.type": compression,
                "queue.buffering.max.kbytes": 65536,
                "log_level": 2,  # Don't log that the broker stops at the end.
            }
        )
        refused: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: object) -> None:
            if error is not None:
                refused.append(error)

        for publication in publications:
            while True:
                try:
                    producer.produce(
                        topic,
                        publication.value,
                        publication.key,
                        publication.partition,
                        on_delivery=delivered,
                        timestamp=publication.at_ms,
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        if producer.flush(_DEADLINE_S) or refused:
            raise KafkaException(f"publishing the commands: the broker refused {refused[:1]}")

    def reset(self, settings: Settings, group: str) -> None:
        """Remove a node's group, log and statuses. The commands and the volumes stay."""
        topics = settings.topics
        self.forget_group(group)
        self.delete_topics([topics.changelog, topics.status, topics.quarantine])
        self.make_topics(settings)

    def delete_topics(self, names: Iterable[str]) -> None:
        """Remove those of the topics that exist, and wait until they are gone."""
        existing = set(names) & self.admin.names("")
        self.admin.delete(sorted(existing))
        wait_for(lambda: not existing & self.admin.names(""), _DEADLINE_S, "topics weren't removed")

    def forget_group(self, group: str) -> None:
        """Remove a consumer group when the session of its last member has expired."""

        def removed() -> bool:
            try:
                self._raw.delete_consumer_groups([group])[group].result(_DEADLINE_S)
            except KafkaException as error:
                code = error.args[0].code()
                if code not in (KafkaError.GROUP_ID_NOT_FOUND, KafkaError.NON_EMPTY_GROUP):
                    raise
                return bool(code == KafkaError.GROUP_ID_NOT_FOUND)
            return True

        wait_for(removed, _DEADLINE_S, f"group {group} still has members")

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """Return the committed offset by partition. Partitions without one are left out."""
        request = [ConsumerGroupTopicPartitions(group)]
        try:
            offsets = self._raw.list_consumer_group_offsets(request)[group].result(_DEADLINE_S)
        except KafkaException:
            return {}
        return {
            entry.partition: entry.offset
            for entry in offsets.topic_partitions
            if entry.topic == topic and entry.offset >= 0
        }

    def ends(self, topic: str) -> dict[int, int]:
        """Return the position behind the last message, by partition."""
        return {
            number: self.admin.end_position(topic, number)
            for number in range(self.admin.partitions(topic))
        }

    def read(
        self, settings: Settings, topic: str, positions: Mapping[int, int | None] | None = None
    ) -> Iterator[Message]:
        """Yield the messages that the topic holds now.

        positions: where to begin in each partition; by default, at its beginning.
        The messages' `at_us` is when the broker appended them, if the topic is configured so.
        """
        reader = KafkaReader(settings.kafka_client())
        ends = self.ends(topic)
        reader.assign(topic, positions or dict.fromkeys(ends))
        try:
            while any(reader.reached(topic, number) < end for number, end in ends.items()):
                yield from reader.poll(0.5, max_messages=10_000)
        finally:
            reader.close()


class ObservedReader:
    """A reader that passes every message to `observe` before it returns it."""

    def __init__(self, reader: KafkaReader, observe: Callable[[Message], None]) -> None:
        self._reader, self._observe = reader, observe
        self.assign, self.reached, self.at_end, self.close = (
            reader.assign,
            reader.reached,
            reader.at_end,
            reader.close,
        )

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
        """Return what the reader polls."""
        messages = self._reader.poll(timeout_s, max_messages=max_messages)
        for message in messages:
            self._observe(message)
        return messages


def _with_append_time(spec: TopicSpec, settings: Settings) -> TopicSpec:
    """Return the topic's specification, with LogAppendTime for the changelog."""
    if spec.name != settings.topics.changelog:
        return spec
    return replace(spec, config={**spec.config, **_LOG_APPEND_TIME})


def wait_for(
    condition: Callable[[], bool], deadline_s: float, what: str, every_s: float = 0.05
) -> None:
    """Wait until the condition holds. TimeoutError, with the text `what`, at the deadline."""
    until = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{what} within {deadline_s:g} s")
        time.sleep(every_s)


def all_committed(committed: Mapping[int, int], ends: Mapping[int, int]) -> bool:
    """Return whether every partition is committed up to its end."""
    return all(committed.get(partition, 0) >= end for partition, end in ends.items())
