"""A broker that isn't there is given up soon, and one that is slow isn't."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stamina
from confluent_kafka import KafkaError, KafkaException

from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.adapters.kafka.client import KafkaClient
from mirrorlog.adapters.kafka.first_answer import (
    Waiting,
    attempt_timeout_s,
    gives_up,
    takes_connections,
)
from mirrorlog.adapters.kafka.outage_log import OutageLog
from mirrorlog.bootstrap_servers import SERVERS_KEY, BootstrapServers
from mirrorlog.errors import KafkaFailed
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock

REFUSED = "kafka:1/bootstrap: Connect to ipv4#10.0.0.1:1 failed: Connection refused (after 0ms)"


@pytest.fixture(autouse=True)
def attempts_without_pauses() -> Iterator[None]:
    stamina.set_testing(True, attempts=1000)
    yield
    stamina.set_testing(False)


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "mirrorlog.kafka"]


class Broker:
    """A librdkafka client of a broker that answers at `answers_at_s`; None for never.

    errors: what the client reports at each poll.
    """

    def __init__(self, clock: ManualClock, answers_at_s: float | None, *errors: KafkaError) -> None:
        self.clock, self.answers_at_s, self.errors = clock, answers_at_s, errors

    def make(self, settings: Any, logger: Any) -> Broker:
        assert SERVERS_KEY not in settings
        self.on_error: Callable[[KafkaError], None] = settings["error_cb"]
        return self

    def poll(self, _timeout_s: float) -> None:
        for error in self.errors:
            self.on_error(error)

    def ask(self, timeout_s: float) -> str:
        at_s = self.answers_at_s
        if at_s is not None and at_s <= self.clock.now_s + timeout_s:
            self.clock.now_s = max(self.clock.now_s, at_s)
            return "answer"
        self.clock.now_s += timeout_s
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


def ask(
    broker: Broker, connect_within_s: float | None, *, listens: bool, patience_s: float = 3600
) -> str:
    servers = BootstrapServers(
        addresses="kafka:1",
        given_by="--bootstrap-servers",
        state_dir=Path("/state"),
        connect_within_s=connect_within_s,
    )
    client = KafkaClient(
        broker.make,
        {"bootstrap.servers": "kafka:1", SERVERS_KEY: servers},
        clock=broker.clock,
        outages=OutageLog(broker.clock),
        takes_connections=lambda _: listens,
    )
    return str(client.request(broker.ask, patience_s=patience_s, doing="asking", where="topic t"))


def all_failed(code: int, text: str) -> tuple[KafkaError, ...]:
    return KafkaError(code, text), KafkaError(KafkaError._ALL_BROKERS_DOWN)


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        (KafkaError._TRANSPORT, REFUSED, "Connection refused"),
        (KafkaError._RESOLVE, "Failed to resolve 'kafka:1'", "Failed to resolve 'kafka:1'"),
    ],
)
def test_servers_that_refuse_are_given_up_after_the_time(code: int, text: str, said: str) -> None:
    clock = ManualClock()
    with pytest.raises(KafkaFailed) as failed:
        ask(Broker(clock, None, *all_failed(code, text)), 1.25, listens=False)
    assert clock.now_s == 1.25
    assert said in failed.value.what
    assert failed.value.where == "topic t; Kafka at kafka:1, named by --bootstrap-servers"
    assert failed.value.next == "Check that a broker runs there, and the address."


def test_a_server_that_swallows_packets_is_given_up_after_the_time() -> None:
    clock = ManualClock()
    with pytest.raises(KafkaFailed, match="nothing takes a connection there"):
        ask(Broker(clock, None), 1.25, listens=False)
    assert clock.now_s == 1.25


def test_a_wrong_protocol_says_which_settings_to_check() -> None:
    hint = "Disconnected: might be caused by incorrect security.protocol configuration"
    broker = Broker(ManualClock(), None, *all_failed(KafkaError._TRANSPORT, hint))
    with pytest.raises(KafkaFailed) as failed:
        ask(broker, 1.25, listens=True)
    assert "sasl.* and ssl.*" in failed.value.next


def test_a_server_that_takes_connections_may_be_slow(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    assert ask(Broker(clock, 9.0), 1.25, listens=True) == "answer"
    assert "it takes connections, no answer yet" in lines_of(caplog)[0]
    assert lines_of(caplog)[-1] == "Kafka at kafka:1 answers"


def test_who_waits_says_so_at_growing_intervals(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    refused = all_failed(KafkaError._TRANSPORT, REFUSED)
    assert ask(Broker(clock, 100.0, *refused), None, listens=False) == "answer"
    *waiting, last = lines_of(caplog)
    assert 4 <= len(waiting) <= 7
    assert waiting[0] == (
        "waiting for Kafka at kafka:1: Connect to ipv4#10.0.0.1:1 failed: Connection refused "
        "(named by --bootstrap-servers)"
    )
    assert last == "Kafka at kafka:1 answers"


def test_a_broker_that_answers_at_once_costs_no_line(caplog: pytest.LogCaptureFixture) -> None:
    assert ask(Broker(ManualClock(), 0.9), None, listens=True) == "answer"
    assert lines_of(caplog) == []


def test_a_silent_broker_is_an_error_after_the_patience() -> None:
    with pytest.raises(KafkaFailed, match="it takes connections, no answer yet"):
        ask(Broker(ManualClock(), None), 1.25, listens=True, patience_s=0.1)


@pytest.mark.parametrize("answers_at_s", [0.0, 0.5, 1.1])
def test_a_caller_without_patience_gets_the_first_answer(answers_at_s: float) -> None:
    broker = Broker(ManualClock(), answers_at_s)
    assert ask(broker, 1.25, listens=True, patience_s=0) == "answer"


def test_who_waits_gives_up_never_and_others_only_after_the_time() -> None:
    def never() -> bool:
        raise AssertionError("the servers were asked")

    assert not gives_up(Waiting(1e6, None, all_failed=True), never)
    assert not gives_up(Waiting(1.4, 1.5, all_failed=True), never)
    assert gives_up(Waiting(1.5, 1.5, all_failed=True), never)
    assert not gives_up(Waiting(1.5, 1.5, all_failed=False), lambda: True)


def test_attempts_grow_while_a_broker_may_only_be_slow() -> None:
    def timeouts(*, has_answered: bool, all_failed: bool) -> list[float]:
        return [
            attempt_timeout_s(
                number, has_answered=has_answered, all_failed=all_failed, longest_s=10.0
            )
            for number in range(1, 7)
        ]

    assert timeouts(has_answered=False, all_failed=False) == [1.0, 0.25, 6.0, 8.0, 10.0, 10.0]
    assert timeouts(has_answered=False, all_failed=True) == [1.0, 0.25, 2.0, 2.0, 2.0, 2.0]
    assert timeouts(has_answered=True, all_failed=False) == [2.0, 4.0, 6.0, 8.0, 10.0, 10.0]


def test_a_listening_socket_takes_connections_and_a_closed_one_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        assert takes_connections(address)
        assert takes_connections(f"127.0.0.1:1,PLAINTEXT://{address}")
    assert not takes_connections(address)
    assert not takes_connections("127.0.0.1:99999,:,[::1")


def test_librdkafka_itself_reports_a_refused_connection(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    settings = Settings(state_dir=tmp_path, bootstrap_servers=address).with_connect_within_s(0.1)
    admin = KafkaAdmin(settings.kafka_client(), patience_s=3600)
    with pytest.raises(KafkaFailed, match="Connection refused"):
        admin.cluster_id()
    admin.close()
