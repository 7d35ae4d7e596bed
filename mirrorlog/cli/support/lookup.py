"""What there is, asked once."""

from __future__ import annotations

from collections.abc import Iterator

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.streams import Message
from mirrorlog.reading.catalog import Catalog
from mirrorlog.settings import Settings


def load_volumes(settings: Settings) -> dict[str, Volume]:
    """Every volume that is described, by name."""
    admin, reader = KafkaAdmin(settings.kafka_client()), KafkaReader(settings.kafka_client())
    try:
        catalog = Catalog(reader, admin, settings.topics, SystemClock())
        catalog.refresh()
        return dict(catalog)
    finally:
        reader.close()
        admin.close()


def find_volume(settings: Settings, name: str) -> Volume:
    """The volume; BadUse where there is none of that name."""
    found = load_volumes(settings).get(name)
    if found is None:
        raise BadUse(
            f"there is no volume '{name[:220]}'",
            next="`mirrorlog volume list` shows those there are.",
        )
    return found


def read_topic(
    settings: Settings, topic: str, partition: int | None = None, *, follow: bool = False
) -> Iterator[Message]:
    """What a topic, or one partition of it, holds now, from the oldest kept; with `follow` what comes after, for ever."""
    admin, reader = KafkaAdmin(settings.kafka_client()), KafkaReader(settings.kafka_client())
    wanted = range(admin.partitions(topic)) if partition is None else [partition]
    ends = {number: admin.end_position(topic, number) for number in wanted}
    reader.assign(topic, dict.fromkeys(ends))
    try:
        while follow or any(reader.reached(topic, number) < end for number, end in ends.items()):
            yield from reader.poll(0.5)
    finally:
        reader.close()
        admin.close()
