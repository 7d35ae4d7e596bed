"""The ports by which a site reads the log from a mirror in its own cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from mirrorlog.consumers.resync.command_ends import MirroredCommandEnds
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Publisher, TopicAdmin, TopicReader
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.clusters import NamedCluster
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.reading.mirrored_rows import MirroredRows
from mirrorlog.reading.source_questions import SourceQuestions, question_publisher
from mirrorlog.settings import Settings


@dataclass(frozen=True, slots=True)
class MirroredPorts:
    """The log and the descriptions as a mirror has them, and the questions to its source."""

    log: LogReader
    catalog: Catalog
    ends: MirroredCommandEnds


def check_mirror(settings: Settings, admin: TopicAdmin) -> None:
    """Raise BadUse if this cluster is the one that it is to be a mirror of.

    Raise KafkaFailed, which names the topic, if one of the topics doesn't exist.
    """
    own, topics = admin.cluster_id(), settings.topics
    if own == settings.kafka_mirror_of:
        raise BadUse(
            f"this cluster is {own} itself, and no mirror of it",
            where="kafka_mirror_of",
            next="Leave --mirror-of out here, or name the servers of the site's own cluster.",
        )
    for name in (topics.changelog, topics.volumes, topics.questions, topics.progress):
        admin.partitions(name)


def mirrored_ports(
    site: str,
    settings: Settings,
    admin: TopicAdmin,
    publisher: Publisher,
    clock: Clock,
    *,
    log_reader: TopicReader,
    catalog_reader: TopicReader,
    partitions: Sequence[int] | None = None,
) -> MirroredPorts:
    """Return the ports of a site that reads a mirror of the cluster `kafka_mirror_of`.

    partitions: those of the log to read; None: all.
    """
    source = NamedCluster(settings.kafka_mirror_of)
    log, questions = mirrored_log(
        site, settings, admin, publisher, clock, log_reader, partitions, asker=site
    )
    catalog = Catalog(
        catalog_reader, admin, settings.topics, clock, settings.patience_s, cluster=source
    )
    return MirroredPorts(log, catalog, MirroredCommandEnds(questions))


def mirrored_log(
    site: str,
    settings: Settings,
    admin: TopicAdmin,
    publisher: Publisher,
    clock: Clock,
    reader: TopicReader,
    partitions: Sequence[int] | None,
    *,
    asker: str,
) -> tuple[LogReader, SourceQuestions]:
    """Return the mirrored log as a site reads it, and the questions that prove it.

    partitions: those of the log to read; None: all. asker: who puts the questions.
    """
    topics = settings.topics
    publish = question_publisher(publisher, topics.questions)
    questions = SourceQuestions(asker, str(uuid4()), publish, clock)
    log = LogReader(
        reader,
        admin,
        topics.changelog,
        partitions,
        site=site,
        mirrored=MirroredRows(questions),
        cluster=NamedCluster(settings.kafka_mirror_of),
    )
    return log, questions
