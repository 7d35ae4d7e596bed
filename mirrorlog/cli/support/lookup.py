"""Look-ups of a command: volumes by name, and what a topic holds now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Final

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.streams import Message
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.read_through import ReadPatience, read_through
from mirrorlog.settings import Settings

_PATIENCE_S: Final = 30.0


def load_volumes(settings: Settings) -> dict[str, Volume]:
    """Return the description of every volume, by name."""
    with closing(load_catalog(settings)) as catalog:
        return dict(catalog)


def find_volume(settings: Settings, name: str) -> Volume:
    """Return the description of volume `name`. Raise UnknownVolume if there is none."""
    with closing(load_catalog(settings)) as catalog:
        return catalog.volume_named(name)


def load_catalog(settings: Settings) -> Catalog:
    """Return a catalog with every description published before the call. The caller closes it."""
    reader = KafkaReader(settings.kafka_client())
    try:
        with closing(KafkaAdmin(settings.kafka_client())) as admin:
            catalog = Catalog(reader, admin, settings.topics, SystemClock())
            catalog.refresh()
            return catalog
    except BaseException:
        reader.close()
        raise


def read_topic(settings: Settings, topic: str, partition: int | None = None) -> Iterator[Message]:
    """Yield what a topic, or one partition of it, holds now, from the oldest position kept.

    Raise KafkaFailed as read_through does.
    """
    with (
        closing(KafkaAdmin(settings.kafka_client())) as admin,
        closing(KafkaReader(settings.kafka_client())) as reader,
    ):
        partitions = range(admin.partitions(topic)) if partition is None else [partition]
        ends = {number: admin.end_position(topic, number) for number in partitions}
        reader.assign(topic, dict.fromkeys(ends))
        yield from read_through(reader, topic, ends, patience_for(f"reading topic {topic}"))


def patience_for(purpose: str) -> ReadPatience:
    """Return how long a command waits for a topic that makes no progress."""
    return ReadPatience(SystemClock(), _PATIENCE_S, purpose, poll_s=0.5)
