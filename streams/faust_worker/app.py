"""The Faust app of the node: its settings, its transport, and how its signals reach the node.

Importing this module imports Faust, which reads sys.argv and the environment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import faust
from faust.types import TP

from mirrorlog.settings import Settings
from mirrorlog.streams.engine import AbortProcess, BatchSink, FetchedBatch, PartitionListener
from mirrorlog.streams.faust_worker.assignment import EvenAssignor
from mirrorlog.streams.faust_worker.faust_recovery import ChangelogTableManager
from mirrorlog.streams.faust_worker.faust_store import FaustStore
from mirrorlog.streams.faust_worker.kafka_options import faust_settings
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.topics import QUARANTINE_MAX_BYTES


def make_app(settings: Settings, *, group: str, member: str, url: str | None) -> faust.App:
    """Return the app, not started and without a transport, a table, an agent or a service.

    The arguments are those of FaustEngine.
    """
    return faust.App(
        group,
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
        # The address that the worker tells its group. Each worker needs one of its own.
        canonical_url=url or f"off://{member}",
        key_serializer="raw",
        value_serializer="raw",
        # Faust lets the environment overrule what is given here, as by PRODUCER_ACKS=0.
        env={},
        # With it, the consumer reads uncommitted (invariant 16).
        processing_guarantee="at_least_once",
        # For the changelog, which Faust seeks only after it was assigned. No command is passed over
        # by it: each partition begins at a committed position, and BatchFolder asks about every gap
        # (invariant 7).
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=member,
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
        # Counted in batches. The fetch budget keeps this buffer from filling up: a worker whose
        # buffers are all full sleeps for a second.
        stream_buffer_maxsize=4096,
        stream_wait_empty=False,
    )


def connect_signals(
    app: faust.App,
    store: FaustStore,
    topic: str,
    listeners: Sequence[PartitionListener],
    abort: AbortProcess,
) -> None:
    """Tell `listeners` which partitions of `topic` the app is assigned and loses.

    Faust emits "assigned" before the tables are recovered, and on_recover after it.
    """

    def release(tps: Iterable[TP]) -> None:
        moved = partitions(tps)
        for listener in listeners:
            listener.release(moved)

    def partitions(tps: Iterable[TP]) -> list[int]:
        return [tp.partition for tp in tps if tp.topic == topic]

    async def revoked(_app: Any, revoked: set[TP], **_: Any) -> None:
        release(revoked)

    async def assigned(_app: Any, assigned: set[TP], **_: Any) -> None:
        release(assigned)

    async def stopping(_app: Any, **_: Any) -> None:
        for listener in listeners:
            listener.stop()

    async def recovered() -> None:
        try:
            await _start(sorted(partitions(app.assignor.assigned_actives())), store, listeners)
        except Exception as error:  # noqa: BLE001
            abort(error)

    signals: Any = app
    signals.on_before_shutdown.connect(stopping, weak=False)
    signals.on_partitions_revoked.connect(revoked, weak=False)
    signals.on_partitions_assigned.connect(assigned, weak=False)
    store.table.on_recover(recovered)


async def _start(
    partitions: Sequence[int], store: FaustStore, listeners: Sequence[PartitionListener]
) -> None:
    """Open the tables of the partitions and let the listeners start their work."""
    for partition in partitions:
        store.open(partition)
    for listener in listeners:
        await listener.start(partitions)


def seen_end(app: faust.App, topic: str, partition: int) -> int | None:
    """Return where the partition ended at the consumer's last fetch of it, None if unknown."""
    consumer: Any = app.consumer
    tp = TP(topic, partition)
    # A number that another thread's consumer keeps: nothing is asked of the broker.
    return consumer.highwater(tp) if tp in consumer.assignment() else None


def worker_urls(app: faust.App, store: FaustStore) -> dict[int, str]:
    """Return the address of each partition's worker, as the group's assignment tells it."""
    topics_by_url = app.router.table_metadata(store.table.name)
    return {
        partition: url
        for url, topics in topics_by_url.items()
        for partitions in topics.values()
        for partition in partitions
    }


def install_agent(app: faust.App, topic: str, batches: BatchSink, abort: AbortProcess) -> None:
    """Make the agent that hands on the batches of `topic`.

    An exception that left its body would acknowledge what wasn't processed: `abort` ends the
    process instead.
    """
    commands = app.topic(topic, key_serializer="raw", value_serializer="raw")

    async def fold_commands(stream: Any) -> None:
        async for event in stream.noack().events():
            try:
                batch: EventBatch = event.value
                size_bytes = sum(len(value) for value in batch.values if value is not None)
                batches.put(FetchedBatch(batch, size_bytes, partial(stream.ack, event)))
            except Exception as error:  # noqa: BLE001
                abort(error)

    app.agent(commands, name="mirrorlog.fold")(fold_commands)
