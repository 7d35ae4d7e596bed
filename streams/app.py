"""The Faust app of the processing node: built from settings, nothing at import, nothing found by itself."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import faust
from faust.types import TP

from mirrorlog.catalog import Catalog
from mirrorlog.errors import MirrorlogError
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message
from mirrorlog.settings import Settings
from mirrorlog.streams.acknowledged import Outgoing, send_all
from mirrorlog.streams.commit_gate import CommitGate
from mirrorlog.streams.faust_store import FaustStore
from mirrorlog.streams.gated_transport import gated_transport
from mirrorlog.streams.kafka_options import faust_settings
from mirrorlog.streams.log_table import LogTable
from mirrorlog.streams.node import Committed, Missed, Node
from mirrorlog.topics import QUARANTINE_MAX_BYTES

Halt = Callable[[BaseException], NoReturn]
"""Ends the process at once, with nothing acknowledged."""


@dataclass(frozen=True, slots=True)
class NodeParts:
    """What the node needs from outside."""

    catalog: Catalog
    committed: Committed
    missed: Missed
    clock: Clock
    halt: Halt
    ready: Callable[[Sequence[int]], None]


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
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=settings.partitions,
        web_enabled=False,
        key_serializer="raw",
        value_serializer="raw",
        # For the changelog, which Faust seeks only after it was assigned. Of the commands nothing is passed over all the
        # same: each partition begins at a committed position, and the node asks after every jump (invariant 7).
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=settings.node_name,
        broker_session_timeout=settings.node_session_timeout_s,
        broker_heartbeat_interval=settings.node_session_timeout_s / 4,
        broker_rebalance_timeout=30.0,
        broker_commit_interval=settings.node_commit_interval_s,
        producer_acks=-1,
        producer_request_timeout=10.0,
        producer_max_request_size=QUARANTINE_MAX_BYTES,
        producer_linger=0,
        stream_buffer_maxsize=settings.node_buffer_messages,
        stream_wait_empty=False,
    )
    gate = CommitGate(settings.topics.commands)
    app.transport = gated_transport(gate)(app.conf.broker_consumer, app)
    options = {"block_cache_size": settings.node_block_cache_bytes}
    store = FaustStore(app, settings.topics.changelog, options)

    async def send(messages: Sequence[Outgoing]) -> list[int]:
        return await send_all(app.producer, messages, settings.patience_s)

    table = LogTable(send, store, settings.topics, gate)
    node = Node(table, gate, parts.catalog, parts.committed, parts.missed, parts.clock, settings.node_record_max_bytes)
    _follow_assignments(app, gate)
    _tell_when_ready(app, store, settings, parts)
    _install_agent(app, settings, node, parts.halt)
    return app


def _follow_assignments(app: faust.App, gate: CommitGate) -> None:
    def partitions(tps: Iterable[TP]) -> list[int]:
        return [tp.partition for tp in tps if tp.topic == gate.topic]

    async def revoked(_app: Any, revoked: set[TP], **_: Any) -> None:
        gate.forget(partitions(revoked))

    async def assigned(_app: Any, assigned: set[TP], **_: Any) -> None:
        gate.forget(partitions(assigned))

    signals: Any = app
    signals.on_partitions_revoked.connect(revoked, weak=False)
    signals.on_partitions_assigned.connect(assigned, weak=False)


def _tell_when_ready(app: faust.App, store: FaustStore, settings: Settings, parts: NodeParts) -> None:
    async def recovered() -> None:
        here = [tp.partition for tp in app.assignor.assigned_actives() if tp.topic == settings.topics.commands]
        parts.ready(sorted(here))

    store.table.on_recover(recovered)


def _install_agent(app: faust.App, settings: Settings, node: Node, halt: Halt) -> None:
    commands = app.topic(settings.topics.commands, key_serializer="raw", value_serializer="raw")

    async def fold_commands(stream: Any) -> None:
        async for events in stream.noack_take(settings.node_flush_commands, within=settings.node_flush_s):
            try:
                for partition, messages in _by_partition(events).items():
                    await node.process(partition, messages)
                for event in events:
                    await stream.ack(event)
            except asyncio.CancelledError:
                raise
            # An exception that left this body would acknowledge what wasn't processed: the process ends instead.
            except MirrorlogError as error:
                halt(error)
            except BaseException as error:  # noqa: BLE001
                halt(error)

    app.agent(commands, name="mirrorlog.fold")(fold_commands)


def _by_partition(events: Sequence[Any]) -> dict[int, list[Message]]:
    found: dict[int, list[Message]] = defaultdict(list)
    for event in events:
        raw = event.message
        found[raw.partition].append(Message(raw.topic, raw.partition, raw.offset, raw.key, raw.value))
    return found
