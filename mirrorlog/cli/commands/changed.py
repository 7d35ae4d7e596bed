"""`mirrorlog changed`: which blocks of a volume changed between two points."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.formats import FORMATS, JSON_FORMATS, check_format, render
from mirrorlog.changed.logs import TopicLogs
from mirrorlog.changed.points import parse_point
from mirrorlog.changed.query import QueryPorts, changed_blocks
from mirrorlog.changed.remote import remote_listing
from mirrorlog.cli.support.context import invocation
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.streams import TopicReader
from mirrorlog.reading.catalog import Catalog
from mirrorlog.settings import Settings
from mirrorlog.units import parse_duration_s, parse_size


def changed(
    context: typer.Context,
    volume: Annotated[str, typer.Argument(help="Name of the volume.")],
    since: Annotated[
        str,
        typer.Option(
            help="A time (ISO 8601, UTC without a zone; '2h ago'), @POSITION, barrier:NAME, site:NAME, origin or now."
        ),
    ] = "origin",
    until: Annotated[str, typer.Option(help="As --since.")] = "now",
    output_format: Annotated[
        str | None, typer.Option("--format", help=f"{', '.join(FORMATS)}.")
    ] = None,
    offset: Annotated[str, typer.Option(help="Resume the listing at that byte.")] = "0",
    json: Annotated[bool, typer.Option("--json", help="As --format json.")] = False,
    wait: Annotated[str, typer.Option(help="How long to wait for the log to get there.")] = "30s",
    node: Annotated[
        str | None,
        typer.Option(help="Ask any worker of the node over HTTP, not Kafka.", metavar="URL"),
    ] = None,
) -> None:
    """Which blocks of a volume changed after one point, through another."""
    call = invocation(context)
    as_json = json or call.output.json
    name = output_format or ("json" if as_json else "table")
    check_format(name, JSON_FORMATS if as_json else FORMATS)
    if node is None:
        pieces = render(
            query_kafka(call.settings, volume, since, until, parse_duration_s(wait)),
            name,
            parse_size(offset),
        )
    else:
        asked = {"since": since, "until": until, "format": name, "offset": offset, "wait": wait}
        pieces = remote_listing(
            node, call.settings.node_http_token, volume, asked, parse_duration_s(wait)
        )
    write(pieces, quiet=name == "table" and call.output.quiet)


def query_kafka(
    settings: Settings, volume: str, since: str, until: str, patience_s: float
) -> ChangedBlocks:
    """The answer from real Kafka, with its errors."""
    client, topics, clock = settings.kafka_client(), settings.topics, SystemClock()
    now_us = clock.now_us()
    after, through = parse_point(since, now_us), parse_point(until, now_us)
    admin = KafkaAdmin(client, patience_s)
    catalog = Catalog(KafkaReader(client, patience_s), admin, topics, clock, patience_s)

    def open_reader() -> TopicReader:
        return KafkaReader(client, patience_s)

    logs = TopicLogs(open_reader, admin, topics.changelog, clock)
    ports = QueryPorts(open_reader, admin, catalog, topics, clock, logs)
    try:
        return changed_blocks(volume, after, through, ports, patience_s)
    finally:
        catalog.close()
        admin.close()


def write(pieces: Iterable[str], *, quiet: bool) -> None:
    """To stdout, as they come; a reader that has seen enough (`| head`) ends it quietly."""
    try:
        for piece in pieces:
            if not quiet:
                sys.stdout.write(piece)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more at its end (docs.python.org, "Note on SIGPIPE").
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
