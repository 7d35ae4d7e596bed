"""What is asked of a cluster is asked again while it is away, and so that its answer may change."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from mirrorlog.adapters.kafka import _Client
from mirrorlog.errors import KafkaFailed


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


class Away:
    """A librdkafka client whose first question isn't answered."""

    def __init__(self, settings: Any, logger: Any) -> None:
        self.asked, self.code = 0, settings["code"]

    def poll(self, _timeout: float) -> None:
        return None

    def end(self, _within_s: float) -> int:
        self.asked += 1
        if self.asked == 1:
            raise KafkaException(KafkaError(self.code))
        return 7


@pytest.mark.parametrize(
    "code", [KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError._TRANSPORT]
)
def test_what_a_broker_that_is_away_did_not_answer_is_asked_again(code: int) -> None:
    client = _Client(Away, {"code": code})
    assert client.ask(client.raw.end, 5.0, "asking", "here") == 7


def test_a_client_that_believes_in_no_partition_is_made_to_look_again() -> None:
    client = _Client(Stubborn, {})
    assert client.ask(client.raw.end, 5.0, "asking", "here") == 7


class Refusing:
    """A librdkafka client whose cluster refuses the login; each question times out."""

    def __init__(self, settings: Any, logger: Any) -> None:
        self.asked, self._hear = 0, settings["error_cb"]

    def poll(self, _timeout: float) -> None:
        self._hear(KafkaError(KafkaError._AUTHENTICATION))

    def end(self, _within_s: float) -> int:
        self.asked += 1
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


def test_a_cluster_that_refuses_the_login_is_not_asked_again() -> None:
    client = _Client(Refusing, {})
    with pytest.raises(KafkaFailed) as refused:
        client.ask(client.raw.end, 3600.0, "asking", "here")
    assert client.raw.asked == 1
    assert "Check security.protocol" in refused.value.next
