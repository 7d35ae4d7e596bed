"""What there is, asked once."""

from __future__ import annotations

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.catalog import Catalog
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import SystemClock
from mirrorlog.settings import Settings
from mirrorlog.volumes import Volume


def volumes_now(settings: Settings) -> dict[str, Volume]:
    """Every volume that is described, by name."""
    admin, reader = KafkaAdmin(settings.kafka_client()), KafkaReader(settings.kafka_client())
    try:
        catalog = Catalog(reader, admin, settings.topics, SystemClock())
        catalog.refresh()
        return dict(catalog)
    finally:
        reader.close()
        admin.close()


def volume_named(settings: Settings, name: str) -> Volume:
    """The volume; BadUse where there is none of that name."""
    found = volumes_now(settings).get(name)
    if found is None:
        raise BadUse(
            f"there is no volume '{name[:220]}'", next="`mirrorlog topics tail volumes` shows those there are."
        )
    return found
