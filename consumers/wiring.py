"""The one place that puts a site together: settings become ports, and the ports become a site."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias
from uuid import uuid4

from mirrorlog.adapters.folders import lock_folder
from mirrorlog.adapters.kafka import ClientSettings, KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.adapters.machine import boot_id
from mirrorlog.adapters.metrics_server import serving_metrics
from mirrorlog.adapters.task_threads import TaskThreads
from mirrorlog.adapters.tracing import open_tracer
from mirrorlog.consumers.mirrored_log import check_mirror, mirrored_ports
from mirrorlog.consumers.name_fence import FencePorts, NameFence
from mirrorlog.consumers.resync.command_ends import CommandEnds
from mirrorlog.consumers.resync.reporting import SiteSummary
from mirrorlog.consumers.resync.site import Site
from mirrorlog.consumers.resync.site_ports import SitePorts
from mirrorlog.consumers.resync.state_changes import OnChange, SecondaryChange
from mirrorlog.consumers.site_journals import apply_sealed, open_journals, site_devices
from mirrorlog.consumers.site_metrics import site_samples
from mirrorlog.consumers.state.drill_holds import DrillHolds
from mirrorlog.consumers.state.pauses import PauseFile
from mirrorlog.consumers.state.site_folder import folder_id
from mirrorlog.consumers.state.state_files import SecondaryStateFiles
from mirrorlog.consumers.verify.asked_digests import AskedDigests
from mirrorlog.consumers.verify.wiring import serving_digests, site_digests
from mirrorlog.domain.site_leases import SiteLease
from mirrorlog.domain.site_progress import check_site_name
from mirrorlog.errors import BadUse, KafkaFailed
from mirrorlog.metric_samples import ExportingRole
from mirrorlog.ports.clock import Clock, SystemClock
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.reading.partition_counts import partition_count
from mirrorlog.settings import Settings

OnSummary: TypeAlias = Callable[[SiteSummary], None]
"""Takes the summary of all secondaries of a site."""

_ROUND_S: Final = 0.1
_SUMMARY_S: Final = 0.5
_ASK_PATIENCE_S: Final = 2.0


def _ignore_ready() -> None:
    pass


def _ignore_url(url: str) -> None:
    del url


def _ignore_change(change: SecondaryChange) -> None:
    del change


def _ignore_summary(summary: SiteSummary) -> None:
    del summary


def run_site(
    name: str,
    folder: Path,
    settings: Settings,
    *,
    stopped: Callable[[], bool] = lambda: False,
    on_ready: Callable[[], None] = _ignore_ready,
    on_summary: OnSummary = _ignore_summary,
    on_metrics: Callable[[str], None] = _ignore_url,
    on_change: OnChange = _ignore_change,
) -> None:
    """Keep the secondaries of the site `name` up to date until `stopped()` returns True.

        from pathlib import Path
        from threading import Event
        from mirrorlog.consumers import run_site
        from mirrorlog.settings import load_settings

        stop = Event()
        settings = load_settings(overrides={"bootstrap_servers": "localhost:9092"})
        run_site("berlin", Path("/srv/mirror"), settings, stopped=stop.is_set)

    folder: holds the saved states, and the secondaries of volumes that name no address for this
        site. It is created if needed, and locked for this process until the call returns.
    stopped: asked between two rounds, some ten times a second while nothing happens. A stop, or a
        kill, at any other point is safe too: the next run repeats the cycle that was cut off.
    on_ready: called once, when the site is open, before the first round.
    on_summary: called at most twice a second, if the summary has changed.
    on_metrics: called with the address of the metrics, if they are served (`metrics` in the
        settings), before `on_ready`.
    on_change: called with each change of state of a secondary, once; never for each block.

    Any thread may call it; it handles no signals. Raise BadUse if another process has the folder,
    and the errors of Site.run_once.
    """
    with (
        open_site(name, folder, settings, on_change) as site,
        serving_metrics(
            settings,
            ExportingRole.SITE,
            partial(site_samples, site, settings.metrics_volumes),
            on_metrics,
        ),
        serving_digests(site_digests(name, folder.absolute(), settings), settings),
    ):
        on_ready()
        run_rounds(site, stopped, on_summary, SystemClock())


def run_rounds(
    site: Site, stopped: Callable[[], bool], on_summary: OnSummary, clock: Clock
) -> None:
    """Run rounds of `site` until `stopped()` returns True. on_summary: as in run_site."""
    last_summary: SiteSummary | None = None
    last_at_s = float("-inf")
    while not stopped():
        site.run_once(_ROUND_S)
        if clock.monotonic_s() - last_at_s < _SUMMARY_S:
            continue
        summary = site.summary()
        if summary != last_summary:
            last_summary, last_at_s = summary, clock.monotonic_s()
            on_summary(summary)


@contextmanager
def open_site(
    name: str, folder: Path, settings: Settings, on_change: OnChange = _ignore_change
) -> Iterator[Site]:
    """Open a site on Kafka and on files. on_change: as in run_site.

    Raise BadUse if another process has its folder, or runs the site elsewhere.
    """
    check_site_name(name)
    _check_primary_reader(settings)
    folder = folder.absolute()
    with ExitStack() as stack:
        stack.callback(os.close, lock_folder(folder))
        journals = open_journals(folder, settings, stack)
        apply_sealed(name, folder, settings, journals)
        ports = replace(_site_ports(name, folder, settings, stack), journals=journals)
        fence = NameFence(_lease(name, folder, ports.clock), _fence_ports(ports, settings, stack))
        fence.take()
        stack.callback(fence.give_up)
        ports = replace(
            ports,
            keep_name=fence.keep,
            note_caught_up=fence.note_caught_up,
            on_change=on_change,
        )
        yield Site(name, ports, settings)


def _check_primary_reader(settings: Settings) -> None:
    """Raise BadUse if a site on a mirror is to ask a host: nothing brings its questions there."""
    if settings.kafka_mirror_of and settings.site_primary_reader == "host":
        raise BadUse(
            "a site that reads a mirror of the topics can't ask a host for digests",
            where="site_primary_reader",
            next="Leave out --primary-reader host: the site then reads the primary itself.",
        )


def _lease(name: str, folder: Path, clock: Clock) -> SiteLease:
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


def _fence_ports(ports: SitePorts, settings: Settings, stack: ExitStack) -> FencePorts:
    reader = KafkaReader(settings.kafka_client())
    stack.callback(reader.close)
    return FencePorts(
        reader=reader,
        admin=ports.admin,
        publisher=ports.publisher,
        clock=ports.clock,
        topic=settings.topics.progress,
        patience_s=settings.patience_s,
    )


def _site_ports(name: str, folder: Path, settings: Settings, stack: ExitStack) -> SitePorts:
    """Return a site's ports. Its clients are closed with the stack."""
    client, topics, clock = settings.kafka_client(), settings.topics, SystemClock()

    def open_reader() -> KafkaReader:
        reader = KafkaReader(client)
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
            log_reader=open_reader(),
            catalog_reader=open_reader(),
        )
        log, catalog, ends = mirrored.log, mirrored.catalog, mirrored.ends
    else:
        partition_count(admin, topics)
        log = LogReader(open_reader(), admin, topics.changelog, site=name)
        catalog = Catalog(open_reader(), admin, topics, clock, settings.patience_s)
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
        tracer=open_tracer("site"),
    )


def _asked_digests(
    name: str, settings: Settings, admin: KafkaAdmin, publisher: KafkaPublisher, stack: ExitStack
) -> AskedDigests | None:
    """Return what asks a host for digests, if the settings say so. Raise KafkaFailed."""
    if settings.site_primary_reader != "host":
        return None
    reader = KafkaReader(settings.kafka_client())
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
