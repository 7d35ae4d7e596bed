"""A whole node, put together as `run_node` does, on a broker and an engine in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

from deadlines import DEADLINE_S

from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_engine import MemoryEngine, MemoryStore
from mirrorlog.streams.fold.authenticity import HostKeySource
from mirrorlog.streams.partitions.source_topic import SourceTopic
from mirrorlog.streams.table.changelog_follower import ChangelogSource
from mirrorlog.streams.wiring import NodePorts, build_node, group_name


def memory_node(
    settings: Settings,
    broker: MemoryBroker,
    *,
    abort: Callable[[BaseException], NoReturn],
    on_ready: Callable[[Sequence[int]], None] = lambda partitions: None,
    store: MemoryStore | None = None,
    host_keys: HostKeySource | None = None,
) -> MemoryEngine:
    """Return the engine of a new worker, which doesn't run yet. store: of the worker before."""
    topics, clock = settings.topics, SystemClock()
    engine = MemoryEngine(broker, topics, group_name(settings), store)
    source = SourceTopic(
        broker,
        broker.reader,
        topic=topics.commands,
        group=group_name(settings),
        patience_s=DEADLINE_S,
    )
    source.commit_first_positions(topics.changelog)
    ports = NodePorts(
        catalog=Catalog(broker.reader(), broker, topics, clock),
        changelog=ChangelogSource(
            topics.changelog,
            broker.reader,
            lambda partition: broker.bounds(topics.changelog, partition),
            lambda: broker.identity(topics.changelog),
        ),
        source=source,
        open_reports=lambda: SiteReports(broker.reader(), broker, topics, clock),
        clock=clock,
        abort=abort,
        on_ready=on_ready,
        host_keys=host_keys,
    )
    build_node(settings, ports, engine)
    return engine
