"""The one place that puts a node together: settings become parts, and the parts become a worker.

The engine is chosen here: `run_node` takes the one on Faust, and tests give `build_node` one in
memory. `import faust` reads sys.argv and the environment. So whatever names Faust is imported
inside `run_node`, and importing this module does not import Faust.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, NoReturn, TypeAlias

from mirrorlog import __version__
from mirrorlog.adapters.host_key_file import HostKeyFile
from mirrorlog.adapters.http.access import http_access
from mirrorlog.adapters.http.connections import ConnectionLimits, connection_limit
from mirrorlog.adapters.http.guard import HttpGuard
from mirrorlog.adapters.http.http_server import HttpServer
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader, ReportPublisher
from mirrorlog.adapters.tracing import open_tracer
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.host_keys import CommandSigner
from mirrorlog.errors import BadUse, MirrorlogError, exit_code_of
from mirrorlog.metric_samples import MetricSamples
from mirrorlog.ports.clock import Clock, SystemClock
from mirrorlog.ports.reports import NoReports, ReportSink
from mirrorlog.ports.tracing import Tracer
from mirrorlog.reading.backup_reports import BackupReports
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.partition_counts import partition_count
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.settings import Settings
from mirrorlog.streams.backup_watch import BackupWatch, backups_in
from mirrorlog.streams.chain.builder_process import BuilderProcess
from mirrorlog.streams.compaction.compactor import CompactionSettings, LogCompactor
from mirrorlog.streams.engine import (
    AbortProcess,
    Engine,
    EngineService,
    EngineWork,
    PartitionListener,
)
from mirrorlog.streams.fold.authenticity import HostKeySource
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.fold.fold_batch import BatchFolder
from mirrorlog.streams.fold.traced_batches import TracedFolder
from mirrorlog.streams.history.partition_histories import PartitionHistories
from mirrorlog.streams.history.renewal import RenewalPorts
from mirrorlog.streams.liveness import LifeCalls, NodeLiveness
from mirrorlog.streams.node_figures import NodeFigures
from mirrorlog.streams.node_folder import NodeFolder, open_node_folder
from mirrorlog.streams.node_metrics import node_samples
from mirrorlog.streams.node_reporting import NodeReporter, ReportingWorker, WatchedRecovery
from mirrorlog.streams.partitions.partition_handover import PartitionHandover
from mirrorlog.streams.partitions.partition_loops import (
    BatchProcessor,
    FetchBudget,
    FlushLimits,
    PartitionLoops,
)
from mirrorlog.streams.partitions.source_topic import SourceTopic
from mirrorlog.streams.questions.answers import AnswerParts, Answers
from mirrorlog.streams.questions.question_reader import QuestionTopics, question_topics
from mirrorlog.streams.questions.table_census import TableCensus
from mirrorlog.streams.table.changelog_follower import (
    ChangelogFollower,
    ChangelogSource,
    RecoveryProgress,
)
from mirrorlog.streams.table.local_store import TableView
from mirrorlog.streams.table.log_table import LogTable
from mirrorlog.streams.web.client_pool import ClientPool, QueryClients
from mirrorlog.streams.web.handlers import HttpParts
from mirrorlog.streams.web.listen import HttpEndpoint, group_instance_id, listen
from mirrorlog.streams.web.partition_ownership import OwnershipListener, PartitionOwnership
from mirrorlog.streams.web.query_threads import QueryThreads
from mirrorlog.streams.web.server import OPEN_PATHS, build_http_app

log = logging.getLogger("mirrorlog.node")

OnReady: TypeAlias = Callable[[str | None, Sequence[int]], None]
"""Takes the worker's HTTP address (None without HTTP) and the partitions that it works on."""
OnRecovery: TypeAlias = Callable[[RecoveryProgress], None]
"""Takes how far the worker's tables have caught up with the log."""
OnFailure: TypeAlias = Callable[[BaseException], None]
"""Takes the error for which the process is about to end."""

_CHANGELOG_QUEUE_BYTES: Final = 8 << 20
"""How much of the changelog is fetched while the tables take what came before it."""
_QUERY_PATIENCE_S: Final = 5.0
"""How long a question over HTTP waits for a broker that is away. The client asks again."""
_GARBAGE_OBJECTS: Final = 50_000
"""How many new containers make a collection of garbage due. Python's default is 700 or 2,000."""


def _log_ready(url: str | None, partitions: Sequence[int]) -> None:
    numbers = ", ".join(map(str, partitions))
    log.info("the node is ready at %s with partitions %s", url or "no address", numbers)


def _log_recovery(progress: RecoveryProgress) -> None:
    log.info("the log is read: %d of %d positions", progress.read, progress.total)


def _log_failure(error: BaseException) -> None:
    log.critical("the node stops: %s", error)


def run_node(
    settings: Settings,
    *,
    on_ready: OnReady = _log_ready,
    on_failure: OnFailure = _log_failure,
    on_recovery: OnRecovery = _log_recovery,
    life: LifeCalls | None = None,
) -> None:
    """Run one worker of the node in this process until SIGTERM or SIGINT, then return.

        from mirrorlog.settings import load_settings
        from mirrorlog.streams import run_node

        run_node(load_settings(overrides={"bootstrap_servers": "localhost:9092"}))

    Call it from the main thread, once in a process: it runs an event loop of its own and handles
    these signals. It reads nothing from the command line.

    on_ready:   called after each rebalance, once the worker folds commands.
    on_failure: called before an error ends the process.
    on_recovery: called while the worker's tables are read from the changelog, every ten seconds.
    life: called while the worker makes progress, and when it doesn't or stops.

    MirrorlogError is raised for what is found before the worker starts: BadUse for settings that
    can't be used, or if another worker has the folder; DeviceFailed, KafkaFailed, OutOfRetention.
    Nothing stays open then. An error after that
    **ends the process** with the exit code of the error, without any clean-up: a stop in good order
    would acknowledge commands that the log does not hold (invariant 2).
    """
    with ExitStack() as opened:
        settings, ports = _open_ports(settings, on_ready, on_failure, opened)
        ports = replace(ports, on_recovery=on_recovery, life=life or LifeCalls())
        engine = _faust_engine(settings, ports)
        build_node(settings, ports, engine)
        opened.pop_all()  # the worker uses them until the process ends
    # Collections of garbage pass over what was imported: to look at it takes 35 ms each time. They
    # are rarer than usual, because each one looks at every command that waits.
    gc.freeze()
    gc.set_threshold(_GARBAGE_OBJECTS)
    with _growing_trees(settings):
        engine.run()


@contextmanager
def _growing_trees(settings: Settings) -> Iterator[None]:
    """Grow the trees of the commands in a child process, if the settings name their folder."""
    if settings.chain_dir is None:
        yield
        return
    builder = BuilderProcess(settings)
    builder.start()
    try:
        yield
    finally:
        builder.stop()


def _open_ports(
    settings: Settings, on_ready: OnReady, on_failure: OnFailure, opened: ExitStack
) -> tuple[Settings, NodePorts]:
    """Open what the node needs from outside, and check that it may start.

    Return it, and the settings with the number of partitions that the commands topic really has.
    `opened` closes everything.
    """
    if settings.kafka_mirror_of:
        raise BadUse(
            "a node doesn't run on a mirror of another cluster's topics",
            where="kafka_mirror_of",
            next=f"Run it on the cluster {settings.kafka_mirror_of}.",
        )
    path = settings.node_host_keys_file
    host_keys = None if path is None else HostKeyFile(path)
    folder = open_node_folder(settings)  # before anything else: nothing of the other is touched
    opened.callback(folder.close)
    endpoint = _open_endpoint(settings, folder)
    if endpoint:
        opened.callback(endpoint.socket.close)
    admin = KafkaAdmin(settings.kafka_client(), settings.patience_s)
    opened.callback(admin.close)
    partitions = partition_count(admin, settings.topics)
    with _bare_command_line():
        from mirrorlog.streams.faust_worker.kafka_options import unsupported_settings
    for name in unsupported_settings(settings.kafka):
        log.warning(
            "the node's Kafka client doesn't know the setting %s: hosts and sites honour it, "
            "the node doesn't",
            name,
        )
    catalog = _open_catalog(settings, admin)
    opened.callback(catalog.close)
    catalog.refresh()
    source = _source_topic(settings, admin)
    source.commit_first_positions(settings.topics.changelog)
    ports = NodePorts(
        catalog=catalog,
        changelog=_changelog_source(settings, admin),
        source=source,
        open_reports=partial(_open_reports, settings, admin),
        clock=SystemClock(),
        abort=partial(_abort_process, on_failure),
        on_ready=partial(on_ready, endpoint.url if endpoint else None),
        endpoint=endpoint,
        instance=folder.instance,
        reports=ReportPublisher(settings.kafka_client(), settings.topics.reports),
        tracer=open_tracer("node"),
        questions=question_topics(
            settings.topics, admin, partial(KafkaReader, settings.kafka_client())
        ),
        open_backup_reports=partial(_open_backup_reports, settings, admin),
        host_keys=host_keys,
    )
    return settings.model_copy(update={"partitions": partitions}), ports


@dataclass(frozen=True, slots=True)
class NodePorts:
    """The ports that a node needs.

    open_reports: opens the reports of all sites, when the compactor first needs them.
    endpoint:     where the worker answers over HTTP; None if it doesn't.
    instance:     what tells the worker from others of its name.
    reports:      takes the worker's reports. The node closes it when it stops in order.
    tracer:       takes a span for each batch of commands; None: nothing is traced.
    questions:    where the questions of mirrored sites arrive; None: there are no such sites.
    open_backup_reports: opens the reports of backups, for metrics; None: there are no backups.
    life:         told whether the worker makes progress.
    host_keys:    the keys of hosts; None: the node has none.
    """

    catalog: Catalog
    changelog: ChangelogSource
    source: SourceTopic
    open_reports: Callable[[], SiteReports]
    clock: Clock
    abort: AbortProcess
    on_ready: Callable[[Sequence[int]], None]
    on_recovery: OnRecovery = _log_recovery
    endpoint: HttpEndpoint | None = None
    instance: str = ""
    reports: ReportSink = field(default_factory=NoReports)
    tracer: Tracer | None = None
    questions: QuestionTopics | None = None
    open_backup_reports: Callable[[], BackupReports] | None = None
    life: LifeCalls = field(default_factory=LifeCalls)
    host_keys: HostKeySource | None = None


def build_node(settings: Settings, ports: NodePorts, engine: Engine) -> None:
    """Put a node together and connect it to the engine, which doesn't run yet.

    settings: `partitions` is the number that the commands topic really has.
    """
    topics, store = settings.topics, engine.store
    gate = CommitGate(topics.commands)
    fetch_budget = FetchBudget(settings.node_backlog_bytes)
    census = TableCensus(store) if ports.questions is not None else None
    on_written = None if census is None else census.note_rows
    sign = None if ports.host_keys is None else partial(_own_code, topics.commands, ports.host_keys)
    table = LogTable(engine.send, store, topics, gate, on_written, sign)
    histories = PartitionHistories(
        RenewalPorts(table, engine.send, ports.catalog, topics), ports.source, ports.clock
    )
    compactor = LogCompactor(
        table, ports.catalog, ports.open_reports, ports.clock, _compaction_settings(settings)
    )
    folder = BatchFolder(
        table,
        gate,
        ports.catalog,
        ports.source,
        clock=ports.clock,
        record_max_bytes=settings.node_record_max_bytes,
        compactor=compactor,
        histories=histories,
    )
    folder.judge_by(ports.host_keys)
    limits = FlushLimits(
        settings.node_flush_s, settings.node_flush_commands, settings.node_flush_bytes
    )
    processor: BatchProcessor = folder
    if ports.tracer is not None:
        processor = TracedFolder(folder, ports.tracer, ports.clock)
    answers: Answers | None = None
    if ports.questions is not None and census is not None:
        parts = AnswerParts(census, table, ports.source, ports.clock)

        def wake(partition: int) -> None:
            loops.wake(partition)

        answers = Answers(ports.questions, processor, parts, wake)
        processor = answers.folder
    loops = PartitionLoops(processor, fetch_budget, limits, ports.abort, engine.seen_end)
    handover = PartitionHandover(
        table=table,
        gate=gate,
        loops=loops,
        compactor=compactor,
        source=ports.source,
        histories=histories,
        catalog=ports.catalog,
        abort=ports.abort,
        on_ready=ports.on_ready,
    )
    ownership = PartitionOwnership(engine.worker_urls)
    listeners: list[PartitionListener] = [handover, OwnershipListener(ownership)]
    if answers is not None:
        listeners.insert(0, answers.folder)
    watch = BackupWatch(ports.open_backup_reports, ports.clock)
    figures = NodeFigures(
        engine,
        loops,
        gate,
        histories,
        table.counters,
        ports.clock,
        is_settled=lambda: ownership.is_settled,
        backups=lambda: backups_in(
            loops.partitions,
            watch.reports,
            ports.catalog,
            partition_count=settings.partitions,
            now_us=ports.clock.now_us(),
        ),
    )
    follower = ChangelogFollower(
        store, ports.changelog, ports.on_recovery, file_every_s=settings.node_table_file_s
    )
    recovery = WatchedRecovery(follower)
    services: list[EngineService] = [
        NodeLiveness(engine.health, ports.life),
        _reporter(settings, ports, figures, recovery),
    ]
    if answers is not None:
        services.append(answers.reader)
    if ports.endpoint:
        samples = partial(node_samples, settings.node_name, figures, settings.metrics_volumes)
        services.append(watch)
        services.append(_http_server(settings, ports, ownership, store.open_view, samples))
    engine.connect(
        EngineWork(
            listeners=listeners,
            recovery=recovery,
            positions=gate,
            batches=loops,
            services=services,
            abort=ports.abort,
        )
    )


def _own_code(
    topic: str, host_keys: HostKeySource, partition: int, command: TrackingCommand, value: bytes
) -> list[tuple[str, bytes]]:
    """Return the headers of a command of the node: it is made with a key that counts for it."""
    key = host_keys.current().key_for(command.volume, command.session)
    if key is None:
        return []
    return CommandSigner(topic, key).headers(topic, partition, command.volume.encode(), value)


def _reporter(
    settings: Settings, ports: NodePorts, figures: NodeFigures, recovery: WatchedRecovery
) -> NodeReporter:
    worker = ReportingWorker(
        node=settings.node_name,
        started_at_us=ports.clock.now_us(),
        http_url=ports.endpoint.url if ports.endpoint else None,
        version=__version__,
    )
    return NodeReporter(worker, figures, recovery, ports.reports, settings)


def _http_server(
    settings: Settings,
    ports: NodePorts,
    ownership: PartitionOwnership,
    open_view: Callable[[int], TableView],
    samples: Callable[[], MetricSamples],
) -> HttpServer:
    """Return the HTTP server of the worker, which has an endpoint."""
    endpoint, clock = ports.endpoint, ports.clock
    assert endpoint is not None
    access = http_access(settings, settings.node_http_token)
    parts = HttpParts(
        ownership=ownership,
        open_view=open_view,
        client_pool=ClientPool(partial(_open_query_clients, settings, clock)),
        query_threads=QueryThreads(settings.node_http_queries),
        topics=settings.topics,
        clock=clock,
        own_url=endpoint.url,
        guard=HttpGuard(
            access,
            endpoint.socket,
            "node_http_token",
            OPEN_PATHS,
            advertised_url=settings.node_http_advertised,
            body_s=settings.node_http_idle_s,
            help_next="See /docs.",
        ),
        wait_s=settings.node_http_wait_s,
        samples=samples,
    )
    limits = ConnectionLimits(
        connection_limit(settings.node_http_connections),
        settings.node_http_idle_s,
        of_one_client=settings.node_http_client_connections,
    )
    return HttpServer(build_http_app(parts), endpoint.socket, limits, access.server_context())


def _faust_engine(settings: Settings, ports: NodePorts) -> Engine:
    with _bare_command_line():
        from mirrorlog.streams.faust_worker.faust_engine import FaustEngine
    return FaustEngine(
        settings,
        group=group_name(settings),
        member=group_instance_id(settings.node_name, ports.instance, ports.endpoint),
        url=ports.endpoint.url if ports.endpoint else None,
        clock=ports.clock,
    )


def group_name(settings: Settings) -> str:
    """Return the node's consumer group. The app has the same id, and so has its state folder."""
    return settings.topics.node_group


def _open_endpoint(settings: Settings, folder: NodeFolder) -> HttpEndpoint | None:
    """Bind the node's HTTP socket; None if the settings switch HTTP off."""
    return listen(
        settings.node_http,
        http_access(settings, settings.node_http_token),
        settings.node_http_advertised,
        folder.path / "http-port",
    )


def _source_topic(settings: Settings, admin: KafkaAdmin) -> SourceTopic:
    return SourceTopic(
        admin,
        partial(
            KafkaReader,
            settings.kafka_client(),
            with_headers=settings.node_host_keys_file is not None,
        ),
        topic=settings.topics.commands,
        group=group_name(settings),
        patience_s=settings.patience_s,
    )


def _open_catalog(settings: Settings, admin: KafkaAdmin) -> Catalog:
    reader = KafkaReader(settings.kafka_client(), tells_end=False)
    return Catalog(reader, admin, settings.topics, SystemClock(), settings.patience_s)


def _changelog_source(settings: Settings, admin: KafkaAdmin) -> ChangelogSource:
    topic = settings.topics.changelog
    return ChangelogSource(
        topic,
        partial(KafkaReader, settings.kafka_client(), queue_bytes=_CHANGELOG_QUEUE_BYTES),
        partial(admin.bounds, topic),
        partial(admin.identity, topic),
    )


def _open_reports(settings: Settings, admin: KafkaAdmin) -> SiteReports:
    reader = KafkaReader(settings.kafka_client(), tells_end=False)
    return SiteReports(reader, admin, settings.topics, SystemClock(), settings.patience_s)


def _open_backup_reports(settings: Settings, admin: KafkaAdmin) -> BackupReports:
    reader = KafkaReader(settings.kafka_client(), tells_end=False)
    return BackupReports(reader, admin, settings.topics, SystemClock(), _QUERY_PATIENCE_S)


def _open_query_clients(settings: Settings, clock: Clock) -> QueryClients:
    client = settings.kafka_client()
    admin = KafkaAdmin(client, _QUERY_PATIENCE_S)
    try:
        reader = KafkaReader(client, _QUERY_PATIENCE_S)
        catalog = Catalog(reader, admin, settings.topics, clock, _QUERY_PATIENCE_S)
    except MirrorlogError:
        admin.close()
        raise

    def close() -> None:
        catalog.close()
        admin.close()

    return QueryClients(catalog, admin, partial(KafkaReader, client, _QUERY_PATIENCE_S), close)


def _compaction_settings(settings: Settings) -> CompactionSettings:
    return CompactionSettings(
        settings.node_tiers_s,
        settings.node_keep_s,
        settings.node_keep_past_sites_after_s,
        settings.node_record_max_bytes,
        settings.node_table_file_s,
    )


def _abort_process(on_failure: OnFailure, error: BaseException) -> NoReturn:
    """End the process at once with the exit code of `error`.

    Not by sys.exit: a stop in good order would run Faust's acknowledgements, which stand in
    `finally` blocks (invariant 2).
    """
    on_failure(error)
    if not isinstance(error, MirrorlogError):
        log.critical("the node met an error that it doesn't know", exc_info=error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(exit_code_of(error)))


@contextmanager
def _bare_command_line() -> Iterator[None]:
    """Hide the program's arguments: `import faust` takes options of its own from sys.argv."""
    arguments = sys.argv
    sys.argv = arguments[:1]
    try:
        yield
    finally:
        sys.argv = arguments
