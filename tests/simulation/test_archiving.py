"""Archivers that are killed, and stores that fail, at every step: nothing twice, nothing missing.

The topic is the truth: what it held of the recorded positions must be in the archive, byte for
byte, once, in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from archiving import ArchiveWorld

from mirrorlog.archive.archive import Archive
from mirrorlog.archive.chains import missing_in
from mirrorlog.consumers.archive.archiver import Archiver, ArchiverPorts
from mirrorlog.errors import ArchiveFailed, MirrorlogError, StateDamaged
from mirrorlog.simulation.memory_archive import MemoryArchive


class Killed(BaseException):
    """The end of a process, which no `except Exception` sees."""


class _Failures:
    """Ends the n-th operation of a store, before or after its effect."""

    def __init__(self, world: ArchiveWorld, at: int, error: BaseException, *, after: bool) -> None:
        self.count, self._at, self._error = 0, at, error
        world.store.before = world.store.after = lambda step, name: None
        if after:
            world.store.after = self._count_one
        else:
            world.store.before = self._count_one

    def _count_one(self, step: str, name: str) -> None:
        self.count += 1
        if self.count == self._at:
            raise self._error


def _positions_twice(world: ArchiveWorld) -> list[int]:
    counted = Counter(row[0] for row in world.in_archive())
    return [position for position, count in counted.items() if count > 1]


def _check(world: ArchiveWorld) -> None:
    assert world.in_archive() == world.in_topic()
    assert _positions_twice(world) == []
    line = Archive(world.store).line(0, world.history.topic)
    end = world.broker.end_position(world.topics.commands, 0)
    assert missing_in(line, after=-1, through=end - 1) == []


def _some_commands(world: ArchiveWorld, count: int = 6) -> None:
    for number in range(count):
        world.clock.now_s += 3600.0
        world.write(f"vol{number % 3}", [(number * 4096, 4096), (1 << 40, 512)])
    world.append(b"vol1", b"no command")
    world.broker.append_marker(world.topics.commands, 0)
    world.append(None, None)
    world.record()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "error", [Killed(), ArchiveFailed("the store fails")], ids=["kill", "failure"]
)
def test_whichever_step_is_the_last_the_next_run_completes_the_archive(
    error: BaseException, after: bool
) -> None:
    at, was_reached = 0, True
    while was_reached:
        at += 1
        world = ArchiveWorld()
        _some_commands(world)
        failures = _Failures(world, at, error, after=after)
        try:
            world.archiver(range_bytes=200).run_partition(0)
        except (Killed, ArchiveFailed):
            was_reached = True
        else:
            was_reached = False
        failures.count = -(1 << 30)
        world.archiver(range_bytes=700).run_partition(0)
        _check(world)
    assert at > 5


def _run_interleaved(world: ArchiveWorld, random: Random) -> int:
    """Run two archivers; before some operations of one, the other runs a while. Return the races
    that one of them lost."""
    lost = 0

    def other_runs(step: str, name: str) -> None:
        nonlocal lost
        if random.random() < 0.4:
            before, world.store.before = world.store.before, lambda step, name: None
            other = world.archiver(range_bytes=random.choice((300, 500, 900)))
            lost += other.run_partition(0).lost_races
            world.store.before = before

    world.store.before = other_runs
    archiver = world.archiver(range_bytes=random.choice((300, 500, 900)))
    lost += archiver.run_partition(0).lost_races
    world.store.before = lambda step, name: None
    return lost


def test_two_archivers_at_once_write_nothing_twice() -> None:
    lost = 0
    for seed in range(25):
        random, world = Random(seed), ArchiveWorld()
        _some_commands(world, random.randrange(1, 20))
        lost += _run_interleaved(world, random)
        _check(world)
    assert lost > 5  # the races did happen


class _Overwriting(MemoryArchive):
    """A planted bug: a store that lets two archivers write one name, as S3 did for years."""

    def create(self, name: str, content: bytes) -> bool:
        self.before("create", name)
        self.objects[name] = bytes(content)
        self.after("create", name)
        return True


def test_a_store_that_creates_a_name_twice_is_found_out() -> None:
    noticed = 0
    for seed in range(25):
        random, world = Random(seed), ArchiveWorld()
        world.store = _Overwriting()
        _some_commands(world, random.randrange(5, 20))
        try:
            _run_interleaved(world, random)
            _check(world)
        except (AssertionError, StateDamaged):
            noticed += 1
    assert noticed > 5


def test_a_range_that_is_written_while_the_topic_grows_and_is_trimmed_stays_whole() -> None:
    for seed in range(15):
        random, world = Random(seed), ArchiveWorld()
        everything: list[object] = []
        for _ in range(6):
            _some_commands(world, random.randrange(1, 6))
            seen = {row[0] for row in everything}  # type: ignore[index]
            everything += [row for row in world.in_topic() if row[0] not in seen]
            failures = _Failures(world, random.randrange(1, 12), Killed(), after=True)
            try:
                world.archiver(range_bytes=400).run_partition(0)
            except Killed:
                continue
            finally:
                failures.count = -(1 << 30)
            world.broker.trim(
                world.topics.commands, 0, world.broker.end_position(world.topics.commands, 0)
            )
        world.archiver().run_partition(0)
        assert world.in_archive() == everything


def test_commands_that_a_renewed_history_lost_stay_in_the_archive_and_out_of_its_line() -> None:
    for seed in range(15):
        random, world = Random(seed), ArchiveWorld()
        topic = world.topics.commands
        for _ in range(3):
            _some_commands(world, random.randrange(1, 9))
            world.archiver(range_bytes=random.choice((300, 900))).run_partition(0)
            end = world.broker.end_position(topic, 0)
            world.broker.rewind(topic, 0, random.randrange(max(0, end - 9), end + 1))
            for number in range(random.randrange(1, 5)):
                world.clock.now_s += 1
                world.write("vol1", [(number << 20, 4096)])
            world.renew()
        world.archiver(range_bytes=300).run_partition(0)
        _check(world)
        chains = Archive(world.store).chains(0)
        assert [chain.history.epoch for chain in chains] == [1, 2, 3, 4]


def test_positions_used_again_before_the_node_notices_aren_t_archived() -> None:
    world = ArchiveWorld()
    _some_commands(world)
    world.archiver().run_partition(0)
    before = dict(world.store.objects)
    topic = world.topics.commands
    world.broker.rewind(topic, 0, 5)
    for number in range(30):
        world.write("vol9", [(number << 20, 4096)])
    result = world.archiver().run_partition(0)  # the log's anchor is another command
    assert "history ended" in result.waits_for and world.store.objects == before
    world.record()  # a node that noticed nothing
    with pytest.raises(MirrorlogError, match="holds another command than the archived one"):
        world.archiver().run_partition(0)
    assert world.store.objects == before


def test_commands_that_kafka_dropped_first_are_named_and_then_a_hole() -> None:
    world = ArchiveWorld()
    _some_commands(world)
    world.archiver().run_partition(0)
    _some_commands(world)
    world.broker.trim(world.topics.commands, 0, 12)
    with pytest.raises(MirrorlogError, match="positions 9 to 11"):
        world.archiver().run_partition(0)
    world.archiver(accepts_hole=True).run_partition(0)
    line = Archive(world.store).line(0, world.history.topic)
    assert missing_in(line, after=-1, through=17) == [(8, 11)]


def test_a_topic_that_was_made_anew_has_a_line_of_its_own() -> None:
    world = ArchiveWorld()
    _some_commands(world)
    world.archiver().run_partition(0)
    first_topic = world.history.topic
    world.broker.delete([world.topics.commands])
    world.broker.create(world.topics.specs(single_copy=True), partitions=1)
    _some_commands(world, 5)
    world.renew()
    world.archiver().run_partition(0)
    _check(world)
    old = Archive(world.store).line(0, first_topic)
    assert [part.through for part in old] == [8]


def test_nothing_is_archived_that_the_log_has_not_recorded() -> None:
    world = ArchiveWorld()
    world.write()
    result = Archiver.run_partition(world.archiver(), 0)
    assert not result.is_complete and world.store.objects == {}
    world.record()
    world.write()
    world.archiver().run_partition(0)
    assert [row[0] for row in world.in_archive()] == [0]


class _SlowReader:
    """Reads two messages at once, and calls a function before each poll."""

    def __init__(self, reader: Any, before_poll: Callable[[], None]) -> None:
        self._reader, self._before_poll = reader, before_poll

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Any:
        self._before_poll()
        return self._reader.poll(timeout_s, max_messages=min(max_messages, 2))


def _renewed_at_poll(world: ArchiveWorld, at: int) -> bool:
    """Archive; before a poll, let the topic go back, grow again, and the node renew the history.

    Return False if there weren't so many polls.
    """
    polls = 0

    def count_poll() -> None:
        nonlocal polls
        polls += 1
        if polls == at:
            world.broker.rewind(world.topics.commands, 0, 4)
            for number in range(20):
                world.write("vol9", [(number << 20, 4096)])
            world.renew()

    ports = ArchiverPorts(
        store=world.store,
        open_reader=lambda: _SlowReader(world.broker.reader(), count_poll),
        admin=world.broker,
        topics=world.topics,
        clock=world.clock,
    )
    with suppress(StateDamaged):  # it came between two questions of one look
        Archiver(ports).run_partition(0)
    return polls >= at


def test_a_history_that_is_renewed_while_its_commands_are_read_isn_t_mixed_with_the_next() -> None:
    at, was_renewed = 0, True
    while was_renewed:
        at, world = at + 1, ArchiveWorld()
        _some_commands(world, 12)
        was_renewed = _renewed_at_poll(world, at)
        world.archiver().run_partition(0)
        _check(world)
    assert at > 6
