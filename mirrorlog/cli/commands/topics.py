"""`mirrorlog topics`: create and list the topics, and print what they hold."""

from __future__ import annotations

from typing import Annotated

import typer

from mirrorlog.changed.worded_times import understand_point
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.create_topics import create_topics
from mirrorlog.cli.support.event_view import event_line, message_fields
from mirrorlog.cli.support.tables import print_table
from mirrorlog.cli.support.tailing import find_target, tail_events
from mirrorlog.cli.support.topics_view import TOPIC_COLUMNS, describe_topics
from mirrorlog.ports.clock import SystemClock

app = typer.Typer(
    no_args_is_help=True, help="Create mirrorlog's topics, list them, and print their events."
)


@app.command()
def create(
    context: typer.Context,
    partitions: Annotated[
        int | None,
        typer.Option(
            help="Give the commands topic and the log this many partitions, which is final."
        ),
    ] = None,
) -> None:
    """Create the topics that don't exist yet. Let all of them hold the broker's time."""
    call = invocation(context)
    created = create_topics(call.settings, partitions)
    call.output.print_json(
        {
            "schema_version": 1,
            "topics": created.names,
            "made_broker_time": created.made_broker_time,
        }
    )
    call.output.print_text("\n".join(created.names))
    if created.made_broker_time:
        call.output.print_text(
            f"{', '.join(created.made_broker_time)} held the times of hosts, and hold the "
            "broker's from now on; what they hold already keeps its times"
        )


@app.command("list")
def list_(context: typer.Context) -> None:
    """Show every topic: its partitions and copies, how much it holds, and for how long.

    POSITIONS counts the positions from the oldest message that is kept to the end; compaction and
    transactions leave some of them empty.
    """
    call = invocation(context)
    topics = describe_topics(call.settings)
    call.output.print_json({"schema_version": 1, "topics": [topic.fields() for topic in topics]})
    print_table(call.output, TOPIC_COLUMNS, (topic.cells() for topic in topics))


@app.command()
def tail(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="VOLUME|TOPIC",
            help="A topic (volumes, commands, status, quarantine, log, progress or reports), or "
            "else a volume.",
        ),
    ],
    since: Annotated[
        str,
        typer.Option(help="Begin at a time ('10 minutes ago'), @POSITION of a topic, or now."),
    ] = "origin",
    last: Annotated[
        int | None,
        typer.Option("-n", "--last", min=0, help="Print only the last of these events."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Wait for more events until stopped.")
    ] = False,
) -> None:
    """Print the events of a topic, or of all topics about a volume, decoded, oldest first.

    The events of a volume are in the order of the broker's time. Those of a topic are in order
    within each partition. With --json, print JSON Lines.
    """
    call = invocation(context)
    point = understand_point(since, SystemClock().now_us())
    target_topic = find_target(call.settings, target)
    for message in tail_events(call.settings, target_topic, point, last, follow=follow):
        fields = message_fields(message)
        call.output.print_message("event", {"topic": message.topic, **fields})
        if not call.output.json:
            call.output.print_text(event_line(message.topic, fields))
