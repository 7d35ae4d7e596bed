"""A reader whose client fetches no more, and reports nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from mirrorlog.adapters.kafka import reader as module
from mirrorlog.adapters.kafka.reader import KafkaReader


class Event:
    """A message at a position."""

    def __init__(self, position: int) -> None:
        self._position = position

    def error(self) -> None:
        return None

    def topic(self) -> str:
        return "t"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._position

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes:
        return b"v"

    def timestamp(self) -> tuple[int, int]:
        return 0, 0


class StuckConsumer:
    """Returns the messages 0 and 1, then nothing until its partition is assigned again."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.assigned: list[int] = []
        self.events: list[Event] = []

    def incremental_assign(self, partitions: Sequence[TopicPartition]) -> None:
        start = partitions[0].offset
        self.assigned.append(start)
        self.events = [Event(position) for position in range(start, start + 2)]

    def incremental_unassign(self, partitions: Sequence[TopicPartition]) -> None:
        self.events = []

    def poll(self, timeout_s: float) -> Event | None:
        return self.events.pop(0) if self.events else None

    def consume(self, count: int, timeout_s: float) -> list[Event]:
        taken, self.events = self.events[:count], self.events[count:]
        return taken

    def close(self) -> None:
        pass


def read(reader: KafkaReader, polls: int) -> list[int]:
    return [message.position for _ in range(polls) for message in reader.poll(0)]


def test_a_reader_that_hears_nothing_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "Consumer", StuckConsumer)
    reader = KafkaReader({}, silence_s=0)
    reader.assign("t", {0: 0})
    assert read(reader, 8) == list(range(8)), "each once, in order"
    assert reader.reached("t", 0) == 8
    assert reader._client.raw.assigned[:4] == [0, 2, 4, 6]


def test_a_short_silence_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Consumer", StuckConsumer)
    reader = KafkaReader({}, silence_s=1000)
    reader.assign("t", {0: 0})
    assert read(reader, 8) == [0, 1]
    assert reader._client.raw.assigned == [0]
