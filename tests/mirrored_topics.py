"""A mirror of a volume's log in another cluster, in memory, and a source that answers questions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from notation import record, volume

from mirrorlog.changed.mirrored import ASKER, MirroredCommands, MirroredLogSource
from mirrorlog.changed.points import Point
from mirrorlog.changed.query import changed_blocks
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.codec.events import encode
from mirrorlog.domain.log_questions import LogAnswer, LogQuestion
from mirrorlog.domain.volumes import Volume
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.clusters import NamedCluster
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.reading.mirrored_rows import MirroredRows
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
    """A mirror with the records (-1, 4] and (4, 9] of a volume, and a source that answers.

    The commands at the source end at position 11.
    """

    def __init__(self, *, answers: bool = True, described: Volume = V) -> None:
        self.broker, self.clock = MemoryBroker("mirror"), ManualClock(look_s=0.6)
        self.broker.create([*TOPICS.specs(single_copy=True), *TOPICS.mirror_specs()], 1)
        self.broker.append(TOPICS.volumes, 0, b"v", encode(described))
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

    def questions(self) -> SourceQuestions:
        return SourceQuestions(ASKER, "run", self.publish, self.clock)

    def log_reader(self, questions: SourceQuestions, site: str) -> LogReader:
        """Return what reads the log as the site does."""
        return LogReader(
            self.broker.reader(),
            self.broker,
            TOPICS.changelog,
            [0],
            site=site,
            mirrored=MirroredRows(questions),
            cluster=NamedCluster("source"),
        )

    def ports(self) -> QueryPorts:
        """Return the ports of a question to the mirror."""
        broker, clock = self.broker, self.clock
        logs = MirroredLogSource(
            broker.reader, broker, TOPICS.changelog, clock, "source", self.questions
        )
        cluster = NamedCluster("source")
        return QueryPorts(
            broker.reader,
            broker,
            Catalog(broker.reader(), broker, TOPICS, clock, cluster=cluster),
            TOPICS,
            clock,
            logs,
            open_commands=partial(MirroredCommands, logs),
        )

    def ask(self, since: Point, until: Point) -> tuple[set[int], int]:
        """Return the blocks that changed, and the position through which the answer goes."""
        answer = changed_blocks("v", since, until, self.ports(), 30.0)
        return set(answer.changed), answer.until
