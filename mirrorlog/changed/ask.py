"""The question which blocks changed, asked of Kafka from Python: `changed("vol1", since="2h ago")`.

The command line asks in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

from mirrorlog.adapters.archive_addresses import open_archive_store
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.archive.archive import Archive
from mirrorlog.archive.archived_topic import ArchivedTopic
from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.formats import ByteRun, changed_runs
from mirrorlog.changed.logs import TopicLogSource
from mirrorlog.changed.mirrored import ASKER, MirroredCommands, MirroredLogSource
from mirrorlog.changed.points import AtPosition, Point
from mirrorlog.changed.query import changed_blocks
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.changed.worded_times import understand_point
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.streams import TopicReader
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.clusters import NamedCluster
from mirrorlog.reading.source_questions import SourceQuestions, question_publisher
from mirrorlog.settings import Settings, load_settings


@dataclass(frozen=True, slots=True, eq=False)
class ChangedExtents:
    """The extents of a volume that changed in `(since, until]`. Iterate over it to get them.

    They are ByteRuns: `start` and `length` in bytes, ascending, multiples of the volume's block
    size but at its end. `zero`: known to be zeroed or discarded whole. blocks: the whole answer.
    """

    blocks: ChangedBlocks

    @property
    def since(self) -> int:
        """The log position after which the answer begins."""
        return self.blocks.since

    @property
    def until(self) -> int:
        """The log position through which the answer goes: the next question's `since`."""
        return self.blocks.until

    def __iter__(self) -> Iterator[ByteRun]:
        return changed_runs(self.blocks)


def changed(
    volume: str,
    since: str | int = "origin",
    until: str | int = "now",
    settings: Settings | None = None,
    *,
    patience_s: float = 30.0,
) -> ChangedExtents:
    """Return what changed after the point `since`, through the point `until`.

    since, until: a log position, or a point in words (docs/changed.md).
    settings: those of `MIRRORLOG_*` by default.
    patience_s: how long to wait for the log to reach `until`.

    An answer is complete: otherwise this raises. Errors: those of changed.query.changed_blocks, and
    BadUse for a text that names no point.
    """
    given = load_settings() if settings is None else settings
    return ChangedExtents(ask_kafka(given, volume, point_of(since), point_of(until), patience_s))


def ask_kafka(
    settings: Settings, volume: str, since: Point, until: Point, patience_s: float
) -> ChangedBlocks:
    """Return which blocks of `volume` changed after `since`, through `until`, by Kafka itself.

    Errors: those of changed.query.changed_blocks.
    """
    with query_ports(settings, patience_s) as ports:
        return changed_blocks(volume, since, until, ports, patience_s)


@contextmanager
def query_ports(settings: Settings, patience_s: float) -> Iterator[QueryPorts]:
    """Open what a question to Kafka needs, and close it. patience_s: how long Kafka is waited for.

    A mirror of the log is read as far as its source proves it. Raise KafkaFailed.
    """
    client, topics, clock = settings.kafka_client(), settings.topics, SystemClock()
    source = settings.kafka_mirror_of

    def open_reader() -> TopicReader:
        return KafkaReader(client, patience_s)

    with ExitStack() as opened:
        admin = KafkaAdmin(client, patience_s)
        opened.callback(admin.close)
        cluster = NamedCluster(source) if source else None
        catalog = Catalog(open_reader(), admin, topics, clock, patience_s, cluster=cluster)
        opened.callback(catalog.close)
        if not source:
            log_topic = TopicLogSource(open_reader, admin, topics.changelog, clock)
            yield QueryPorts(
                open_reader,
                admin,
                catalog,
                topics,
                clock,
                log_topic,
                archived=opened.enter_context(archived_topic(settings, admin)),
            )
            return
        publisher = KafkaPublisher(client)
        opened.callback(publisher.close)
        publish = question_publisher(publisher, topics.questions)
        mirror = MirroredLogSource(
            open_reader,
            admin,
            topics.changelog,
            clock,
            source,
            lambda: SourceQuestions(ASKER, str(uuid4()), publish, clock),
        )
        opened.callback(mirror.close)
        yield QueryPorts(
            open_reader,
            admin,
            catalog,
            topics,
            clock,
            mirror,
            open_commands=partial(MirroredCommands, mirror),
        )


@contextmanager
def archived_topic(settings: Settings, admin: KafkaAdmin) -> Iterator[ArchivedTopic | None]:
    """Yield what is archived of the commands topic; None if the settings name no archive."""
    if not settings.archive:
        yield None
        return
    store = open_archive_store(
        settings.archive, settings.archive_s3, settings.archive_s3_credentials
    )
    with closing(store):
        yield ArchivedTopic(Archive(store), admin.identity(settings.topics.commands))


def point_of(point: str | int) -> Point:
    """Return the point that a position, or a text, names now. Raise BadUse if it names none."""
    if isinstance(point, int):
        return AtPosition(point)
    return understand_point(point, SystemClock().now_us())
