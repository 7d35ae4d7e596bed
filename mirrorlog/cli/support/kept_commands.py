"""The commands of a partition as they are kept now, for what compares them with a tree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.cli.support.lookup import patience_for
from mirrorlog.ports.streams import Message
from mirrorlog.reading.read_through import read_range
from mirrorlog.settings import Settings


@dataclass(frozen=True, slots=True)
class KeptRange:
    """What the topic keeps of a partition: [first, end). topic: Kafka's id of it."""

    topic: str
    first: int
    end: int


def kept_range(settings: Settings, partition: int) -> KeptRange:
    """Return what the commands topic keeps of a partition now."""
    name = settings.topics.commands
    with closing(KafkaAdmin(settings.kafka_client())) as admin:
        return KeptRange(admin.identity(name), *admin.bounds(name, partition))


def kept_commands(settings: Settings, partition: int, *, start: int, end: int) -> Iterator[Message]:
    """Yield the commands at [start, end), which the topic must keep."""
    client = settings.kafka_client()
    yield from read_range(
        lambda: KafkaReader(client),
        settings.topics.commands,
        partition,
        patience_for("reading the commands"),
        start=start,
        end=end,
    )
