"""Moving a volume to another host: which sessions have it open, and its new address."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.domain.volumes import MAX_ENDED_SESSIONS, Volume
from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.catalog import publish_volume
from mirrorlog.reading.open_sessions import SessionPorts, read_sessions
from mirrorlog.settings import Settings

if TYPE_CHECKING:
    from mirrorlog.reading.open_sessions import OpenSession

_PUBLISH_S: Final = 60.0
_ATTEMPTS: Final = 5


def check_sessions(settings: Settings, volume: Volume, take_over: Collection[str]) -> list[str]:
    """Return the sessions that have the volume open now. Imports are left out.

    Raise BadUse, which names each, if one of them isn't in `take_over`.
    """
    from mirrorlog.producers.session.fence import find_other_sessions, other_hosts_error

    client, name = settings.kafka_client(), volume.volume
    with closing(KafkaAdmin(client)) as admin:
        ports = SessionPorts(lambda: KafkaReader(client), admin)
        end = admin.end_position(settings.topics.commands, volume.partition)

        def find_open(positions: dict[str, int]) -> list[OpenSession]:
            known = read_sessions({name: volume}, ports, settings.topics, SystemClock())
            return known.open_before(positions)

        others = find_other_sessions(
            {name: end},
            {name: replace(volume, shared=False)},
            own_sessions={name: ()},
            find_open=find_open,  # type: ignore[arg-type]
        )
    if unnamed := [other for other in others if other.session not in take_over]:
        raise other_hosts_error(unnamed)
    return [other.session for other in others]


def publish_move(
    settings: Settings, volume: Volume, address: str, ended: Collection[str], primary_id: str
) -> Volume:
    """Publish the description with the address of the primary and the ended sessions; return it.

    primary_id: of the mark that the primary has now. If a copy of the volume was ever promoted, the
    description names it, and hosts open no other copy. A copy at another address is no longer that
    of the site which was promoted.

    A host whose session is ended stops when it reads this. The node may publish a description at
    the same moment. The newest one is read again then, and published with both. Raise KafkaFailed
    if that doesn't come to an end.
    """
    for _ in range(_ATTEMPTS):
        before = (session for session in volume.ended_sessions if session not in ended)
        moved = replace(
            volume,
            primary=address,
            ended_sessions=(*before, *ended)[-MAX_ENDED_SESSIONS:],
            primary_id=None if volume.primary_id is None else primary_id,
            primary_site=volume.primary_site if volume.primary == address else None,
        )
        publisher = KafkaPublisher(settings.kafka_client())
        try:
            publish_volume(publisher, settings.topics, moved)
            publisher.flush(_PUBLISH_S)
        finally:
            publisher.close()
        volume = find_volume(settings, volume.volume)
        if volume.primary == address and set(ended) <= set(volume.ended_sessions):
            return volume
    raise KafkaFailed(
        "the volume's description changes faster than it can be published",
        where=f"volume {volume.volume}",
        next="Try again.",
    )
