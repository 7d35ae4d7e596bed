"""The order of the changelog and the store, when another worker writes to the changelog, too."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from mirrorlog.errors import OutOfRetention
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.table.local_store import Row
from mirrorlog.streams.table.log_table import LogTable
from mirrorlog.streams.table.outgoing import Outgoing
from mirrorlog.topics import Topics

TOPICS = Topics()


class Store:
    """A table in memory."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes | None] = {}
        self.position: int | None = None

    def write(self, _: int, rows: Sequence[Row], positions: Sequence[int]) -> None:
        self.rows.update(rows)
        self.position = max(positions)

    def changelog_position(self, _: int) -> int | None:
        return self.position


class World:
    """A worker, and a changelog to which others can append."""

    def __init__(self) -> None:
        self.broker, self.store = MemoryBroker(), Store()
        self.broker.create(TOPICS.specs(single_copy=True), 1)
        self.table = LogTable(self.send, self.store, TOPICS, CommitGate(TOPICS.commands))  # type: ignore[arg-type]
        self.between = 0

    async def send(self, messages: Sequence[Outgoing]) -> list[int]:
        positions = []
        for message in messages:
            for _ in range(self.between):
                self.append_other()
            positions.append(
                self.broker.append(message.topic, 0, message.key, message.value or b"")
            )
        return positions

    def append_other(self) -> None:
        self.broker.append(TOPICS.changelog, 0, b"other", b"x")

    def append(self, *keys: bytes) -> None:
        asyncio.run(self.table.append(0, [(key, b"value") for key in keys]))


def test_a_table_that_lacks_rows_of_another_worker_is_read_again_from_there() -> None:
    """A worker that lost the partition rolled records up: their roll-up, then their deletion."""
    world = World()
    world.append(b"1", b"2")
    assert world.store.position == 1
    world.append_other()
    world.append(b"3")
    world.append(b"4")
    assert (world.store.position, set(world.store.rows)) == (1, {b"1", b"2", b"3", b"4"})


def test_rows_of_another_worker_among_those_of_one_append_count_as_well() -> None:
    world = World()
    world.append(b"1")
    world.between = 1
    world.append(b"2", b"3")
    assert world.store.position == 0


def test_rows_of_others_are_told_of_once() -> None:
    world = World()
    world.append(b"1")
    world.append(b"2", b"3")
    assert not world.table.take_strangers(0)
    world.append_other()
    world.append(b"4")
    world.append(b"5")
    assert world.table.take_strangers(0)
    assert not world.table.take_strangers(0)


def test_a_changelog_that_went_back_is_found_behind_the_rows_of_another_worker() -> None:
    world = World()
    world.append(b"1", b"2")
    world.append_other()
    world.append(b"3")
    end = world.broker.end_position(TOPICS.changelog, 0)
    messages = world.broker.partition(TOPICS.changelog, 0).messages
    del messages[-1]
    world.broker.partition(TOPICS.changelog, 0).end = end - 1
    with pytest.raises(OutOfRetention):
        world.append(b"4")
