"""Archive and topic together: no row twice and none missing at the seam, by position."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from archiving import ArchiveWorld, described

from mirrorlog.archive.archive import Archive
from mirrorlog.archive.archived_topic import ArchivedTopic
from mirrorlog.changed.kept_commands import commands_among
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import OutOfRetention
from mirrorlog.history.archive_history import ArchiveHistory, JoinedHistory
from mirrorlog.history.batches import HistoryBatch
from mirrorlog.history.command_rows import command_rows
from mirrorlog.history.source import CoveredRange
from mirrorlog.history.topic_history import TopicHistory
from mirrorlog.reading.read_through import ReadPatience

pytest.importorskip("pyarrow")

VOLUME = described("v")


def _fill(world: ArchiveWorld, random: Random, count: int) -> None:
    for _ in range(count):
        world.clock.now_s += 1
        kind = random.randrange(8)
        if kind == 0:
            world.append(b"v", b"no command")
        elif kind == 1:
            world.append(None, b"no command of any volume")
        elif kind == 2:
            world.broker.append_marker(world.topics.commands, 0)
        else:
            extents = [(random.randrange(1 << 31), 4096) for _ in range(random.randrange(4))]
            world.write(random.choice(("v", "v", "w")), extents)
    world.write("v")


def _topic(world: ArchiveWorld) -> TopicHistory:
    patience = ReadPatience(world.clock, 30.0, "reading")
    return TopicHistory(world.broker.reader, world.broker, world.topics, patience)


def _archived(world: ArchiveWorld) -> ArchivedTopic:
    return ArchivedTopic(Archive(world.store), world.broker.identity(world.topics.commands))


def _joined(world: ArchiveWorld) -> JoinedHistory:
    return JoinedHistory(_topic(world), ArchiveHistory(_archived(world)))


def _rows(batches: list[HistoryBatch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.to_dicts()]


def _all_rows(world: ArchiveWorld, after: int, through: int) -> list[dict[str, Any]]:
    messages = world.broker.messages(world.topics.commands)
    chosen = [m for m in messages if after < m.position <= through]
    return _rows([command_rows(chosen, VOLUME, through=through)])


def test_rows_across_archive_and_topic_are_those_of_the_whole_topic() -> None:
    for seed in range(20):
        random, world = Random(seed), ArchiveWorld()
        topic = world.topics.commands
        _fill(world, random, 30)
        world.record()
        world.archiver(range_bytes=random.choice((200, 800, 1 << 20))).run_partition(0)
        _fill(world, random, 10)
        end = world.broker.end_position(topic, 0)
        asked = sorted(random.sample(range(-1, end), 2))
        expected = _all_rows(world, asked[0], asked[1])
        archived_through = _archived(world).covered(0)[-1][1]
        world.broker.trim(topic, 0, random.randrange(archived_through + 2))
        joined = _joined(world)
        assert joined.covered(VOLUME) == [CoveredRange(after=-1, through=end - 1)]
        batches = list(joined.batches(VOLUME, after=asked[0], through=asked[1]))
        assert _rows(batches) == expected
        assert batches[-1].through == asked[1]


def test_what_the_topic_drops_while_it_is_read_comes_from_the_archive() -> None:
    world = ArchiveWorld()
    _fill(world, Random(1), 60)
    world.record()
    world.archiver().run_partition(0)
    end = world.broker.end_position(world.topics.commands, 0)
    expected = _all_rows(world, -1, end - 1)

    def small_parts(history: TopicHistory) -> Callable[..., Any]:
        whole = history.batches

        def batches(volume: Volume, *, after: int, through: int) -> Any:
            for first in range(after, through, 7):
                yield from whole(volume, after=first, through=min(first + 7, through))

        return batches

    topic = _topic(world)
    topic.batches = small_parts(topic)  # type: ignore[method-assign]
    rows: list[dict[str, Any]] = []
    joined = JoinedHistory(topic, ArchiveHistory(_archived(world)))
    for batch in joined.batches(VOLUME, after=-1, through=end - 1):
        rows += batch.to_dicts()
        world.broker.trim(world.topics.commands, 0, min(batch.through + 12, end - 3))
    assert rows == expected


def test_a_hole_between_archive_and_topic_is_no_seam() -> None:
    world = ArchiveWorld()
    _fill(world, Random(2), 20)
    world.record(10)
    world.archiver().run_partition(0)
    world.broker.trim(world.topics.commands, 0, 15)
    joined = _joined(world)
    end = world.broker.end_position(world.topics.commands, 0)
    assert joined.covered(VOLUME) == [
        CoveredRange(after=-1, through=10),
        CoveredRange(after=14, through=end - 1),
    ]
    with pytest.raises(OutOfRetention):
        list(joined.batches(VOLUME, after=5, through=end - 1))
    assert _archived(world).covered_after(0, below=15) == 14
    assert _archived(world).covered_after(0, below=11) == -1


def test_what_the_topic_lost_when_it_went_back_is_not_in_its_history() -> None:
    world = ArchiveWorld()
    _fill(world, Random(3), 20)
    world.record()
    world.archiver().run_partition(0)
    world.broker.rewind(world.topics.commands, 0, 8)
    for _ in range(20):
        world.write("v", [(1 << 20, 512)])
    world.broker.trim(world.topics.commands, 0, 5)
    joined = _joined(world)  # the node hasn't renewed the history yet
    rows = _rows(list(joined.batches(VOLUME, after=-1, through=20)))
    assert [row["position"] for row in rows if row["position"] >= 8] == list(range(8, 21))
    assert {row["offset"] for row in rows if row["position"] >= 8} == {1 << 20}


def test_older_commands_are_those_that_the_topic_had() -> None:
    world = ArchiveWorld()
    _fill(world, Random(4), 40)
    world.record()
    world.archiver(range_bytes=300).run_partition(0)
    messages = _archived(world).messages(0, after=3, through=33, volume="v")
    kept = list(commands_among(messages, VOLUME))
    assert kept
    positions = [command.position for command in kept]
    assert positions == sorted(set(positions)) and positions[0] > 3 and positions[-1] <= 33
    expected = {r["position"] for r in _all_rows(world, 3, 33) if r["kind"] != "refused"}
    assert expected <= set(positions)
