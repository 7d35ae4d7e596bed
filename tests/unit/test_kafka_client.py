"""What is asked of a cluster is asked again while it is away, and so that its answer may change."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError, KafkaException

from mirrorlog.adapters.kafka import _Client


class Stubborn:
    """A librdkafka client that met a broker before it led the partition: it asks no more until it is made to."""

    def __init__(self, _settings: Any, logger: Any) -> None:
        self.refreshed = False

    def poll(self, _timeout: float) -> None:
        return None

    def list_topics(self, timeout: float) -> None:
        self.refreshed = True

    def end(self, _within_s: float) -> int:
        if not self.refreshed:
            raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))
        return 7


def test_a_client_that_believes_in_no_partition_is_made_to_look_again() -> None:
    client = _Client(Stubborn, {})
    assert client.ask(client.raw.end, 5.0, "asking", "here") == 7
