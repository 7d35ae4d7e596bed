"""Opens the ports of a site on Kafka and on files, from its settings."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from uuid import uuid4

from mirrorlog.adapters.folders import SYNC_THREADS
from mirrorlog.adapters.kafka import ClientSettings, KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.adapters.machine import boot_id
from mirrorlog.adapters.task_threads import TaskThreads
from mirrorlog.adapters.tracing import open_tracer
from mirrorlog.consumers.mirrored_log import check_mirror, mirrored_ports
from mirrorlog.consumers.name_fence import FencePorts
from mirrorlog.consumers.resync.command_ends import CommandEnds
from mirrorlog.consumers.resync.site_ports import SitePorts
from mirrorlog.consumers.site_journals import site_devices
from mirrorlog.consumers.state.drill_holds import DrillHolds
from mirrorlog.consumers.state.pauses import PauseFile
from mirrorlog.consumers.state.site_folder import folder_id
from mirrorlog.consumers.state.state_files import SecondaryStateFiles
from mirrorlog.consumers.verify.asked_digests import AskedDigests
from mirrorlog.domain.site_leases import SiteLease
from mirrorlog.errors import BadUse, KafkaFailed
from mirrorlog.ports.clock import Clock, SystemClock
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.reading.partition_counts import partition_count
from mirrorlog.settings import Settings

_ASK_PATIENCE_S: Final = 2.0


def check_primary_reader(settings: Settings) -> None:
    """Raise BadUse if a site on a mirror is to ask a host: nothing brings its questions there."""
    if settings.kafka_mirror_of and settings.site_primary_reader == "host":
        raise BadUse(
            "a site that reads a mirror of the topics can't ask a host for digests",
            where="site_primary_reader",
            next="Leave out --primary-reader host: the site then reads the primary itself.",
        )


def own_lease(name: str, folder: Path, clock: Clock) -> SiteLease:
    """Return the lease of this process."""
    return SiteLease(
        site=name,
        run=str(uuid4()),
        folder=folder_id(folder, name),
        machine=boot_id(),
        term=1,
        host=socket.gethostname(),
        pid=os.getpid(),
        started_at_us=clock.now_us(),
    )


def fence_ports(ports: SitePorts, settings: Settings, stack: ExitStack) -> FencePorts:
    """Return what the fence of a site needs. Its reader is closed with the stack."""
    reader = KafkaReader(settings.kafka_client(), tells_end=False)
    stack.callback(reader.close)
    return FencePorts(
        reader=reader,
        admin=ports.admin,
        publisher=ports.publisher,
        clock=ports.clock,
        topic=settings.topics.progress,
        patience_s=settings.patience_s,
    )


def site_ports(
    name: str,
    folder: Path,
    settings: Settings,
    stack: ExitStack,
    partitions: Sequence[int] | None = None,
) -> SitePorts:
    """Return a site's ports. Its clients are closed with the stack.

    partitions: those of the log to read at first; None: all.
    """
    client, topics, clock = settings.kafka_client(), settings.topics, SystemClock()

    def open_reader(*, tells_end: bool) -> KafkaReader:
        reader = KafkaReader(client, tells_end=tells_end)
        stack.callback(reader.close)
        return reader

    admin = KafkaAdmin(client, settings.patience_s)
    stack.callback(admin.close)
    publisher = KafkaPublisher(client)
    stack.callback(publisher.close)
    ends: CommandEnds | None = None
    if settings.kafka_mirror_of:
        check_mirror(settings, admin)
        mirrored = mirrored_ports(
            name,
            settings,
            admin,
            publisher,
            clock,
            log_reader=open_reader(tells_end=True),
            catalog_reader=open_reader(tells_end=False),
            partitions=partitions,
        )
        log, catalog, ends = mirrored.log, mirrored.catalog, mirrored.ends
    else:
        partition_count(admin, topics)
        reader = open_reader(tells_end=True)
        log = LogReader(reader, admin, topics.changelog, partitions, site=name)
        reader = open_reader(tells_end=False)
        catalog = Catalog(reader, admin, topics, clock, settings.patience_s)
    secondaries = site_devices(name, folder, settings)
    stack.callback(secondaries.close)
    return SitePorts(
        log=log,
        catalog=catalog,
        admin=admin,
        publisher=publisher,
        states=SecondaryStateFiles(folder / "states"),
        secondaries=secondaries,
        open_reader=lambda: KafkaReader(client),
        clock=clock,
        ask_end=_end_asker(client, topics.commands, stack),
        ends=ends,
        pauses=PauseFile(folder).look,
        digests=_asked_digests(name, settings, admin, publisher, stack),
        held_for_drills=DrillHolds(folder).look,
        task_runner=TaskThreads(settings.site_copy_threads),
        remote_task_runner=TaskThreads(settings.site_remote_copy_threads),
        flushes=TaskThreads(SYNC_THREADS),
        tracer=open_tracer("site"),
    )


def _asked_digests(
    name: str, settings: Settings, admin: KafkaAdmin, publisher: KafkaPublisher, stack: ExitStack
) -> AskedDigests | None:
    """Return what asks a host for digests, if the settings say so. Raise KafkaFailed."""
    if settings.site_primary_reader != "host":
        return None
    reader = KafkaReader(settings.kafka_client(), tells_end=False)
    stack.callback(reader.close)
    admin.partitions(settings.topics.digests)
    return AskedDigests(
        site=name,
        reader=reader,
        admin=admin,
        publisher=publisher,
        topic=settings.topics.digests,
        clock=SystemClock(),
        tasks=TaskThreads(settings.site_copy_threads),
    )


def _end_asker(client: ClientSettings, topic: str, stack: ExitStack) -> Callable[[int], int | None]:
    """Return a function that asks where a partition of `topic` ends, and gives up soon."""
    admin = KafkaAdmin(client, _ASK_PATIENCE_S)
    stack.callback(admin.close)

    def ask_end(partition: int) -> int | None:
        try:
            return admin.end_position(topic, partition)
        except KafkaFailed:
            return None

    return ask_end
