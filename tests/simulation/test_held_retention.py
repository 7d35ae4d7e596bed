"""Retention never takes what isn't archived, whoever is killed and whoever sets a retention."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from random import Random

import pytest
from archiving import ArchiveWorld

from mirrorlog.archive.archive import Archive
from mirrorlog.consumers.archive.held_retention import HELD, HeldRetention
from mirrorlog.errors import StateDamaged
from mirrorlog.ports.clock import Clock
from mirrorlog.simulation.memory_broker import MemoryBroker

_KEEP_S = 5000.0


class _KeepingBroker(MemoryBroker):
    """A broker with the settings of one topic, which drops messages by their age."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.config: dict[str, str | None] = {
            "cleanup.policy": "delete",
            "retention.ms": "3600000",
            "retention.bytes": "-1",
        }

    def configs(self, topics: Collection[str]) -> dict[str, dict[str, str | None]]:
        return {topic: dict(self.config) for topic in topics}

    def set_config(self, topics: Sequence[str], config: Mapping[str, str]) -> list[str]:
        before = dict(self.config)
        self.config.update(config)
        return [] if before == self.config else list(topics)

    def delete_before(self, topic: str, partition: int, position: int) -> None:
        self.trim(topic, partition, position)

    def drop_old(self, topic: str) -> None:
        """Drop what the topic's own retention lets go."""
        assert self.clock is not None
        kept_ms = int(self.config["retention.ms"] or 0)
        if kept_ms < 0:
            return
        oldest_us = self.clock.now_us() - kept_ms * 1000
        log = self.partition(topic, 0)
        first = next((m.position for m in log.messages if m.at_us >= oldest_us), log.end)
        self.trim(topic, 0, first)


class _World(ArchiveWorld):
    def __init__(self) -> None:
        super().__init__()
        self.broker = self.keeping = _KeepingBroker(self.clock)
        self.broker.create(self.topics.specs(single_copy=True), partitions=1)
        self.held = HeldRetention(
            self.keeping, self.topics.commands, Archive(self.store), self.clock, _KEEP_S
        )

    def round(self) -> None:
        self.held.hold()
        view = self.archiver(range_bytes=400).run_partition(0).view
        assert view is not None
        self.held.delete_archived(view)


class _Killed(BaseException):
    pass


def _kill_at(world: _World, number: int) -> None:
    count = 0

    def count_one(step: str, name: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise _Killed

    world.store.after = count_one


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_archive_and_topic_together_hold_everything(seed: int) -> None:
    random, world = Random(seed), _World()
    topic = world.topics.commands
    world.held.hold()  # archiving is on from here on
    everything: dict[int, bytes | None] = {}
    deleted = False
    for _ in range(40):
        world.clock.now_s += random.choice((1.0, 600.0, 4000.0))
        match random.randrange(4):
            case 0:
                position = world.write("v", [(random.randrange(1 << 20), 512)])
                everything[position] = world.broker.messages(topic)[-1].value
            case 1:
                world.record()
            case 2:
                _kill_at(world, random.randrange(1, 30))
                with suppress(_Killed):
                    world.round()
                world.store.after = lambda step, name: None
            case _:
                world.keeping.drop_old(topic)
        held = {row[0]: row[2] for row in world.in_archive()}
        held |= {row[0]: row[2] for row in world.in_topic()}
        assert held == everything
        deleted |= world.broker.first_position(topic, 0) > 0
    assert seed or deleted  # it isn't that nothing is ever deleted


def test_only_what_is_old_is_deleted_and_only_what_is_archived() -> None:
    world = _World()
    topic = world.topics.commands
    for _ in range(10):
        world.write()
        world.clock.now_s += 1000.0
    world.record(7)
    world.round()
    # At 10,000 s, what was appended before 5,000 s is older than is kept.
    assert world.broker.first_position(topic, 0) == 5
    world.clock.now_s += 1e6
    world.round()
    assert world.broker.first_position(topic, 0) == 8


def test_a_retention_that_somebody_sets_is_overruled_and_told() -> None:
    world = _World()
    assert world.held.hold() == {"retention.ms": "3600000"}
    assert world.held.hold() == {}
    world.keeping.config["retention.ms"] = "1000"
    assert world.held.hold() == {"retention.ms": "1000"}
    assert world.keeping.config == HELD


def test_nothing_is_deleted_while_a_file_of_the_archive_is_missing() -> None:
    world = _World()
    for _ in range(5):
        world.write()
    world.record()
    world.archiver().run_partition(0)
    (name,) = [name for name in world.store.objects if name.startswith("commands/")]
    del world.store.objects[name]
    world.clock.now_s += 1e6
    with pytest.raises(StateDamaged, match="isn't deleted"):
        world.round()
    assert world.broker.first_position(world.topics.commands, 0) == 0
