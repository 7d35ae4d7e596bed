"""What brokers say of their partitions, and a client that knows what they have acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient  # type: ignore[attr-defined]
from deadlines import DEADLINE_S, wait_until
from notation import command

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.codec.events import encode
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.read_through import ReadPatience, read_through
from mirrorlog.settings import Settings


class BrokerView:
    """What the brokers say of leaders and of copies in sync. Brokers are named as services are."""

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


class CommandClient:
    """A client that publishes commands of no session for a volume, from a thread, at a pace.

    sent: the bytes of each command, in order. acknowledged: those of them that Kafka acknowledged,
    with their positions. acks: librdkafka's setting; with 1 the leader alone acknowledges, which
    no host lets it do.
    """

    def __init__(self, settings: Settings, volume: Volume, *, acks: str = "all") -> None:
        self.sent: list[bytes] = []
        self.acknowledged: list[tuple[int, bytes]] = []
        self._settings, self._volume = settings, volume
        self.topic, self.partition = settings.topics.commands, volume.partition
        kafka = {
            "bootstrap.servers": settings.bootstrap_servers,
            "acks": acks,
            "enable.idempotence": acks == "all",
            "message.timeout.ms": 0,
            "log_level": 0,  # it prints each failed connection
        }
        if acks != "all":
            kafka["max.in.flight"] = 1
        self._producer = Producer(kafka)
        self._stop = Event()
        self._thread = Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._publish()
            self._producer.poll(0.005)

    def _publish(self) -> None:
        number, volume = len(self.sent), self._volume
        made = command(
            f"{number % 1000 * 4096}+4096",
            name=volume.volume,
            sequence=-1,
            generation=volume.generation,
            session="none",
            first_at_us=number,
            last_at_us=number,
        )
        value = encode(made)

        def delivered(error: KafkaError | None, message: KafkaMessage) -> None:
            assert error is None, error
            self.acknowledged.append((message.offset() or 0, value))

        self.sent.append(value)
        self._producer.produce(self.topic, value, b"k", self.partition, on_delivery=delivered)

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Publish while the block runs, then wait until all is acknowledged."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join(DEADLINE_S)
        assert self._producer.flush(DEADLINE_S) == 0
        assert len(self.acknowledged) == len(self.sent)

    def wait_for_more(self, count: int = 20) -> None:
        """Return when so many more commands were acknowledged."""
        wanted = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= wanted, self._check)

    def _check(self) -> None:
        assert self._thread.is_alive(), "the client has ended"

    def losses(self) -> list[str]:
        """Return what the topic shows against "each acknowledged command once, and in order"."""
        topic, partition = self.topic, self.partition
        admin = KafkaAdmin(self._settings.kafka_client())
        reader = KafkaReader(self._settings.kafka_client())
        reader.assign(topic, {partition: None})
        ends = {partition: admin.end_position(topic, partition)}
        patience = ReadPatience(SystemClock(), DEADLINE_S, "the commands can't be read")
        held = {
            message.position: message.value or b""
            for message in read_through(reader, topic, ends, patience)
        }
        reader.close()
        admin.close()
        mine = set(self.sent)
        order = [value for _, value in sorted(held.items()) if value in mine]
        lost = [
            f"position {position} doesn't hold what was acknowledged there"
            for position, value in self.acknowledged
            if held.get(position) != value
        ]
        return lost + ([] if order == self.sent else [f"{len(order)} of {len(self.sent)} in order"])
