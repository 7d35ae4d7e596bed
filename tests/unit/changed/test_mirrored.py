"""`changed` on a mirror answers what the source proves, and refuses what only the source knows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from notation import record, volume

from mirrorlog.changed.mirrored import ASKER, MirroredCommands, MirroredLogSource
from mirrorlog.changed.points import AtEnd, AtOrigin, AtPosition, Point, parse_point
from mirrorlog.changed.query import changed_blocks
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.codec.events import encode
from mirrorlog.domain.log_questions import LogAnswer, LogQuestion
from mirrorlog.errors import BadUse, KafkaFailed, OutOfRetention, WrongCluster
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.clusters import NamedCluster
from mirrorlog.reading.source_questions import SourceQuestions
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.head_census import HeadCensus
from mirrorlog.tracking_log.heads import VolumeHead, Watermark
from mirrorlog.tracking_log.keys import answer_key, head_key, record_key, watermark_key

TOPICS = replace(Topics(), mirror_prefix="source.")
V = volume(cluster="source")


class Mirror:
    """A mirror with the records (-1, 4] and (4, 9] of a volume, and a source that answers."""

    def __init__(self, *, answers: bool = True) -> None:
        self.broker, self.clock = MemoryBroker("mirror"), ManualClock(look_s=0.6)
        self.broker.create([*TOPICS.specs(single_copy=True), *TOPICS.mirror_specs()], 1)
        self.broker.append(TOPICS.volumes, 0, b"v", encode(V))
        self.answers, self.census = answers, HeadCensus()
        for row in (record("-1..4", "1"), record("4..9", "2")):
            self.broker.append(TOPICS.changelog, 0, record_key(row), encode(row))
        key, value = head_key("v"), encode(VolumeHead("v", V.generation, through=9))
        self.census.note(key, value)
        self.broker.append(TOPICS.changelog, 0, key, value)
        mark = Watermark(partition=0, through=11, at_us=0)
        self.broker.append(TOPICS.changelog, 0, watermark_key(0), encode(mark))

    def publish(self, question: LogQuestion) -> None:
        answer = LogAnswer(
            asker=question.asker,
            run=question.run,
            number=question.number,
            partition=0,
            topic="t",
            first_kept=0,
            end=12,
            position=-1,
            anchor=None,
            epoch=0,
            through=11,
            heads=len(self.census),
            heads_digest=self.census.digest,
        )
        if self.answers:
            self.broker.append(TOPICS.changelog, 0, answer_key(ASKER), encode(answer))

    def ask(self, since: Point, until: Point) -> tuple[set[int], int]:
        broker, clock = self.broker, self.clock
        cluster = NamedCluster("source")
        logs = MirroredLogSource(
            broker.reader, broker, TOPICS.changelog, clock, "source",
            lambda: SourceQuestions(ASKER, "run", self.publish, clock),
        )  # fmt: skip
        ports = QueryPorts(
            broker.reader,
            broker,
            Catalog(broker.reader(), broker, TOPICS, clock, cluster=cluster),
            TOPICS,
            clock,
            logs,
            open_commands=partial(MirroredCommands, logs),
        )
        answer = changed_blocks("v", since, until, ports, 30.0)
        return set(answer.changed), answer.until


def test_what_the_source_proves_is_answered_through_its_end() -> None:
    assert Mirror().ask(AtOrigin(), AtEnd()) == ({1, 2}, 11)
    assert Mirror().ask(AtPosition(4), AtEnd()) == ({2}, 11)
    assert Mirror().ask(AtOrigin(), AtPosition(4)) == ({1}, 4)


def test_the_middle_of_a_record_times_and_barriers_need_the_source() -> None:
    with pytest.raises(OutOfRetention, match="in the middle of a log record"):
        Mirror().ask(AtPosition(2), AtEnd())
    for point in ("barrier:b", "1970-01-01T00:00:05Z"):
        with pytest.raises(BadUse, match="times and barriers mean nothing"):
            Mirror().ask(parse_point(point, 10**9), AtEnd())


def test_without_an_answer_nothing_is_answered() -> None:
    with pytest.raises(KafkaFailed, match="the source of the mirror didn't answer"):
        Mirror(answers=False).ask(AtOrigin(), AtEnd())


def test_a_third_clusters_volume_is_refused() -> None:
    mirror = Mirror()
    other = replace(V, cluster="third", described_position=99)
    mirror.broker.append(TOPICS.volumes, 0, b"v", encode(other))
    with pytest.raises(WrongCluster, match="to be a mirror of cluster source"):
        mirror.ask(AtOrigin(), AtEnd())
