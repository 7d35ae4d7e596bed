"""Clients of a cluster go on when the broker that answered them is lost, and another one leads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Timer

import pytest
from confluent_kafka import Producer
from deadlines import wait_until
from mock_brokers import MockBrokers, mock_brokers

from mirrorlog.adapters.kafka.admin import KafkaAdmin
from mirrorlog.adapters.kafka.reader import KafkaReader

TOPIC, GROUP = "commands", "node"
_ELECTION_S = 0.5


@pytest.fixture
def brokers() -> Iterator[MockBrokers]:
    with mock_brokers(TOPIC, groups=[GROUP]) as cluster:
        yield cluster


QUESTIONS: dict[str, tuple[Callable[[KafkaAdmin], object], object]] = {
    "partitions": (lambda admin: admin.partitions(TOPIC), 1),
    "bounds": (lambda admin: admin.bounds(TOPIC, 0), (0, 0)),
    "appended_from": (lambda admin: admin.appended_from(TOPIC, 0, 0), (0, 0)),
    "committed_positions": (lambda admin: admin.committed_positions(GROUP, TOPIC), {0: None}),
    "commit": (lambda admin: admin.commit(GROUP, TOPIC, {0: 0}), None),
    "identity": (lambda admin: len(admin.identity(TOPIC)), 22),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_a_lost_broker_answered_another_one_answers(
    question: str, brokers: MockBrokers
) -> None:
    ask, answer = QUESTIONS[question]
    with closing(KafkaAdmin({"bootstrap.servers": brokers.servers}, patience_s=15.0)) as admin:
        assert ask(admin) == answer
        brokers.lose(1)
        # Until then the others still name the lost broker.
        elected = Timer(_ELECTION_S, brokers.lead, (2,))
        elected.start()
        try:
            assert ask(admin) == answer
        finally:
            elected.join()


def test_a_reader_goes_on_at_another_broker(brokers: MockBrokers) -> None:
    producer = Producer({"bootstrap.servers": brokers.servers})
    read: list[bytes | None] = []

    def has_read(value: bytes) -> bool:
        read.extend(message.value for message in reader.poll(0.1))
        return value in read

    with closing(KafkaReader({"bootstrap.servers": brokers.servers})) as reader:
        reader.assign(TOPIC, {0: 0})
        for broker in (1, 2):
            producer.produce(TOPIC, value := b"%d" % broker, partition=0)
            producer.flush(10)
            wait_until(lambda value=value: has_read(value), deadline_s=15.0, every_s=0)
            brokers.lose(broker)
            brokers.lead(broker + 1)
    assert read == [b"1", b"2"]
