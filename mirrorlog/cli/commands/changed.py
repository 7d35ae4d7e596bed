"""`mirrorlog changed`: which blocks of a volume changed between two points."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.formats import FORMATS, JSON_FORMATS, check_format, render
from mirrorlog.changed.logs import TopicLogSource
from mirrorlog.changed.points import parse_point
from mirrorlog.changed.query import changed_blocks
from mirrorlog.changed.remote import remote_listing
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.output import discard_the_rest
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.streams import TopicReader
from mirrorlog.reading.catalog import Catalog
from mirrorlog.settings import Settings
from mirrorlog.units import parse_duration_s, parse_size

app = typer.Typer()


@app.command()
def changed(
    context: typer.Context,
    volume: Annotated[str, typer.Argument(help="Name of the volume.")],
    since: Annotated[
        str,
        typer.Option(
            help="Start after this point: a time (ISO 8601, in UTC unless it names a zone, or "
            "'2h ago'), @POSITION, barrier:NAME, site:NAME, origin or now."
        ),
    ] = "origin",
    until: Annotated[
        str, typer.Option(help="End at this point, which is written as for --since.")
    ] = "now",
    output_format: Annotated[
        str | None,
        typer.Option("--format", help=f"Print in this format: {', '.join(FORMATS)}."),
    ] = None,
    offset: Annotated[str, typer.Option(help="Resume the listing at this byte.")] = "0",
    wait: Annotated[
        str, typer.Option(help="Wait this long, at most, for the log to reach the last point.")
    ] = "30s",
    node: Annotated[
        str | None,
        typer.Option(
            help="Ask this worker of the node over HTTP instead of reading Kafka.", metavar="URL"
        ),
    ] = None,
) -> None:
    """List the blocks of a volume that changed in a range.

    The range begins after the point --since and ends at the point --until.
    """
    call = invocation(context)
    as_json = call.output.json
    name = output_format or ("json" if as_json else "table")
    check_format(name, JSON_FORMATS if as_json else FORMATS)
    if node is None:
        pieces = render(
            query_kafka(call.settings, volume, since, until, parse_duration_s(wait)),
            name,
            parse_size(offset),
        )
    else:
        query = {"since": since, "until": until, "format": name, "offset": offset, "wait": wait}
        pieces = remote_listing(
            node, call.settings.node_http_token, volume, query, parse_duration_s(wait)
        )
    _write(pieces, quiet=name == "table" and call.output.quiet)


def query_kafka(
    settings: Settings, volume: str, since: str, until: str, patience_s: float
) -> ChangedBlocks:
    """Answer from Kafka itself which blocks of `volume` changed after `since`, through `until`.

    Both points are written as on the command line. Errors: those of changed.query.changed_blocks.
    """
    client, topics, clock = settings.kafka_client(), settings.topics, SystemClock()
    now_us = clock.now_us()
    after, through = parse_point(since, now_us), parse_point(until, now_us)
    admin = KafkaAdmin(client, patience_s)
    catalog = Catalog(KafkaReader(client, patience_s), admin, topics, clock, patience_s)

    def open_reader() -> TopicReader:
        return KafkaReader(client, patience_s)

    logs = TopicLogSource(open_reader, admin, topics.changelog, clock)
    ports = QueryPorts(open_reader, admin, catalog, topics, clock, logs)
    try:
        return changed_blocks(volume, after, through, ports, patience_s)
    finally:
        catalog.close()
        admin.close()


def _write(pieces: Iterable[str], *, quiet: bool) -> None:
    """Write the pieces to stdout as they come. A closed pipe (`| head`) ends it without an error.

    quiet: consume the pieces, so that their errors are raised, and write nothing.
    """
    try:
        for piece in pieces:
            if not quiet:
                sys.stdout.write(piece)
        sys.stdout.flush()
    except BrokenPipeError:
        discard_the_rest(sys.stdout)
