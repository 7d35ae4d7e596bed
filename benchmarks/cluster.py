"""The broker of a bench: topics made, filled, read back and reset."""

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
"""The broker stamps each message when it takes it: that is when the log holds it."""
CHANGELOG: Final = {"cleanup.policy": "compact", "flush.messages": "1", **_LOG_APPEND_TIME}
"""What every changelog has, mirrorlog's own and the peers'."""


class Cluster:
    """An embedded broker in `folder`, gone when it is left."""

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
        """bootstrap.servers."""
        return self._broker.bootstrap_servers

    def settings(self, prefix: str, state_dir: Path, partitions: int) -> Settings:
        """Settings of a node whose topics begin with `prefix`."""
        given: dict[str, Any] = {
            "bootstrap_servers": self.servers,
            "topic_prefix": prefix,
            "state_dir": state_dir,
        }
        return load_settings(None, given | {"partitions": partitions})

    def make_topics(self, settings: Settings) -> None:
        """Those of mirrorlog that aren't there, as mirrorlog makes them; the changelog tells when it took each message."""
        self.admin.create(
            [_stamped(spec, settings) for spec in settings.topics.specs(single_copy=True)],
            settings.partitions,
        )

    def make_changelog(self, name: str, partitions: int) -> None:
        """A peer's changelog."""
        self.admin.create([TopicSpec(name, CHANGELOG)], partitions)

    def describe(self, settings: Settings, volumes: Iterable[Volume]) -> None:
        """Publishes volumes' descriptions."""
        publisher = KafkaPublisher(settings.kafka_client())
        for volume in volumes:
            publish_volume(publisher, settings.topics, volume)
        publisher.flush(_DEADLINE_S)

    def publish(self, topic: str, publications: Iterable[Publication], compression: str) -> None:
        """Appends commands, with their own times."""
        producer = Producer(
            {
                "bootstrap.servers": self.servers,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "compression.type": compression,
                "queue.buffering.max.kbytes": 65536,
                "log_level": 2,  # that the broker has gone at the end is no news
            }
        )
        refused: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: object) -> None:
            if error is not None:
                refused.append(error)

        for each in publications:
            while True:
                try:
                    producer.produce(
                        topic,
                        each.value,
                        each.key,
                        each.partition,
                        on_delivery=delivered,
                        timestamp=each.at_ms,
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        if producer.flush(_DEADLINE_S) or refused:
            raise KafkaException(f"the commands couldn't be published: {refused[:1]}")

    def reset(self, settings: Settings, group: str) -> None:
        """Takes away all that a node made: its group, its log, its answers. The commands and the volumes stay."""
        topics = settings.topics
        self.forget_group(group)
        self.delete_topics([topics.changelog, topics.status, topics.quarantine])
        self.make_topics(settings)

    def delete_topics(self, names: Iterable[str]) -> None:
        """Removes those that are there, and returns when they are gone."""
        gone = set(names) & self.admin.names("")
        self.admin.delete(sorted(gone))
        wait_for(lambda: not gone & self.admin.names(""), _DEADLINE_S, "topics weren't removed")

    def forget_group(self, group: str) -> None:
        """Removes a consumer group, once its last member's session has run out."""

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
        """By partition, what the group has committed; nothing where it has committed nothing."""
        question = [ConsumerGroupTopicPartitions(group)]
        try:
            found = self._raw.list_consumer_group_offsets(question)[group].result(_DEADLINE_S)
        except KafkaException:
            return {}
        return {
            each.partition: each.offset
            for each in found.topic_partitions
            if each.topic == topic and each.offset >= 0
        }

    def ends(self, topic: str) -> dict[int, int]:
        """By partition, the position behind the last message."""
        return {
            number: self.admin.end_position(topic, number)
            for number in range(self.admin.partitions(topic))
        }

    def read(
        self, settings: Settings, topic: str, positions: Mapping[int, int | None] | None = None
    ) -> Iterator[Message]:
        """What the topic holds now, from these positions on; `at_us` is when the broker took it, where the topic says so."""
        reader = KafkaReader(settings.kafka_client())
        ends = self.ends(topic)
        reader.assign(topic, positions or dict.fromkeys(ends))
        try:
            while any(reader.reached(topic, number) < end for number, end in ends.items()):
                yield from reader.poll(0.5, max_messages=10_000)
        finally:
            reader.close()


class NotingReader:
    """A reader that shows every message to `note` as it hands it on."""

    def __init__(self, reader: KafkaReader, note: Callable[[Message], None]) -> None:
        self._reader, self._note = reader, note
        self.assign, self.reached, self.at_end, self.close = (
            reader.assign,
            reader.reached,
            reader.at_end,
            reader.close,
        )

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
        """What the reader polls."""
        messages = self._reader.poll(timeout_s, max_messages=max_messages)
        for message in messages:
            self._note(message)
        return messages


def _stamped(spec: TopicSpec, settings: Settings) -> TopicSpec:
    if spec.name != settings.topics.changelog:
        return spec
    return replace(spec, config={**spec.config, **_LOG_APPEND_TIME})


def wait_for(
    condition: Callable[[], bool], deadline_s: float, what: str, every_s: float = 0.05
) -> None:
    """Returns when the condition holds; TimeoutError at the deadline."""
    until = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{what} within {deadline_s:g} s")
        time.sleep(every_s)


def all_committed(committed: Mapping[int, int], ends: Mapping[int, int]) -> bool:
    """Whether every partition is committed up to its end."""
    return all(committed.get(partition, 0) >= end for partition, end in ends.items())
