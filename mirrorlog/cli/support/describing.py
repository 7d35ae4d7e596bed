"""Changes of a volume's description that the command line publishes itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Final

from mirrorlog.adapters.kafka import KafkaPublisher
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import KafkaFailed
from mirrorlog.reading.catalog import publish_volume
from mirrorlog.settings import Settings

_PUBLISH_S: Final = 60.0
_ATTEMPTS: Final = 5


def publish_changed(
    settings: Settings,
    volume: Volume,
    change: Callable[[Volume], Volume],
    is_changed: Callable[[Volume], bool],
) -> Volume:
    """Publish the description with a change; return the newest one, which has it.

    The node may publish a description at the same moment. The newest one is read again then, and
    published with the change. Raise KafkaFailed if that doesn't come to an end.
    """
    for _ in range(_ATTEMPTS):
        with closing(KafkaPublisher(settings.kafka_client())) as publisher:
            publish_volume(publisher, settings.topics, change(volume))
            publisher.flush(_PUBLISH_S)
        volume = find_volume(settings, volume.volume)
        if is_changed(volume):
            return volume
    raise KafkaFailed(
        "the volume's description changes faster than it can be published",
        where=f"volume {volume.volume}",
        next="Try again.",
    )
