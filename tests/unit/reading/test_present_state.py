"""The present state is what the last message of each key says, whatever else is on the topics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from notation import volume
from reports import HOST, LEASE, NODE, PROGRESS

from mirrorlog.codec import events
from mirrorlog.codec.events import encode
from mirrorlog.domain.reports import HostState
from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.streams import Message
from mirrorlog.reading import present_state
from mirrorlog.reading.present_state import PresentState, PresentStateReader, Reported
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryReader
from mirrorlog.topics import Topics

TOPICS = Topics()
AT_US = 5_000_000


class State:
    """Compacted topics with one message of each kind."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.broker = MemoryBroker(clock=self.clock)
        self.broker.create(TOPICS.specs(single_copy=True), 1)
        self.append(TOPICS.volumes, b"v", volume())
        self.append(TOPICS.progress, b"a/", LEASE)
        self.append(TOPICS.progress, b"a/v", PROGRESS)
        self.append(TOPICS.reports, HOST.key, HOST)
        self.append(TOPICS.reports, NODE.key, NODE)

    def append(self, topic: str, key: bytes, event: object | None) -> None:
        self.broker.append(topic, 0, key, None if event is None else encode(event))

    def reader(self, only_volume: str | None = None) -> PresentStateReader:
        return PresentStateReader(
            self.broker.reader, self.broker, TOPICS, self.clock, only_volume=only_volume
        )

    def read(self, only_volume: str | None = None) -> PresentState:
        return self.reader(only_volume).refresh()


@pytest.fixture
def world() -> State:
    return State()


def test_everything_is_read_with_the_brokers_times(world: State) -> None:
    at_us = world.clock.now_us()
    assert world.read() == PresentState(
        volumes={"v": volume()},
        secondaries={("a", "v"): Reported(PROGRESS, at_us)},
        leases={"a": Reported(LEASE, at_us)},
        hosts={("h", "v"): Reported(HOST, at_us)},
        nodes={"n": Reported(NODE, at_us)},
    )


def test_the_times_of_producers_are_not_taken_for_the_brokers(world: State) -> None:
    world.broker.host_times.add(TOPICS.progress)
    world.append(TOPICS.progress, b"a/v", PROGRESS)
    assert world.read().secondaries["a", "v"].appended_at_us is None


def test_a_refresh_takes_what_is_new_and_what_is_gone(world: State) -> None:
    reader = world.reader()
    reader.refresh()
    world.append(TOPICS.progress, b"a/v", None)
    world.append(TOPICS.volumes, b"w", volume(name="w"))
    world.append(TOPICS.reports, HOST.key, replace(HOST, state=HostState.CLOSED))
    state = reader.refresh()
    assert state.secondaries == {}
    assert sorted(state.volumes) == ["v", "w"]
    assert state.hosts["h", "v"].report.state is HostState.CLOSED


def test_only_the_last_message_of_a_key_is_decoded(
    world: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        world.append(TOPICS.progress, b"a/v", replace(PROGRESS, bytes_copied=number))
    decoded: list[bytes] = []

    def counting(data: bytes, expected: type[object]) -> object:
        decoded.append(data)
        return events.decode(data, expected)

    monkeypatch.setattr(present_state, "decode", counting)
    assert world.read().secondaries["a", "v"].report.bytes_copied == 49
    assert len(decoded) == 5


def test_an_older_description_that_comes_later_is_not_taken(world: State) -> None:
    newest = replace(volume(), described_position=9, size_bytes=8192)
    world.append(TOPICS.volumes, b"v", newest)
    world.append(TOPICS.volumes, b"v", volume())
    assert world.read().volumes["v"] == newest


def test_a_report_that_cannot_be_read_is_named_and_costs_no_other(world: State) -> None:
    world.broker.append(TOPICS.progress, 0, b"a/v", b"damaged")
    world.append(TOPICS.reports, b"host/x/v", PROGRESS)
    world.append(TOPICS.reports, b"host/x/w", volume())
    state = world.read()
    assert [key for _, key in state.unreadable] == [b"a/v"]
    assert set(state.hosts) == {("h", "v")}


def test_without_the_topic_of_reports_all_else_is_known(world: State) -> None:
    world.broker.delete([TOPICS.reports])
    reader = world.reader()
    state = reader.refresh()
    assert state.reports_error is not None
    assert (set(state.secondaries), state.hosts, state.nodes) == ({("a", "v")}, {}, {})
    world.broker.create(TOPICS.specs(single_copy=True), 1)
    world.append(TOPICS.reports, HOST.key, HOST)
    state = reader.refresh()
    assert state.reports_error is None
    assert set(state.hosts) == {("h", "v")}


def test_reports_that_may_not_be_read_any_more_are_unknown(
    world: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = world.reader()
    reader.refresh()

    def poll(self: MemoryReader, timeout_s: float, *, max_messages: int = 1000) -> None:
        raise KafkaFailed("not authorized")

    world.append(TOPICS.reports, HOST.key, HOST)
    monkeypatch.setattr(MemoryReader, "poll", poll)
    state = reader.refresh()
    assert state.reports_error is not None
    assert "not authorized" in state.reports_error
    assert (set(state.secondaries), state.hosts, state.nodes) == ({("a", "v")}, {}, {})


def test_a_topic_that_was_made_anew_is_read_from_its_beginning(world: State) -> None:
    reader = world.reader()
    reader.refresh()
    world.broker.delete([TOPICS.progress])
    world.broker.create(TOPICS.specs(single_copy=True), 1)
    world.append(TOPICS.progress, b"b/v", replace(PROGRESS, site="b"))
    assert set(reader.refresh().secondaries) == {("b", "v")}


def test_what_was_read_before_an_error_is_kept(
    world: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, real = world.reader(), MemoryReader.poll
    reader.refresh()
    world.append(TOPICS.progress, b"a/v", replace(PROGRESS, bytes_copied=77))
    polls = iter(range(9))

    def poll(
        self: MemoryReader, timeout_s: float, *, max_messages: int = 1000
    ) -> Sequence[Message]:
        if next(polls) == 1:
            raise KafkaFailed("away")
        return real(self, timeout_s, max_messages=1)

    world.append(TOPICS.progress, b"b/v", replace(PROGRESS, site="b"))
    monkeypatch.setattr(MemoryReader, "poll", poll)
    with pytest.raises(KafkaFailed):
        reader.refresh()
    state = reader.refresh()
    assert state.secondaries["a", "v"].report.bytes_copied == 77
    assert set(state.secondaries) == {("a", "v"), ("b", "v")}


def test_one_volume_is_read_without_the_others(world: State) -> None:
    world.append(TOPICS.volumes, b"w", volume(name="w"))
    world.append(TOPICS.progress, b"a/w", replace(PROGRESS, volume="w"))
    host = replace(HOST, volume="w")
    world.append(TOPICS.reports, host.key, host)
    state = world.read(only_volume="w")
    assert (set(state.volumes), set(state.secondaries), set(state.hosts)) == (
        {"w"},
        {("a", "w")},
        {("h", "w")},
    )
    assert (set(state.leases), set(state.nodes)) == ({"a"}, {"n"})


def test_a_broker_that_does_not_answer_is_an_error(
    world: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_position(topic: str, partition: int) -> int:
        raise KafkaFailed("away")

    monkeypatch.setattr(world.broker, "end_position", end_position)
    with pytest.raises(KafkaFailed, match="away"):
        world.read()
