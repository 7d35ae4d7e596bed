"""Reports go to their topic if there is one, and cost nobody anything if there is none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from threading import Condition, Event
from typing import Any, Final

import pytest
from deadlines import DEADLINE_S

from mirrorlog.adapters.kafka import report_publisher
from mirrorlog.adapters.kafka.report_publisher import ReportPublisher
from mirrorlog.errors import KafkaFailed

TOPIC: Final = "p.reports"


class Cluster:
    """A cluster in the place of Kafka. gate: the cluster answers while it is set."""

    def __init__(self) -> None:
        self.topics = {TOPIC}
        self.is_refusing = False
        self.sent: list[tuple[str, bytes, bytes]] = []
        self.opened = self.closed = self.asked = 0
        self.gate = Event()
        self.gate.set()
        self.changed = Condition()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, DEADLINE_S)

    def note_change(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def admin(self, *_: object) -> Cluster:
        return self

    def publisher(self, *_: object) -> Publishing:
        self.opened += 1
        return Publishing(self)

    def names(self, prefix: str) -> set[str]:
        assert self.gate.wait(DEADLINE_S)
        self.asked += 1
        self.note_change()
        return {name for name in self.topics if name.startswith(prefix)}

    def close(self) -> None:
        pass


class Publishing:
    """A publisher of the cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.is_refused = False

    def publish(self, topic: str, partition: int, key: bytes, value: bytes) -> None:
        assert partition == 0
        if self._cluster.is_refusing:
            self.is_refused = True
            raise KafkaFailed("Kafka refused a message: not authorized")
        self._cluster.sent.append((topic, key, value))
        self._cluster.note_change()

    def flush(self, deadline_s: float) -> None:
        del deadline_s

    def close(self) -> None:
        self._cluster.closed += 1
        self._cluster.note_change()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    cluster = Cluster()
    monkeypatch.setattr(report_publisher, "KafkaAdmin", cluster.admin)
    monkeypatch.setattr(report_publisher, "KafkaPublisher", cluster.publisher)
    yield cluster
    cluster.gate.set()


def new(**options: Any) -> ReportPublisher:
    return ReportPublisher({}, TOPIC, **options)


def test_close_publishes_what_was_taken(cluster: Cluster) -> None:
    publisher = new()
    publisher.publish(b"k", b"1")
    publisher.publish(b"l", b"2")
    publisher.close()
    publisher.publish(b"k", b"too late")
    assert sorted(cluster.sent) == [(TOPIC, b"k", b"1"), (TOPIC, b"l", b"2")]
    assert (cluster.opened, cluster.closed) == (1, 1)


def test_only_the_newest_report_of_a_key_is_sent(cluster: Cluster) -> None:
    cluster.gate.clear()
    publisher = new()
    publisher.publish(b"first", b"0")
    for number in range(10):
        publisher.publish(b"k", b"%d" % number)
    cluster.gate.set()
    publisher.close()
    assert [value for _, key, value in cluster.sent if key == b"k"][-1] == b"9"
    assert len(cluster.sent) <= 3


def test_without_reports_there_is_neither_a_thread_nor_a_client(cluster: Cluster) -> None:
    publisher = new()
    publisher.close()
    assert (cluster.asked, cluster.opened) == (0, 0)


def test_a_topic_that_is_missing_is_named_once_and_nothing_is_produced(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.topics.clear()
    publisher = new(retry_s=0.01)
    with caplog.at_level(logging.WARNING):
        publisher.publish(b"k", b"1")
        cluster.wait_until(lambda: cluster.asked > 3)
        publisher.close()
    assert [record.message for record in caplog.records] == [
        "nothing is reported to the topic p.reports: it doesn't exist, or may not be seen. "
        "`mirrorlog topics create` creates it. Until then `mirrorlog status` doesn't show this "
        "process; all else goes on"
    ]
    assert (cluster.opened, cluster.sent) == (0, [])


def test_what_was_refused_is_sent_when_the_right_is_given(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.is_refusing = True
    publisher = new(retry_s=0.01)
    publisher.publish(b"k", b"1")
    cluster.wait_until(lambda: cluster.closed > 2)
    cluster.is_refusing = False
    cluster.wait_until(lambda: bool(cluster.sent))
    publisher.close()
    assert cluster.sent == [(TOPIC, b"k", b"1")]
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
