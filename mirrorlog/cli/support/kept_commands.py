"""The commands of a partition as they are kept now, for what compares them with a tree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.changed.ask import archived_topic
from mirrorlog.cli.support.lookup import patience_for
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
