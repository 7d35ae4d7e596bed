"""KafkaClient.request repeats what a cluster may still answer, and nothing else."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader, admin, client, reader
from mirrorlog.adapters.kafka import publisher as publisher_module
from mirrorlog.adapters.kafka.client import KafkaClient
from mirrorlog.adapters.kafka.publisher import KafkaPublisher, refusal_of
from mirrorlog.errors import KafkaFailed


class StaleMetadata:
    """A librdkafka client whose cached metadata is wrong until list_topics() is called."""

    def __init__(self, settings: Any, logger: Any) -> None:
        self.refreshed, self._code = False, settings["code"]

    def poll(self, _timeout: float) -> None:
        return None

    def list_topics(self, timeout: float) -> None:
        self.refreshed = True

    def end(self, _within_s: float) -> int:
        if not self.refreshed:
            raise KafkaException(KafkaError(self._code))
        return 7


class FailsOnce:
    """A librdkafka client whose first request fails with `code`."""

    def __init__(self, settings: Any, logger: Any) -> None:
        self.requests, self.code = 0, settings["code"]

    def poll(self, _timeout: float) -> None:
        return None

    def list_topics(self, timeout: float) -> None:
        return None

    def end(self, _within_s: float) -> int:
        self.requests += 1
        if self.requests == 1:
            raise KafkaException(KafkaError(self.code))
        return 7


class RefusedForGood:
    """A librdkafka client that Kafka refuses. Its exception is lost where lines are logged."""

    def __init__(self, settings: Any, logger: Any = None) -> None:
        self.cause, self._logs = settings["cause"], logger is not None

    def poll(self, _timeout: float) -> int:
        if self._logs:
            raise SystemError("returned NULL without setting an exception") from self.cause
        raise KafkaException(KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED))


@pytest.mark.parametrize(
    "cause", [None, KafkaException(KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED))]
)
def test_a_refusal_for_good_is_raised_though_its_exception_is_lost(
    cause: KafkaException | None,
) -> None:
    client = KafkaClient(RefusedForGood, {"cause": cause})
    with pytest.raises(KafkaException) as refused:
        client.run_callbacks(client.raw.poll, 0)
    assert refused.value.args[0].code() == KafkaError.CLUSTER_AUTHORIZATION_FAILED


@pytest.mark.parametrize("is_told", [True, False])
def test_a_publisher_refused_before_it_published_says_why(
    is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """produce() says only that the client is refused; a callback, or another client, says why."""
    made = list[object]()

    class Refused:
        def __init__(self, _settings: Any, logger: Any = None) -> None:
            made.append(self)

        def produce(self, *_: Any, **__: Any) -> None:
            raise KafkaException(KafkaError(KafkaError._FATAL, "Local: Fatal error"))

        def poll(self, _timeout_s: float) -> int:
            if is_told or made[0] is not self:
                raise KafkaException(KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED))
            return 0

    monkeypatch.setattr(publisher_module, "Producer", Refused)
    publisher = KafkaPublisher({})
    for _ in range(2):
        with pytest.raises(KafkaFailed, match="refused this publisher: Broker: Cluster auth"):
            publisher.publish("topic", 0, b"key", b"value")


def test_another_system_error_stays_one() -> None:
    def fails(_timeout_s: float) -> int:
        raise SystemError("not Kafka's")

    client = KafkaClient(FailsOnce, {"code": KafkaError._TRANSPORT})
    with pytest.raises(SystemError, match="not Kafka's"):
        client.run_callbacks(fails, 0)


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._TRANSPORT,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.OFFSET_NOT_AVAILABLE,
    ],
)
def test_a_request_is_repeated_while_the_broker_is_unavailable(code: int) -> None:
    client = KafkaClient(FailsOnce, {"code": code})
    assert client.request(client.raw.end, patience_s=5.0, doing="asking", where="here") == 7


def test_a_request_whose_future_is_not_done_in_time_is_repeated() -> None:
    """librdkafka ends no request while it waits for a broker that hangs."""
    client = KafkaClient(FailsOnce, {"code": KafkaError._TRANSPORT})
    futures: list[Future[int]] = [Future(), Future()]
    futures[1].set_result(7)

    def ask(_: float) -> int:
        return futures.pop(0).result(0.01)

    assert client.request(ask, patience_s=5.0, doing="asking", where="here") == 7


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    ],
)
def test_metadata_that_is_wrong_is_replaced(code: int) -> None:
    client = KafkaClient(StaleMetadata, {"code": code})
    client.note_answer()
    assert client.request(client.raw.end, patience_s=5.0, doing="asking", where="here") == 7


_MOVED = KafkaError(KafkaError.NOT_COORDINATOR)


class AnswersByPartition:
    """A client whose first request doesn't fail, but answers with an error for its one partition.

    answered: the errors of all requests to clients of this kind.
    """

    answered: ClassVar[list[KafkaError | None]] = []

    def __init__(self, _settings: Any, logger: Any) -> None:
        self.answered.clear()

    def poll(self, _timeout: float) -> None:
        return None

    def _answer(self, *_: Any, **__: Any) -> list[Any]:
        error = None if self.answered else _MOVED
        self.answered.append(error)
        return [SimpleNamespace(partition=0, offset=-1001 if error else 7, error=error)]

    offsets_for_times = committed = commit = _answer

    def get_watermark_offsets(self, *_: Any, **__: Any) -> tuple[int, int]:
        return 0, 9

    def close(self) -> None:
        return None


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda cluster: cluster.appended_from("t", 0, 1), (7, 9)),
        (lambda cluster: cluster.committed_positions("g", "t"), {0: 7}),
        (lambda cluster: cluster.commit("g", "t", {0: 7}), None),
    ],
)
def test_a_request_that_failed_for_one_partition_is_repeated(
    ask: Any, answer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "Consumer", AnswersByPartition)
    monkeypatch.setattr(KafkaAdmin, "partitions", lambda *_: 1)
    assert ask(KafkaAdmin({"bootstrap.servers": "127.0.0.1:1"})) == answer
    assert AnswersByPartition.answered == [_MOVED, None]


class Refusing:
    """A librdkafka client whose cluster refuses the login; each request times out."""

    def __init__(self, settings: Any, logger: Any) -> None:
        self.requests, self._on_error = 0, settings["error_cb"]
        self._error = settings["error"]

    def poll(self, _timeout: float) -> None:
        self._on_error(self._error)

    def list_topics(self, timeout: float) -> None:
        return None

    def end(self, _within_s: float) -> int:
        self.requests += 1
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


@pytest.mark.parametrize(
    "error",
    [
        KafkaError(KafkaError._AUTHENTICATION),
        KafkaError(KafkaError._TRANSPORT, "SSL routines::certificate verify failed"),
        KafkaError(KafkaError._TRANSPORT, "SSL alert number 42"),
    ],
)
def test_a_refused_login_is_not_repeated(error: KafkaError) -> None:
    client = KafkaClient(Refusing, {"error": error})
    with pytest.raises(KafkaFailed) as refused:
        client.request(client.raw.end, patience_s=3600.0, doing="asking", where="here")
    assert client.raw.requests == 1
    assert "Check security.protocol" in refused.value.next


@pytest.mark.parametrize("make", [KafkaReader, KafkaAdmin])
def test_no_setting_makes_a_consumer_read_committed(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Any, Any]] = []

    def note(kind: Any, settings: Any, **_: Any) -> None:
        made.append((kind, settings))

    for module in (admin, reader):
        monkeypatch.setattr(module, "KafkaClient", note)
    make({"bootstrap.servers": "127.0.0.1:1", "isolation.level": "read_committed"})
    consumers = [settings for kind, settings in made if kind is Consumer]
    assert [settings["isolation.level"] for settings in consumers] == ["read_uncommitted"]


def test_a_refused_time_says_how_the_topic_takes_the_brokers() -> None:
    refused = refusal_of(KafkaError(KafkaError.INVALID_TIMESTAMP), "t", 0, b"v")
    assert "mirrorlog topics create" in refused.next
    other = refusal_of(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), "t", 0, b"v")
    assert "Mend the topic or the rights" in other.next
    denied = refusal_of(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), "t", 0, b"v")
    assert "mirrorlog acl" in denied.next


def test_every_other_consumer_of_the_project_names_the_isolation_level() -> None:
    """Those of tests and benchmarks, too: what they prove stands on the end that they see."""
    root = Path(__file__).resolve().parents[3]
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.split()
    makers = [
        name for name in listed if re.search(r"(?<![\w.])Consumer\(\n? *[^)]", _code(root / name))
    ]
    assert len(makers) >= 3, "consumers are made in another way"
    for name in makers:
        assert re.search("READ_UNCOMMITTED|isolation.level", (root / name).read_text()), name


def _code(path: Path) -> str:
    """Return a file's text if it names Kafka's client and is no link."""
    if path.is_symlink() or not path.is_file():
        return ""
    text = path.read_text("utf-8")
    return text if "confluent_kafka" in text else ""


class NeverAnswers:
    """A librdkafka client of a server that takes connections and never answers.

    timeouts_s: of all its requests.
    """

    timeouts_s: ClassVar[list[float]] = []

    def __init__(self, _settings: Any, logger: Any) -> None:
        self.timeouts_s.clear()

    def poll(self, _timeout: float) -> None:
        return None

    def list_topics(self, timeout: float) -> None:
        self.timeouts_s.append(timeout)
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def close(self) -> None:
        return None


def test_no_attempt_of_waiting_for_a_broker_may_outlast_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admin, "Consumer", NeverAnswers)
    monkeypatch.setattr(client, "FIRST_ANSWER_S", 0.2)
    asked = KafkaAdmin({"bootstrap.servers": "127.0.0.1:1"})
    with closing(asked), pytest.raises(KafkaFailed, match="asking for a broker failed"):
        asked.wait_ready(0.2)
    assert NeverAnswers.timeouts_s
    assert max(NeverAnswers.timeouts_s) <= 0.2
