"""Moving a volume to another host: which sessions have it open, and its new address."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.cli.support.describing import publish_changed
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import MAX_ENDED_SESSIONS, Volume
from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.open_sessions import SessionPorts, read_sessions
from mirrorlog.settings import Settings

if TYPE_CHECKING:
    from mirrorlog.reading.open_sessions import OpenSession, PartitionSessions


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
            if volume.is_authenticated:
                check_recorded(known.partition_of(name), volume, end)
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


def check_recorded(known: PartitionSessions, volume: Volume, end: int) -> None:
    """Raise KafkaFailed unless the log holds all commands of the partition below `end`.

    Of an authenticated volume only the log says which sessions are open.
    """
    through = BEFORE_FIRST if known.watermark is None else known.watermark.through
    if known.is_broken or through < end - 1:
        raise KafkaFailed(
            f"the log ends at position {through}, and the commands at {end - 1}: only the node "
            "says which sessions of an authenticated volume are open",
            where=f"volume {volume.volume}, partition {volume.partition}",
            next="Is a node running? Try again when it has recorded them.",
        )


def publish_move(
    settings: Settings, volume: Volume, address: str, ended: Collection[str], primary_id: str
) -> Volume:
    """Publish the description with the address of the primary and the ended sessions; return it.

    primary_id: of the mark that the primary has now. If a copy of the volume was ever promoted, the
    description names it, and hosts open no other copy. A copy at another address is no longer that
    of the site which was promoted.

    A host whose session is ended stops when it reads this. Raise as publish_changed().
    """

    def moved(described: Volume) -> Volume:
        before = (session for session in described.ended_sessions if session not in ended)
        return replace(
            described,
            primary=address,
            ended_sessions=(*before, *ended)[-MAX_ENDED_SESSIONS:],
            primary_id=None if described.primary_id is None else primary_id,
            primary_site=described.primary_site if described.primary == address else None,
        )

    def is_moved(described: Volume) -> bool:
        return described.primary == address and set(ended) <= set(described.ended_sessions)

    return publish_changed(settings, volume, moved, is_moved)
