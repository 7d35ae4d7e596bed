"""Puts an archiver together from the settings, and runs it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Final

from mirrorlog import __version__
from mirrorlog.adapters.archive_addresses import open_archive_store
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.adapters.kafka.report_publisher import ReportPublisher
from mirrorlog.adapters.metrics_server import serving_metrics
from mirrorlog.archive.archive import Archive
from mirrorlog.consumers.archive.archiver import Archiver, ArchiverPorts, Written
from mirrorlog.consumers.archive.held_retention import HeldRetention, release
from mirrorlog.consumers.archive.progress import ArchiveProgress
from mirrorlog.consumers.archive.row_files import RowFiles
from mirrorlog.consumers.archive.row_merger import RowMerger
from mirrorlog.errors import ArchiveFailed, BadUse, KafkaFailed, MirrorlogError, StateDamaged
from mirrorlog.metric_samples import ExportingRole
from mirrorlog.ports.archive_stores import ArchiveStore
from mirrorlog.ports.clock import SystemClock
from mirrorlog.processes.free_memory import release_free_memory
from mirrorlog.reading.catalog import Catalog
from mirrorlog.settings import Settings

log = logging.getLogger("mirrorlog.archive")

_LOOK_S: Final = 0.2
_RETRIED: Final = (ArchiveFailed, KafkaFailed, StateDamaged)
"""What may be well again later: an archiver that runs on tries again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveOptions:
    """How an archiver runs.

    every_s: the time between two rounds; None: one round, whose errors are raised.
    accepts_hole: commands that Kafka dropped before they were archived don't stop it.
    keep_s: how long the commands topic keeps what is archived; None: its retention is left alone.
    volumes: rows are made of the volumes whose names match one of these patterns; without any, of
        all. merges_rows: the rows of many ranges are merged (row_merger.py).
    """

    address: str
    every_s: float | None
    accepts_hole: bool = False
    keep_s: float | None = None
    volumes: tuple[str, ...] = ()
    merges_rows: bool = True


def open_store(settings: Settings, address: str, *, for_writing: bool = False) -> ArchiveStore:
    """Open the archive at `address`, or that of the settings if it is empty.

    Raise BadUse if neither names one.
    """
    address = address or settings.archive
    if not address:
        raise BadUse(
            "no archive is named",
            next="Name a folder or s3://BUCKET/PREFIX, or set MIRRORLOG_ARCHIVE.",
        )
    return open_archive_store(
        address, settings.archive_s3, settings.archive_s3_credentials, for_writing=for_writing
    )


@contextmanager
def open_archive(settings: Settings, address: str) -> Iterator[Archive]:
    """Open an archive for reading, as open_store does."""
    with closing(open_store(settings, address)) as store:
        yield Archive(store)


def _catalog(settings: Settings, admin: KafkaAdmin) -> Catalog:
    reader = KafkaReader(settings.kafka_client())
    return Catalog(reader, admin, settings.topics, SystemClock())


def run_archiver(
    settings: Settings,
    options: ArchiveOptions,
    *,
    stopped: Callable[[], bool],
    on_ready: Callable[[str], None],
    calls: ArchiveCalls,
) -> None:
    """Archive every partition, once or until `stopped()` returns True.

    on_ready: called with the archive's address before the first round. Raise what can't be well
    again by itself, and with one round every error.
    """
    clock = SystemClock()

    def is_stopped() -> bool:
        calls.on_alive()
        return stopped()

    def before_range() -> None:
        calls.on_alive()
        catalog.refresh()

    with (
        closing(open_store(settings, options.address, for_writing=True)) as store,
        closing(KafkaAdmin(settings.kafka_client())) as admin,
        closing(_catalog(settings, admin)) as catalog,
    ):
        ports = ArchiverPorts(
            store=store,
            open_reader=lambda: KafkaReader(settings.kafka_client()),
            admin=admin,
            topics=settings.topics,
            clock=clock,
            make_rows=RowFiles(catalog, options.volumes),
            before_range=before_range,
        )
        archiver = Archiver(ports, accepts_hole=options.accepts_hole, written_by=__version__)
        held = None
        if options.keep_s is not None:
            held = HeldRetention(
                admin, settings.topics.commands, archiver.archive, clock, options.keep_s
            )
        progress = ArchiveProgress(store.where, options.every_s, options.keep_s, clock)
        merger = None
        if options.merges_rows:
            merger = RowMerger(archiver.archive, is_stopped, written_by=__version__)
        topic = settings.topics.commands
        rounds = ArchiveRounds(archiver, held, admin, topic, calls, progress, merger)
        client = settings.kafka_client()
        with (
            closing(ReportPublisher(client, settings.topics.reports)) as sink,
            serving_metrics(settings, ExportingRole.ARCHIVE, progress.samples, calls.on_metrics),
        ):
            on_ready(store.where)
            try:
                while not is_stopped():
                    rounds.run(is_stopped, raises=options.every_s is None)
                    if options.every_s is None:
                        return
                    progress.publish(sink)
                    _rest(options.every_s, is_stopped, clock)
            finally:
                progress.publish(sink, is_over=True)


@dataclass(frozen=True, slots=True)
class ArchiveCalls:
    """What an archiver tells of its rounds.

    on_written: called with what a round wrote of a partition. on_deleted: called with a partition,
    and the first position that the topic keeps after archived messages were deleted. on_held:
    called with settings of the topic that the archiver has overruled. on_error: called with an
    error after which the next round tries again. on_metrics: called with the address of the
    metrics, if they are served. on_alive: called often while the archiver makes progress: before
    each range and each merged file, and while it rests.
    """

    on_written: Callable[[Written], None]
    on_deleted: Callable[[int, int], None]
    on_held: Callable[[Mapping[str, str | None]], None]
    on_error: Callable[[MirrorlogError], None]
    on_metrics: Callable[[str], None]
    on_alive: Callable[[], None] = lambda: None


class ArchiveRounds:
    """Rounds over all partitions.

    held: the topic's retention; None: it is left alone. merger: None: no rows are merged.
    """

    def __init__(
        self,
        archiver: Archiver,
        held: HeldRetention | None,
        admin: KafkaAdmin,
        topic: str,
        calls: ArchiveCalls,
        progress: ArchiveProgress,
        merger: RowMerger | None = None,
    ) -> None:
        self._progress, self._merger = progress, merger
        self._archiver, self._held, self._admin = archiver, held, admin
        self._topic, self._calls = topic, calls

    def run(self, stopped: Callable[[], bool], *, raises: bool) -> None:
        """Run one round. raises: every error is raised, and not only those that stay."""
        try:
            self._hold()
            partitions = range(self._admin.partitions(self._topic))
        except KafkaFailed as error:
            if raises:
                raise
            self._calls.on_error(error)
            return
        has_written = False
        for partition in partitions:
            if stopped():
                return
            try:
                has_written |= self._archive(partition)
            except MirrorlogError as error:
                self._progress.note_failure(partition, error)
                if raises or not isinstance(error, _RETRIED):
                    raise
                self._calls.on_error(error)
        self._archiver.archive.forget_unasked()
        if has_written:
            # A merge takes some 150 MB more than all else does.
            release_free_memory()

    def _hold(self) -> None:
        if self._held is not None and (had := self._held.hold()):
            self._calls.on_held(had)

    def _archive(self, partition: int) -> bool:
        """Archive a partition, and merge its rows. Return whether anything was written."""
        written = self._archiver.run_partition(partition)
        self._calls.on_written(written)
        first = None
        if self._held is not None and written.view is not None:
            first = self._held.delete_archived(written.view)
            if first is not None:
                self._calls.on_deleted(partition, first)
        self._progress.note_written(written, first)
        merges = 0 if self._merger is None else self._merger.merge_partition(partition)
        return written.manifests + merges > 0


def release_retention(settings: Settings, keep_s: float) -> None:
    """Give the commands topic a retention of its own again. Raise KafkaFailed."""
    with closing(KafkaAdmin(settings.kafka_client())) as admin:
        release(admin, settings.topics.commands, keep_s)


def _rest(for_s: float, stopped: Callable[[], bool], clock: SystemClock) -> None:
    until_s = clock.monotonic_s() + for_s
    while not stopped() and clock.monotonic_s() < until_s:
        time.sleep(_LOOK_S)
