"""Times of commands that only an archive has: the answers are those of the whole topic."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from archiving import ArchiveWorld
from logs import Log
from notation import command, volume

from mirrorlog.archive.archive import Archive
from mirrorlog.archive.archived_topic import ArchivedTopic
from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.points import AtEnd, AtTime
from mirrorlog.changed.query import changed_blocks
from mirrorlog.codec.events import encode
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import position_time_key

pytest.importorskip("pyarrow")
LAST_S = 200


def _log(random: Random) -> Log:
    """Return a log of commands that hosts publish up to three seconds after their writes."""
    log = Log([volume("v", 1 << 30)])
    times = sorted(random.randrange(1, LAST_S) for _ in range(60))
    commands = [
        command(
            f"{number * 4096}+4096",
            sequence=number,
            first_at_us=(at_s - random.randrange(4)) * 10**6,
            last_at_us=at_s * 10**6,
        )
        for number, at_s in enumerate(times)
    ]
    log.publish(commands, [float(at_s) for at_s in times])
    while log.next < len(commands):
        log.flush(random.randint(1, 20))
    return log


def _ask(log: Log, since_us: int, until_us: int, archived: ArchivedTopic | None) -> ChangedBlocks:
    ports = replace(log.ports(), archived=archived)
    return changed_blocks("v", AtTime(since_us), AtTime(until_us), ports, 0)


def _archived(log: Log, range_bytes: int) -> ArchivedTopic:
    world = ArchiveWorld()
    world.broker, world.topics, world.clock = log.broker, log.topics, log.broker_clock
    world.record()
    world.archiver(range_bytes=range_bytes).run_partition(0)
    return ArchivedTopic(Archive(world.store), log.broker.identity(log.topics.commands))


def _pairs(random: Random) -> list[tuple[int, int]]:
    times = [random.randrange(1, LAST_S + 5) * 10**6 + random.choice((0, 1)) for _ in range(12)]
    return [(min(pair), max(pair)) for pair in pairwise(times)]


@pytest.mark.parametrize("seed", range(12))
def test_answers_of_times_are_the_same_when_the_archive_alone_has_the_commands(seed: int) -> None:
    random = Random(seed)
    log, pairs = _log(random), _pairs(random)
    whole = [_ask(log, *pair, None) for pair in pairs]
    archived = _archived(log, random.choice((300, 2000, 1 << 20)))
    end = log.broker.end_position(log.topics.commands, 0)
    for first in sorted({random.randrange(end), end // 2, end}):
        log.broker.trim(log.topics.commands, 0, first)
        for pair, expected in zip(pairs, whole, strict=True):
            answer = _ask(log, *pair, archived)
            assert set(answer.changed) == set(expected.changed), (first, pair)
            assert (answer.since, answer.until) == (expected.since, expected.until), (first, pair)


def test_without_an_archive_position_times_bound_what_was_appended_until_a_time() -> None:
    log = _log(Random(1))
    messages = log.broker.messages(log.topics.commands)
    notes = [messages[number] for number in range(9, 60, 10)]
    for note in notes:
        time = Watermark(partition=0, through=note.position, at_us=note.at_us)
        log.broker.append(
            log.topics.changelog, 0, position_time_key(0, at_us=note.at_us), encode(time)
        )
    log.broker.trim(log.topics.commands, 0, 55)
    for number, message in enumerate(messages[:50]):
        answer = changed_blocks("v", AtTime(0), AtTime(message.at_us), log.ports(), 0)
        behind = next(note for note in notes if note.at_us > message.at_us)
        assert number <= answer.until
        assert answer.until <= max(behind.position, _record_end(log, behind.position))
    whole = changed_blocks("v", AtTime(0), AtEnd(), log.ports(), 0)
    assert whole.until == 59


def _record_end(log: Log, position: int) -> int:
    """Return where the record ends that holds a position."""
    records = [parts[0] for parts in log.ports().logs.read(volume(), -1, 0).log.complete_records()]
    return max(record.through for record in records if record.after < position <= record.through)
