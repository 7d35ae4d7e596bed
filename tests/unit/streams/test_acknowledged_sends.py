"""A set of messages is sent until the broker has acknowledged each, and says where it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from mirrorlog.errors import ChangelogRefused
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.streams.faust_worker.acknowledged_sends import SendReports, send_all
from mirrorlog.streams.table.outgoing import Outgoing

MESSAGES = [Outgoing("log", 0, b"a", b"1"), Outgoing("log", 0, b"b", b"2")]


class Producer:
    """Appends each message. spoil: what becomes of the acknowledgement of an offset."""

    def __init__(self, spoil: Callable[[int], int]) -> None:
        self.values: list[bytes | None] = []
        self._spoil = spoil

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: None,
        headers: list[tuple[str, bytes]] | None,
    ) -> Awaitable[Any]:
        self.values.append(value)
        offset = len(self.values) - 1

        async def answer() -> Any:
            return SimpleNamespace(offset=self._spoil(offset))

        return answer()


def sent(producer: Producer) -> list[int]:
    return asyncio.run(send_all(producer, MESSAGES, 60.0, SendReports(ManualClock())))


def test_messages_acknowledged_without_their_offsets_are_sent_again() -> None:
    """Else the offset -1 would look like a broker that went back in time."""
    producer = Producer(lambda offset: -1 if offset == 1 else offset)
    assert sent(producer) == [2, 3]
    assert producer.values == [b"1", b"2", b"1", b"2"]


def test_all_are_sent_again_if_one_is_not_acknowledged() -> None:
    def spoil(offset: int) -> int:
        if offset == 0:
            raise KafkaTimeoutError
        return offset

    assert sent(Producer(spoil)) == [2, 3]


def test_a_refused_message_ends_the_node() -> None:
    def spoil(_: int) -> int:
        raise MessageSizeTooLargeError

    with pytest.raises(ChangelogRefused, match="weren't acknowledged"):
        sent(Producer(spoil))
