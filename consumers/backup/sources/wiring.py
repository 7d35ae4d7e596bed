"""Puts the source of a primary's points together, and the registration of a repository."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.adapters.nbd_client.nbd_uri import is_nbd
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.adapters.task_threads import TaskThreads
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.consumers.backup.sources.followed_log import FollowedLog
from mirrorlog.consumers.backup.sources.primary_source import PrimarySource
from mirrorlog.consumers.backup.sources.registration import Registrar
from mirrorlog.consumers.backup.sources.staging import open_staging
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.consumers.site_primaries import SitePrimaries
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.reading.read_through import CompactedTopic, ReadPatience
from mirrorlog.settings import Settings

_READER: Final = "backup"
"""Stands for the name of a site where addresses of primaries are looked up."""
_PATIENCE_S: Final = 30.0


@contextmanager
def open_primary_source(
    settings: Settings,
    volume: Volume,
    query: QueryPorts,
    *,
    staging: Path,
    wait_s: float,
    uses_snapshots: bool = True,
    on_held: Callable[[], None] = lambda: None,
) -> Iterator[PrimarySource]:
    """Yield the source of a volume's primary.

    The primary is at the address that `site_primaries` has for the volume, or its description.
    query: of the hosts' own cluster. staging: a folder for what is read live. wait_s,
    uses_snapshots, on_held: as in PrimarySource. Raise BadUse for a mirror of the log.
    """
    if settings.kafka_mirror_of:
        raise BadUse(
            "the primary can't be backed up by a mirror of the log, which says too late what "
            "changed while it was read",
            where=f"volume {volume.volume}",
            next="Name the hosts' own cluster (--bootstrap-servers), or back up a secondary.",
        )
    addresses = SiteAddresses(_READER, staging, settings.site_primaries)
    is_far = is_nbd(addresses.primary(volume))
    threads = settings.site_remote_copy_threads if is_far else settings.site_copy_threads

    @contextmanager
    def follow(followed: Volume) -> Iterator[FollowedLog]:
        with closing(KafkaReader(settings.kafka_client(), settings.patience_s)) as reader:
            topic, partition = settings.topics.changelog, followed.partition
            yield FollowedLog(LogReader(reader, query.admin, topic, [partition]), followed)

    with closing(
        SitePrimaries(addresses, PrimaryMarkFiles(settings.primary_marks_dir))
    ) as primaries:
        yield PrimarySource(
            volume=volume,
            primaries=primaries,
            query=query,
            follow=follow,
            open_staging=partial(open_staging, staging),
            wait_s=wait_s,
            uses_snapshots=uses_snapshots,
            on_held=on_held,
            tasks=TaskThreads(threads),
        )


@contextmanager
def open_registrar(
    settings: Settings, repository: str, address: str, *, every_s: float | None = None
) -> Iterator[Registrar]:
    """Yield what registers a repository. repository, address, every_s: as in Registrar."""
    client, topic, clock = settings.kafka_client(), settings.topics.progress, SystemClock()
    patience = ReadPatience(clock, _PATIENCE_S, "reading what is registered of the repository")
    with (
        closing(KafkaAdmin(client)) as admin,
        closing(KafkaReader(client)) as reader,
        closing(KafkaPublisher(client)) as publisher,
    ):
        yield Registrar(
            id=repository,
            address=address,
            publisher=publisher,
            reader=CompactedTopic(reader, admin, topic, patience),
            topic=topic,
            clock=clock,
            host=socket.gethostname(),
            every_s=every_s,
        )
