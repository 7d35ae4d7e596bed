"""`mirrorlog topics`: create the topics, and print what they hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Annotated, Any, Final

import numpy as np
import typer

from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.create_topics import create_topics
from mirrorlog.cli.support.lookup import read_topic
from mirrorlog.codec.events import decode
from mirrorlog.domain.bitmaps import BlockSet, runs
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.errors import BadInput, BadUse
from mirrorlog.ports.streams import Message
from mirrorlog.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Create mirrorlog's topics, and print what they hold.")

_MAX_SHOWN: Final = 10
"""How many extents, and how many runs of blocks, a line shows. It says how many there are."""


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


@app.command()
def tail(
    context: typer.Context,
    topic: Annotated[
        str, typer.Argument(help="volumes, commands, status, quarantine, log or progress.")
    ],
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Wait for more events until stopped.")
    ] = False,
) -> None:
    """Print every event of a topic, decoded, oldest first. With --json, print JSON Lines."""
    call = invocation(context)
    for message in _read(call.settings, topic, follow=follow):
        event = {"partition": message.partition, "position": message.position, **_decoded(message)}
        call.output.print_message("event", event)
        if not call.output.json:
            call.output.print_text(json.dumps(event))


def _read(settings: Settings, topic: str, *, follow: bool) -> Iterator[Message]:
    """Read `topic`, named with or without the prefix.

    Raise BadUse if mirrorlog has no such topic.
    """
    names = {spec.name for spec in settings.topics.specs(single_copy=True)}
    name = topic if topic in names else f"{settings.topic_prefix}{topic}"
    if name not in names:
        raise BadUse(
            f"there is no topic '{topic}'", next=f"Name one of {', '.join(sorted(names))}."
        )
    return read_topic(settings, name, follow=follow)


def _decoded(message: Message) -> dict[str, Any]:
    """Return the event in `message`, in values that JSON can hold."""
    if message.value is None:
        return {"event": None, "key": (message.key or b"").hex()}
    try:
        event = decode(message.value, object)
    except BadInput as error:
        return {"event": "undecodable", "what": error.what, "value": message.value[:64].hex()}
    return {"event": type(event).__name__, **_fields(event)}


def _fields(event: Any) -> dict[str, Any]:
    return {field.name: _json_value(getattr(event, field.name)) for field in fields(event)}


def _json_value(value: Any) -> Any:
    """Return the value of a field, in values that JSON can hold; long lists are cut."""
    if isinstance(value, ExtentColumns):
        first = [
            {
                "offset": extent.offset,
                "length": extent.length,
                "kind": extent.kind.name.lower(),
            }
            for extent in islice(value, _MAX_SHOWN)
        ]
        return {"extents": len(value), "first": first}
    if isinstance(value, BlockSet):
        return {"blocks": len(value), "first_runs": list(islice(runs(value), _MAX_SHOWN))}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple | list):
        return [_json_value(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _json_value(item) for name, item in value.items()}
    if is_dataclass(value):
        return _fields(value)
    return value
