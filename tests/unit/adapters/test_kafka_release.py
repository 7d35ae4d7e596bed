"""A closed client leaves no thread of librdkafka: one in a TLS handshake crashes at exit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from deadlines import wait_until

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.adapters.kafka.acls import KafkaAcls
from mirrorlog.adapters.kafka.client import ClientSettings, KafkaClient
from mirrorlog.adapters.kafka.descriptions import KafkaDescriptions
from mirrorlog.errors import KafkaFailed


def librdkafka_threads() -> set[str]:
    """Return the ids of librdkafka's threads in this process."""
    threads = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended
            if (task / "comm").read_text().startswith("rdk:"):
                threads.add(task.name)
    return threads


def await_end(own: set[str]) -> None:
    """Wait until these threads have ended. The kernel removes one that was joined.

    own: those of one client. Clients that other tests left begin further ones at any time.
    """
    assert own
    wait_until(lambda: not librdkafka_threads() & own)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="/proc shows the threads"
)


@needs_proc
def test_the_threads_end_although_an_error_refers_to_the_client() -> None:
    before = librdkafka_threads()
    with pytest.raises(KafkaFailed) as failed, closing(KafkaAdmin(DEAD, 0.1)) as admin:
        try:
            admin.cluster_id()
        finally:
            own = librdkafka_threads() - before
    assert failed.value.__traceback__ is not None  # its frames hold the client
    await_end(own)


@needs_proc
@pytest.mark.parametrize(
    "make",
    [
        KafkaPublisher,
        KafkaReader,
        KafkaAcls,
        lambda settings: KafkaDescriptions(settings, 0.1),
    ],
    ids=["publisher", "reader", "acls", "descriptions"],
)
def test_the_threads_of_every_client_end(make: Callable[[ClientSettings], Any]) -> None:
    before = librdkafka_threads()
    with closing(make(DEAD)):
        own = librdkafka_threads() - before
    await_end(own)


@needs_proc
def test_the_threads_of_a_publisher_end_although_kafka_refused_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(self: KafkaClient, call: Callable[[float], int], timeout_s: float) -> int:
        call(0)
        raise KafkaException(KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED))

    monkeypatch.setattr(KafkaClient, "run_callbacks", refused)
    before = librdkafka_threads()
    with closing(KafkaPublisher(DEAD)) as publisher:
        with pytest.raises(KafkaFailed, match="refused this publisher"):
            publisher.poll(0)
        own = librdkafka_threads() - before
    assert publisher.is_refused  # the error that it keeps has frames
    await_end(own)


def test_a_closed_publisher_may_be_polled_and_closed_again() -> None:
    publisher = KafkaPublisher(DEAD)
    publisher.close()
    publisher.poll(0.1)
    publisher.flush(0.1)
    publisher.close()
    with pytest.raises(KafkaFailed, match="closed"):
        publisher.publish("topic", 0, b"key", b"value")


def test_a_closed_client_refuses_requests() -> None:
    admin = KafkaAdmin(DEAD, 0.1)
    admin.close()
    admin.close()
    for ask in (admin.cluster_id, lambda: admin.identity("topic")):
        with pytest.raises(KafkaFailed, match="closed"):
            ask()


DEAD = {"bootstrap.servers": "127.0.0.1:1"}
