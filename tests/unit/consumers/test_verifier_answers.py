"""A verification doesn't guess which topics of answers there are."""

from __future__ import annotations

from typing import cast

import pytest
from notation import volume

from mirrorlog.consumers.verify.verification_log import VerificationLog
from mirrorlog.consumers.verify.verifier import Verifier, VerifierPorts, VerifyOptions
from mirrorlog.errors import KafkaFailed
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.topics import Topics, TopicSpec

TOPICS = Topics(mirrored_sites=("berlin.",))
MIRRORED = TOPICS.mirrored_answers[0]


class Broker(MemoryBroker):
    """away: the topic of which the broker doesn't say where it ends."""

    away = ""

    def end_position(self, topic: str, partition: int) -> int:
        if topic == self.away:
            raise KafkaFailed("Kafka is away")
        return super().end_position(topic, partition)


def verifier_on(broker: Broker) -> Verifier:
    ports = VerifierPorts(
        reader=broker.reader(),
        admin=broker,
        publisher=broker.publisher(),
        log=cast(VerificationLog, None),
        topics=TOPICS,
        clock=ManualClock(),
    )
    return Verifier(VerifyOptions(volume=volume(), site="berlin"), ports)


@pytest.mark.parametrize("away", [TOPICS.digests, MIRRORED])
def test_answers_that_cannot_be_read_are_no_missing_topic(away: str) -> None:
    broker = Broker()
    broker.create(TOPICS.specs(single_copy=True), 1)
    broker.create([TopicSpec(MIRRORED, {}, one_partition=True)], 1)
    broker.away = away
    with pytest.raises(KafkaFailed, match="Kafka is away"):
        verifier_on(broker)


def test_a_topic_that_a_mirror_has_not_made_yet_is_no_error() -> None:
    broker = Broker()
    broker.create(TOPICS.specs(single_copy=True), 1)
    verifier_on(broker)
