"""Look-ups of a command: volumes by name, and what a topic holds now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Final

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.cli.support.mirror_options import mirror_error
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.streams import Message
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.clusters import NamedCluster
from mirrorlog.reading.read_through import ReadPatience, read_through
from mirrorlog.settings import Settings

_PATIENCE_S: Final = 30.0


def load_volumes(settings: Settings, *, may_be_mirror: bool = False) -> dict[str, Volume]:
    """Return the description of every volume, by name. may_be_mirror: as for load_catalog()."""
    with closing(load_catalog(settings, may_be_mirror=may_be_mirror)) as catalog:
        return dict(catalog)


def find_volume(settings: Settings, name: str, *, may_be_mirror: bool = False) -> Volume:
    """Return the description of volume `name`. Raise UnknownVolume if there is none.

    may_be_mirror: as for load_catalog().
    """
    with closing(load_catalog(settings, may_be_mirror=may_be_mirror)) as catalog:
        return catalog.volume_named(name)


def load_catalog(settings: Settings, *, may_be_mirror: bool = False) -> Catalog:
    """Return a catalog with every description published before the call. The caller closes it.

    may_be_mirror: what a mirror has of the descriptions is enough, because nothing is published by
    them. Otherwise raise BadUse for a mirror.
    """
    source = settings.kafka_mirror_of
    reader = KafkaReader(settings.kafka_client())
    try:
        with closing(KafkaAdmin(settings.kafka_client())) as admin:
            if source and not may_be_mirror:
                raise mirror_error(source, admin.cluster_id())
            cluster = NamedCluster(source) if source else None
            catalog = Catalog(reader, admin, settings.topics, SystemClock(), cluster=cluster)
            catalog.refresh()
            return catalog
    except BaseException:
        reader.close()
        raise


def read_topic(
    settings: Settings, topic: str, partition: int | None = None, *, with_headers: bool = False
) -> Iterator[Message]:
    """Yield what a topic, or one partition of it, holds now, from the oldest position kept.

    with_headers: the messages have their headers. Raise KafkaFailed as read_through does.
    """
    with (
        closing(KafkaAdmin(settings.kafka_client())) as admin,
        closing(KafkaReader(settings.kafka_client(), with_headers=with_headers)) as reader,
    ):
        partitions = range(admin.partitions(topic)) if partition is None else [partition]
        ends = {number: admin.end_position(topic, number) for number in partitions}
        reader.assign(topic, dict.fromkeys(ends))
        yield from read_through(reader, topic, ends, patience_for(f"reading topic {topic}"))


def patience_for(purpose: str) -> ReadPatience:
    """Return how long a command waits for a topic that makes no progress."""
    return ReadPatience(SystemClock(), _PATIENCE_S, purpose, poll_s=0.5)
