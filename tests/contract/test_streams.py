"""The contract of the ports to Kafka, for the broker in memory and for a real one."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from deadlines import DEADLINE_S

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.broker.embedded import EmbeddedBroker
from mirrorlog.broker.first_start import prepare_runtime
from mirrorlog.errors import KafkaFailed, OutOfRetention
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.streams import AppendTime, Message, Publisher, TopicAdmin, TopicReader
from mirrorlog.reading.catalog import Catalog, new_volume, publish_volume
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.topics import BROKER_TIME, Topics, TopicSpec


class Cluster:
    """The clients of one broker, and a topic of its own for each test.

    open_transaction: publishes messages to a partition in a transaction, which it leaves open, and
        returns the function that aborts it.
    """

    def __init__(
        self,
        admin: Any,
        publisher: Callable[[], Publisher],
        reader: Callable[[], TopicReader],
        open_transaction: Callable[[str, int, Sequence[bytes]], Callable[[], None]],
    ) -> None:
        self.admin, self.publisher, self.reader = admin, publisher, reader
        self.open_transaction = open_transaction
        self.topic = f"t-{uuid.uuid4().hex[:8]}"

    def create(self, **config: str) -> None:
        self.admin.create([TopicSpec(self.topic, config)], 2)


@pytest.fixture(scope="module")
def servers(fast_root: Path) -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(dir=fast_root, prefix="contract-broker-"))
    with EmbeddedBroker(folder, prepare_runtime(Settings().cache_dir)) as broker:
        yield broker.bootstrap_servers


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.integration)])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param == "memory":
        broker = MemoryBroker(clock=SystemClock())
        yield Cluster(broker, broker.publisher, broker.reader, partial(in_memory, broker))
        return
    servers = request.getfixturevalue("servers")
    # A setting that the clients must not follow.
    client = {"bootstrap.servers": servers, "isolation.level": "read_committed"}
    admin = KafkaAdmin(client)
    yield Cluster(
        admin,
        lambda: KafkaPublisher(client),
        lambda: KafkaReader(client),
        partial(in_kafka, servers),
    )
    admin.close()


def in_memory(
    broker: MemoryBroker, topic: str, partition: int, values: Sequence[bytes]
) -> Callable[[], None]:
    for value in values:
        broker.append(topic, partition, None, value)
    return lambda: broker.append_marker(topic, partition)


def in_kafka(
    servers: str, topic: str, partition: int, values: Sequence[bytes]
) -> Callable[[], None]:
    producer = Producer({"bootstrap.servers": servers, "transactional.id": topic})
    producer.init_transactions(DEADLINE_S)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(DEADLINE_S) == 0
    return lambda: producer.abort_transaction(DEADLINE_S)


def read(reader: TopicReader, count: int) -> Sequence[Message]:
    messages: list[Message] = []
    until = time.monotonic() + DEADLINE_S
    while len(messages) < count:
        assert time.monotonic() < until, messages
        messages += reader.poll(0.2)
    return messages


def test_messages_are_read_in_order_at_their_acknowledged_positions(
    cluster: Cluster,
) -> None:
    cluster.create()
    publisher, positions = cluster.publisher(), list[int]()
    for number in range(50):
        publisher.publish(cluster.topic, 1, b"k", str(number).encode(), positions.append)
    publisher.flush(DEADLINE_S)
    assert positions == list(range(50))
    reader = cluster.reader()
    reader.assign(cluster.topic, {0: None, 1: None})
    messages = read(reader, 50)
    assert [(m.topic, m.partition, m.position, m.value) for m in messages] == [
        (cluster.topic, 1, number, str(number).encode()) for number in range(50)
    ]
    assert reader.reached(cluster.topic, 1) == 50
    reader.close()
    publisher.close()


def test_nothing_is_acknowledged_before_poll_or_flush(cluster: Cluster) -> None:
    cluster.create()
    publisher, positions = cluster.publisher(), list[int]()
    publisher.publish(cluster.topic, 0, b"k", b"v", positions.append)
    assert positions == []
    publisher.flush(DEADLINE_S)
    assert positions == [0]
    publisher.close()


def test_reading_begins_at_the_assigned_position(cluster: Cluster) -> None:
    cluster.create()
    publisher = cluster.publisher()
    for number in range(5):
        publisher.publish(cluster.topic, 0, b"k", str(number).encode())
    publisher.flush(DEADLINE_S)
    reader = cluster.reader()
    reader.assign(cluster.topic, {0: 3})
    assert [m.position for m in read(reader, 2)] == [3, 4]
    reader.close()
    publisher.close()


def test_a_partition_that_is_removed_is_read_no_more_and_can_be_added_again(
    cluster: Cluster,
) -> None:
    cluster.create()
    publisher = cluster.publisher()
    for number in range(3):
        publisher.publish(cluster.topic, 0, b"k", str(number).encode())
    publisher.flush(DEADLINE_S)
    reader = cluster.reader()
    reader.assign(cluster.topic, {0: None, 1: None})
    assert len(read(reader, 3)) == 3
    reader.unassign(cluster.topic, [0])
    for partition in (0, 1):
        publisher.publish(cluster.topic, partition, b"k", b"later")
    publisher.flush(DEADLINE_S)
    assert [m.partition for m in read(reader, 1)] == [1]
    reader.assign(cluster.topic, {0: 1})
    assert [m.position for m in read(reader, 3)] == [1, 2, 3]
    reader.close()
    publisher.close()


def test_a_position_that_does_not_exist_is_an_error_until_reading_begins_elsewhere(
    cluster: Cluster,
) -> None:
    cluster.create()
    publisher = cluster.publisher()
    for number in range(3):
        publisher.publish(cluster.topic, 0, b"k", str(number).encode())
    publisher.flush(DEADLINE_S)
    reader = cluster.reader()
    reader.assign(cluster.topic, {0: 7})
    until = time.monotonic() + DEADLINE_S
    with pytest.raises(OutOfRetention):
        while time.monotonic() < until:
            reader.poll(0.2)
    reader.assign(cluster.topic, {0: None})
    assert [m.position for m in read(reader, 3)] == [0, 1, 2]
    assert reader.reached(cluster.topic, 0) == 3
    reader.close()
    publisher.close()


def test_the_admin_knows_ends_and_partitions_and_creating_twice_is_harmless(
    cluster: Cluster,
) -> None:
    cluster.create()
    cluster.create()
    admin: TopicAdmin = cluster.admin
    assert admin.partitions(cluster.topic) == 2
    assert (admin.first_position(cluster.topic, 0), admin.end_position(cluster.topic, 0)) == (0, 0)
    publisher = cluster.publisher()
    publisher.publish(cluster.topic, 0, b"k", b"v")
    publisher.flush(DEADLINE_S)
    assert admin.end_position(cluster.topic, 0) == 1
    with pytest.raises(KafkaFailed):
        admin.partitions("no-such-topic")
    publisher.close()


def test_a_cluster_has_an_id_that_stays(cluster: Cluster) -> None:
    first = cluster.admin.cluster_id()
    assert first and first != "None"
    cluster.create()
    assert cluster.admin.cluster_id() == first


def test_the_end_of_an_empty_partition_is_reached(cluster: Cluster) -> None:
    cluster.create()
    reader = cluster.reader()
    reader.assign(cluster.topic, {0: None})
    until = time.monotonic() + DEADLINE_S
    while reader.reached(cluster.topic, 0) < 0:
        assert time.monotonic() < until
        reader.poll(0.2)
    reader.close()


def test_at_end_is_true_only_behind_the_last_message(cluster: Cluster) -> None:
    cluster.create()
    publisher, reader = cluster.publisher(), cluster.reader()
    reader.assign(cluster.topic, {0: None})
    for _ in range(2):  # twice: the end moves on
        for _ in range(3):
            publisher.publish(cluster.topic, 0, b"k", b"v")
        publisher.flush(DEADLINE_S)
        messages: list[Message] = []
        until = time.monotonic() + DEADLINE_S
        while len(messages) < 3:
            messages += reader.poll(0.2, max_messages=1)
            assert len(messages) == 3 or not messages or not reader.at_end(cluster.topic, 0)
            assert time.monotonic() < until
        while not reader.at_end(cluster.topic, 0):
            assert reader.poll(0.2) == []
            assert time.monotonic() < until
    reader.close()
    publisher.close()


def test_a_refused_message_is_an_error_and_is_not_acknowledged(cluster: Cluster) -> None:
    cluster.create(**{"max.message.bytes": "200"})
    if isinstance(cluster.admin, MemoryBroker):
        cluster.admin.refused_topics.add(cluster.topic)
    publisher, positions = cluster.publisher(), list[int]()
    with pytest.raises(KafkaFailed):
        publisher.publish(cluster.topic, 0, b"k", bytes(range(256)) * 4, positions.append)
        publisher.flush(DEADLINE_S)
    assert positions == []
    publisher.close()


def test_the_catalog_knows_every_description_published_before_its_refresh(cluster: Cluster) -> None:
    topics = Topics(f"{cluster.topic}.")
    cluster.admin.create(topics.specs(single_copy=True), 2)
    catalog = Catalog(cluster.reader(), cluster.admin, topics, SystemClock())
    publisher = cluster.publisher()
    for number in range(3):
        publish_volume(
            publisher,
            topics,
            new_volume(
                f"v{number}",
                size_bytes=4096 * (number + 1),
                block_size=4096,
                primary="file:///p",
                ends=[0, 0],
                now_us=1,
            ),
        )
    publisher.flush(DEADLINE_S)
    catalog.refresh()
    assert {name: volume.size_bytes for name, volume in catalog.items()} == {
        "v0": 4096,
        "v1": 8192,
        "v2": 12288,
    }
    publish_volume(
        publisher,
        topics,
        new_volume(
            "v1", size_bytes=1 << 20, block_size=4096, primary="file:///p", ends=[0, 0], now_us=1
        ),
    )
    publisher.flush(DEADLINE_S)
    catalog.refresh()
    assert catalog["v1"].size_bytes == 1 << 20
    catalog.close()
    publisher.close()


def test_a_topic_that_does_not_exist_is_an_error(cluster: Cluster) -> None:
    with pytest.raises(KafkaFailed, match="there is no such topic"):
        cluster.admin.partitions(cluster.topic)
    cluster.create()
    assert cluster.admin.partitions(cluster.topic) > 0


def test_a_topic_that_is_created_again_has_another_identity(cluster: Cluster) -> None:
    cluster.create()
    first = cluster.admin.identity(cluster.topic)
    cluster.create()
    assert cluster.admin.identity(cluster.topic) == first
    cluster.admin.delete([cluster.topic])
    until = time.monotonic() + DEADLINE_S
    while cluster.topic in cluster.admin.names(cluster.topic):
        assert time.monotonic() < until
    cluster.create()
    assert cluster.admin.identity(cluster.topic) not in (first, "")


def test_a_strangers_transaction_hides_nothing_open_or_aborted(cluster: Cluster) -> None:
    cluster.create()
    publisher, reader = cluster.publisher(), cluster.reader()
    reader.assign(cluster.topic, {0: None})
    abort = cluster.open_transaction(cluster.topic, 0, [b"stranger"])
    publisher.publish(cluster.topic, 0, b"k", b"after")
    publisher.flush(DEADLINE_S)
    assert cluster.admin.end_position(cluster.topic, 0) == 2
    assert [message.value for message in read(reader, 2)] == [b"stranger", b"after"]
    abort()
    until = time.monotonic() + DEADLINE_S
    # The marker of the abort has a position and no message.
    while reader.reached(cluster.topic, 0) < 3:
        assert reader.poll(0.2) == []
        assert time.monotonic() < until
    assert cluster.admin.end_position(cluster.topic, 0) == 3
    assert reader.at_end(cluster.topic, 0)
    reader.close()
    publisher.close()


def test_a_message_has_the_brokers_time_when_it_is_acknowledged_and_when_it_is_read(
    cluster: Cluster,
) -> None:
    cluster.create(**BROKER_TIME)
    publisher, reader = cluster.publisher(), cluster.reader()
    assert publisher.last_append is None
    appended: list[AppendTime | None] = []
    publisher.publish(
        cluster.topic, 0, b"k", b"v", lambda _: appended.append(publisher.last_append)
    )
    publisher.flush(DEADLINE_S)
    reader.assign(cluster.topic, {0: None})
    (message,) = read(reader, 1)
    assert message.by_broker
    assert appended == [AppendTime(cluster.topic, message.at_us, by_broker=True)]
    reader.close()
    publisher.close()


def test_the_position_of_a_time_is_that_of_the_first_message_not_before_it(
    cluster: Cluster,
) -> None:
    cluster.create(**BROKER_TIME)
    publisher, reader = cluster.publisher(), cluster.reader()
    assert cluster.admin.appended_from(cluster.topic, 0, 0) == (0, 0)
    for _ in range(3):
        publisher.publish(cluster.topic, 0, b"k", b"v")
        publisher.flush(DEADLINE_S)
        published_ms = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 == published_ms:  # Kafka's times are whole milliseconds
            pass
    reader.assign(cluster.topic, {0: None})
    times = [message.at_us for message in read(reader, 3)]
    assert [cluster.admin.appended_from(cluster.topic, 0, at_us) for at_us in times] == [
        (0, 3),
        (1, 3),
        (2, 3),
    ]
    assert cluster.admin.appended_from(cluster.topic, 0, times[0] + 1000) == (1, 3)
    assert cluster.admin.appended_from(cluster.topic, 0, 0) == (0, 3)
    assert cluster.admin.appended_from(cluster.topic, 0, times[2] + 10**9) == (3, 3)
    reader.close()
    publisher.close()


@pytest.mark.integration
def test_partitions_that_are_assigned_again_are_read_once_and_in_order(servers: str) -> None:
    client = {"bootstrap.servers": servers}
    admin, publisher = KafkaAdmin(client), KafkaPublisher(client)
    reader, topic = KafkaReader(client, silence_s=0.0), f"t-{uuid.uuid4().hex[:8]}"
    admin.create([TopicSpec(topic, {})], 2)
    reader.assign(topic, {0: None, 1: None})
    taken: dict[int, list[int]] = {0: [], 1: []}
    until = time.monotonic() + DEADLINE_S
    for count in range(5, 30, 5):
        for partition in taken:
            for _ in range(5):
                publisher.publish(topic, partition, b"k", b"v")
        publisher.flush(DEADLINE_S)
        while any(len(positions) < count for positions in taken.values()):
            assert time.monotonic() < until, taken
            for message in reader.poll(1.0):
                taken[message.partition].append(message.position)
        reader.poll(0.01)
    assert taken == {0: list(range(25)), 1: list(range(25))}
    for opened in (reader, publisher, admin):
        opened.close()


@pytest.mark.integration
def test_a_reader_that_follows_gets_what_comes_and_learns_of_each_end(servers: str) -> None:
    client = {"bootstrap.servers": servers}
    admin, publisher = KafkaAdmin(client), KafkaPublisher(client)
    reader, topic = KafkaReader(client, tells_end=False), f"t-{uuid.uuid4().hex[:8]}"
    admin.create([TopicSpec(topic, {})], 2)
    reader.assign(topic, {0: None})
    for partition in (0, 1):  # the second is added while the first is followed
        for count in (1, 2):
            publisher.publish(topic, partition, b"k", b"v")
            publisher.flush(DEADLINE_S)
            if (partition, count) == (1, 1):
                reader.assign(topic, {1: None})
            assert [message.partition for message in read(reader, 1)] == [partition]
            assert reader.reached(topic, partition) == count
        until = time.monotonic() + DEADLINE_S
        while not reader.at_end(topic, partition):
            assert reader.poll(0.2) == []
            assert time.monotonic() < until
    for opened in (reader, publisher, admin):
        opened.close()
