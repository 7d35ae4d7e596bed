"""The Faust app of the processing node: built from settings, nothing at import, nothing found by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import faust
from faust.types import TP

from mirrorlog.ports.clock import Clock
from mirrorlog.reading.catalog import Catalog
from mirrorlog.settings import Settings
from mirrorlog.streams.compaction.compactor import CompactionSettings, LogCompactor, ProgressReports
from mirrorlog.streams.faust_worker.acknowledged_sends import send_all
from mirrorlog.streams.faust_worker.assignment import EvenAssignor
from mirrorlog.streams.faust_worker.faust_recovery import ChangelogTableManager
from mirrorlog.streams.faust_worker.faust_store import FaustStore
from mirrorlog.streams.faust_worker.gated_transport import gated_transport
from mirrorlog.streams.faust_worker.http_service import install_http_service
from mirrorlog.streams.faust_worker.kafka_options import faust_settings
from mirrorlog.streams.faust_worker.partition_loops import (
    FetchBudget,
    FetchedBatch,
    FlushLimits,
    PartitionLoops,
)
from mirrorlog.streams.faust_worker.start_positions import PartitionBounds, plan_start_position
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.fold.fold_batch import BatchFolder, CommittedPosition, GapReason
from mirrorlog.streams.table.changelog_follower import ChangelogFollower, ChangelogSource
from mirrorlog.streams.table.log_table import LogTable
from mirrorlog.streams.table.outgoing import Outgoing
from mirrorlog.streams.web.listen import HttpEndpoint, group_instance_id
from mirrorlog.topics import QUARANTINE_MAX_BYTES

log = logging.getLogger("mirrorlog.node")

AbortProcess = Callable[[BaseException], NoReturn]
"""Ends the process at once, with nothing acknowledged."""


@dataclass(frozen=True, slots=True)
class NodeParts:
    """What the node needs from outside."""

    catalog: Catalog
    changelog: ChangelogSource
    start_of: Callable[[int], PartitionBounds]
    committed: CommittedPosition
    missed: GapReason
    clock: Clock
    abort: AbortProcess
    ready: Callable[[Sequence[int]], None]
    reports: Callable[[], ProgressReports]
    listening: HttpEndpoint | None = None


def group_name(settings: Settings) -> str:
    """The node's consumer group, and the name of its state folder."""
    return f"{settings.topic_prefix}node"


def build_app(settings: Settings, parts: NodeParts) -> faust.App:
    """The app, not started."""
    app = faust.App(
        group_name(settings),
        **faust_settings(settings.bootstrap_servers, settings.kafka),
        autodiscover=False,
        datadir=settings.state_dir / settings.node_name,
        store="rocksdb://",
        TableManager=ChangelogTableManager,
        PartitionAssignor=EvenAssignor,
        table_standby_replicas=settings.node_standbys,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=settings.partitions,
        web_enabled=False,
        # What the workers tell each other of themselves; no two may tell the same.
        canonical_url=parts.listening.url if parts.listening else f"off://{settings.node_name}",
        key_serializer="raw",
        value_serializer="raw",
        # For the changelog, which Faust seeks only after it was assigned. Of the commands nothing is passed over all the
        # same: each partition begins at a committed position, and the node asks after every jump (invariant 7).
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=group_instance_id(settings.node_name, parts.listening),
        broker_session_timeout=settings.node_session_timeout_s,
        broker_heartbeat_interval=settings.node_session_timeout_s / 4,
        broker_rebalance_timeout=30.0,
        broker_commit_interval=settings.node_commit_interval_s,
        producer_acks=-1,
        producer_request_timeout=10.0,
        producer_max_request_size=QUARANTINE_MAX_BYTES,
        producer_linger=0,
        consumer_max_fetch_size=settings.node_fetch_bytes,
        producer_max_batch_size=settings.node_record_max_bytes,
        # Of batches. The fetch_budget keeps it from filling: a worker whose buffers are all full sleeps for a second.
        stream_buffer_maxsize=4096,
        stream_wait_empty=False,
    )
    gate, fetch_budget = (
        CommitGate(settings.topics.commands),
        FetchBudget(settings.node_backlog_bytes),
    )
    app.transport = gated_transport(gate, fetch_budget)(app.conf.broker_consumer, app)
    options = {"block_cache_size": settings.node_block_cache_bytes}
    store = FaustStore(app, settings.topics.changelog, options)
    tables: Any = app.tables
    tables.follower, tables.abort = ChangelogFollower(store, parts.changelog), parts.abort

    async def send(messages: Sequence[Outgoing]) -> list[int]:
        return await send_all(app.producer, messages, settings.patience_s)

    table = LogTable(send, store, settings.topics, gate)
    compaction_settings = CompactionSettings(
        settings.node_tiers_s,
        settings.node_keep_s,
        settings.node_keep_past_sites_after_s,
        settings.node_record_max_bytes,
    )
    compactor = LogCompactor(table, parts.catalog, parts.reports, parts.clock, compaction_settings)
    node = BatchFolder(
        table,
        gate,
        parts.catalog,
        parts.committed,
        parts.missed,
        parts.clock,
        settings.node_record_max_bytes,
        compactor,
    )
    pace = FlushLimits(
        settings.node_flush_s, settings.node_flush_commands, settings.node_flush_bytes
    )
    loops = PartitionLoops(node, fetch_budget, pace, parts.abort)
    _follow_assignments(app, gate, loops, compactor)
    _when_recovered(app, store, parts, gate, table, loops)
    _install_agent(app, settings, loops, parts.abort)
    if parts.listening:
        install_http_service(app, settings, parts.listening, store, parts.clock)
    return app


def _follow_assignments(
    app: faust.App, gate: CommitGate, loops: PartitionLoops, compactor: LogCompactor
) -> None:
    def partitions(tps: Iterable[TP]) -> list[int]:
        return [tp.partition for tp in tps if tp.topic == gate.topic]

    def forget(tps: Iterable[TP]) -> None:
        loops.stop(partitions(tps))
        gate.revoke(partitions(tps))
        compactor.revoke(partitions(tps))

    async def revoked(_app: Any, revoked: set[TP], **_: Any) -> None:
        forget(revoked)

    async def assigned(_app: Any, assigned: set[TP], **_: Any) -> None:
        forget(assigned)

    async def stopping(_app: Any, **_: Any) -> None:
        # Before the producer stops: a flush that can't send any more would take that for an error.
        loops.stop()

    signals: Any = app
    signals.on_before_shutdown.connect(stopping, weak=False)
    signals.on_partitions_revoked.connect(revoked, weak=False)
    signals.on_partitions_assigned.connect(assigned, weak=False)


def _when_recovered(
    app: faust.App,
    store: FaustStore,
    parts: NodeParts,
    gate: CommitGate,
    table: LogTable,
    loops: PartitionLoops,
) -> None:
    async def begin(partition: int) -> None:
        start = await asyncio.to_thread(parts.start_of, partition)
        through = table.complete_through(partition)
        position = plan_start_position(
            gate.topic, partition, start, through, parts.catalog.values()
        )
        if start.committed is not None and position < start.committed:
            log.warning(
                "partition %d: the log ends at position %d, before the %d that was committed: the commands from %d on are "
                "folded again", partition, through, start.committed, position,
            )  # fmt: skip
        gate.assign(partition, position)

    async def recovered() -> None:
        here = sorted(
            tp.partition for tp in app.assignor.assigned_actives() if tp.topic == gate.topic
        )
        try:
            # Whoever had a partition before may have described its volumes anew.
            await asyncio.to_thread(parts.catalog.refresh)
            for partition in here:
                await begin(partition)
        except Exception as error:  # noqa: BLE001
            parts.abort(error)
        loops.start(here)
        parts.ready(here)

    store.table.on_recover(recovered)


def _install_agent(
    app: faust.App, settings: Settings, loops: PartitionLoops, abort: AbortProcess
) -> None:
    commands = app.topic(settings.topics.commands, key_serializer="raw", value_serializer="raw")

    async def fold_commands(stream: Any) -> None:
        async for event in stream.noack().events():
            try:
                batch: EventBatch = event.value
                size_bytes = sum(len(value) for value in batch.values if value is not None)
                loops.put(FetchedBatch(batch, size_bytes, partial(stream.ack, event)))
            # An exception that left this body would acknowledge what wasn't processed: the process ends instead.
            except Exception as error:  # noqa: BLE001
                abort(error)

    app.agent(commands, name="mirrorlog.fold")(fold_commands)
