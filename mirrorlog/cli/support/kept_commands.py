"""The commands of a partition as they are kept now, for what compares them with a tree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.archive.archived_topic import ArchivedTopic
from mirrorlog.cli.support.lookup import patience_for
from mirrorlog.consumers.archive.wiring import open_archive
from mirrorlog.ports.streams import Message
from mirrorlog.reading.read_through import read_range
from mirrorlog.settings import Settings


@dataclass(frozen=True, slots=True)
class KeptRange:
    """What is kept of a partition: [first, end). topic: Kafka's id of it."""

    topic: str
    first: int
    end: int


def kept_range(settings: Settings, partition: int) -> KeptRange:
    """Return what is kept of a partition now, in the commands topic and in an archive below it."""
    name = settings.topics.commands
    with closing(KafkaAdmin(settings.kafka_client())) as admin:
        topic = admin.identity(name)
        first, end = admin.bounds(name, partition)
        with archived_topic(settings, admin) as archived:
            if archived is not None:
                first = archived.covered_after(partition, below=first) + 1
        return KeptRange(topic, first, end)


def kept_commands(settings: Settings, partition: int, *, start: int, end: int) -> Iterator[Message]:
    """Yield the commands at [start, end), which must be kept: what the topic lacks from the
    archive."""
    client, name = settings.kafka_client(), settings.topics.commands
    with closing(KafkaAdmin(client)) as admin, archived_topic(settings, admin) as archived:
        first = admin.first_position(name, partition)
        if archived is not None and start < first:
            through = min(first, end) - 1
            yield from archived.messages(partition, after=start - 1, through=through)
            start = first
        yield from read_range(
            lambda: KafkaReader(client),
            name,
            partition,
            patience_for("reading the commands"),
            start=start,
            end=end,
        )


@contextmanager
def archived_topic(settings: Settings, admin: KafkaAdmin) -> Iterator[ArchivedTopic | None]:
    """Yield what is archived of the commands topic; None if the settings name no archive."""
    if not settings.archive:
        yield None
        return
    with open_archive(settings, "") as archive:
        yield ArchivedTopic(archive, admin.identity(settings.topics.commands))
