"""Runs the node: what must be true before it starts, the worker itself, and how it ends."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NoReturn

import faust

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.errors import MirrorlogError, OutOfRetention, exit_code_of
from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.settings import Settings
from mirrorlog.streams.faust_worker.app import NodeParts, build_app, group_name
from mirrorlog.streams.faust_worker.kafka_options import unsupported_settings
from mirrorlog.streams.faust_worker.start_positions import PartitionBounds
from mirrorlog.streams.table.changelog_follower import ChangelogSource
from mirrorlog.streams.web.listen import HttpEndpoint, listen

log = logging.getLogger("mirrorlog.node")


def plan_first_commits(topic: str, starts: Mapping[int, PartitionBounds]) -> dict[int, int]:
    """Positions to commit for partitions that the group never committed: the oldest kept, and nothing is passed over.

    OutOfRetention where commands behind the committed position are gone (invariant 7), or where the topic ends below
    it: it was made anew, and positions don't mean what they did.
    """
    for partition, start in starts.items():
        if start.committed is None:
            continue
        where = f"topic {topic}, partition {partition}, committed {start.committed}"
        if start.committed < start.first_kept:
            raise OutOfRetention(
                f"commands up to position {start.first_kept - 1} were deleted before the node recorded them",
                where=where,
                next="Renew the generation of the partition's volumes, then reset the group to the oldest position.",
            )
        if start.committed > start.end:
            raise OutOfRetention(
                f"the topic ends at position {start.end}: it was made anew, or lost what was acknowledged",
                where=where,
                next="Renew the generation of the partition's volumes, then reset the group.",
            )
    return {
        partition: start.first_kept
        for partition, start in starts.items()
        if start.committed is None
    }


def _site_reports(settings: Settings, admin: KafkaAdmin) -> SiteReports:
    reader = KafkaReader(settings.kafka_client())
    return SiteReports(reader, admin, settings.topics, SystemClock(), settings.patience_s)


def _listen(settings: Settings) -> tuple[HttpEndpoint | None, str | None]:
    """The node's socket for HTTP, and its address; None where it has none."""
    folder = settings.state_dir / settings.node_name
    folder.mkdir(parents=True, exist_ok=True)
    found = listen(
        settings.node_http,
        settings.node_http_token,
        settings.node_http_advertised,
        folder / "http-port",
    )
    return found, found.url if found else None


def _missed(
    settings: Settings, admin: KafkaAdmin, partition: int, first: int, end: int
) -> str | None:
    topic = settings.topics.commands
    if admin.first_position(topic, partition) > first:
        return "were deleted before the node recorded them"
    reader = KafkaReader(settings.kafka_client())
    reader.assign(topic, {partition: first})
    try:
        while reader.reached(topic, partition) < end:
            if any(message.position < end for message in reader.poll(0.5)):
                return "were passed over by the stream"
    finally:
        reader.close()
    return None


def run_node(
    settings: Settings,
    ready: Callable[[str | None, Sequence[int]], None],
    failed: Callable[[BaseException], None],
) -> NoReturn:
    """Runs until SIGTERM or SIGINT (exit 0), or until something must stop it (`failed` tells, exit by the error).

    ready: is given the worker's address and the partitions that it has; again after each rebalance.
    """
    listening, url = _listen(settings)
    topic, group = settings.topics.commands, group_name(settings)
    admin = KafkaAdmin(settings.kafka_client(), settings.patience_s)
    positions = admin.committed_positions(group, topic)
    starts = {
        partition: PartitionBounds(*admin.bounds(topic, partition), committed)
        for partition, committed in positions.items()
    }
    if unstarted := plan_first_commits(topic, starts):
        admin.commit(group, topic, unstarted)
    for name in unsupported_settings(settings.kafka):
        log.warning(
            "the node's client doesn't know the setting %s: hosts and sites honour it, the node doesn't",
            name,
        )
    catalog = Catalog(
        KafkaReader(settings.kafka_client()),
        admin,
        settings.topics,
        SystemClock(),
        settings.patience_s,
    )
    catalog.refresh()

    def committed(partition: int) -> int:
        position = admin.committed_positions(group, topic)[partition]
        assert position is not None
        return position

    def start_of(partition: int) -> PartitionBounds:
        return PartitionBounds(*admin.bounds(topic, partition), committed(partition))

    def abort(error: BaseException) -> NoReturn:
        failed(error)
        if not isinstance(error, MirrorlogError):
            log.critical("the node met an error that it doesn't know", exc_info=error)
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: a graceful stop would run Faust's own acknowledging `finally` blocks (invariant 2).
        os._exit(int(exit_code_of(error)))

    changelog = settings.topics.changelog
    parts = NodeParts(
        catalog,
        ChangelogSource(
            changelog,
            partial(KafkaReader, settings.kafka_client()),
            partial(admin.bounds, changelog),
            partial(admin.identity, changelog),
        ),
        start_of,
        committed,
        partial(_missed, settings, admin),
        SystemClock(),
        abort,
        partial(ready, url),
        partial(_site_reports, settings, admin),
        listening,
    )
    app = build_app(settings.model_copy(update={"partitions": len(positions)}), parts)
    worker = faust.Worker(app, loglevel="WARN", redirect_stdouts=False, quiet=True)
    worker.spinner = None
    worker.execute_from_commandline()
