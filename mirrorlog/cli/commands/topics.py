"""`mirrorlog topics`: making them, and reading what is in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from itertools import islice
from typing import Annotated, Any, Final

import numpy as np
import typer

from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.lookup import read_topic
from mirrorlog.codec.events import decode
from mirrorlog.domain.bitmaps import BitMap64, runs
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.errors import BadInput, BadUse
from mirrorlog.ports.streams import Message
from mirrorlog.settings import Settings

app = typer.Typer(no_args_is_help=True, help="The topics that mirrorlog lives on.")

_SHOWN: Final = 10
"""Of extents and of runs of blocks, how many a line shows; it says how many there are."""


@app.command()
def create(
    context: typer.Context,
    partitions: Annotated[
        int | None, typer.Option(help="Of the commands and of the log; fixed for ever.")
    ] = None,
) -> None:
    """Make the topics that aren't there yet."""
    call = invocation(context)
    names = make_topics(call.settings, partitions or call.settings.partitions)
    call.output.print_json({"schema_version": 1, "topics": names})
    call.output.print_text("\n".join(names))


@app.command()
def tail(
    context: typer.Context,
    topic: Annotated[
        str, typer.Argument(help="volumes, commands, status, quarantine, log or progress.")
    ],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on waiting for more.")] = False,
) -> None:
    """Show every event of a topic, decoded, oldest first; JSON Lines with --json."""
    call = invocation(context)
    for message in read_named_topic(call.settings, topic, follow=follow):
        event = {"partition": message.partition, "position": message.position, **described(message)}
        call.output.print_message("event", event)
        if not call.output.json:
            call.output.print_text(json.dumps(event))


def read_named_topic(settings: Settings, topic: str, *, follow: bool) -> Iterator[Message]:
    """What the topic holds now, and with `follow` what comes after."""
    names = {spec.name for spec in settings.topics.specs(single_copy=True)}
    name = topic if topic in names else f"{settings.topic_prefix}{topic}"
    if name not in names:
        raise BadUse(
            f"there is no topic '{topic}'", next=f"Name one of {', '.join(sorted(names))}."
        )
    return read_topic(settings, name, follow=follow)


def described(message: Message) -> dict[str, Any]:
    """The event in a message, as JSON can hold it."""
    if message.value is None:
        return {"event": None, "key": (message.key or b"").hex()}
    try:
        event = decode(message.value, object)
    except BadInput as error:
        return {"event": "undecodable", "what": error.what, "value": message.value[:64].hex()}
    return {"event": type(event).__name__, **_plain(event)}


def _plain(event: Any) -> dict[str, Any]:
    return {field.name: _value(getattr(event, field.name)) for field in fields(event)}


def _value(value: Any) -> Any:
    if isinstance(value, ExtentColumns):
        first = [
            {"offset": e.offset, "length": e.length, "kind": e.kind.name.lower()}
            for e in islice(value, _SHOWN)
        ]
        return {"extents": len(value), "first": first}
    if isinstance(value, BitMap64):
        return {"blocks": len(value), "first_runs": list(islice(runs(value), _SHOWN))}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_value(each) if isinstance(each, str) else _plain(each) for each in value]
    return value


def make_topics(settings: Settings, partitions: int) -> list[str]:
    """Makes all topics; their names."""
    admin = KafkaAdmin(settings.kafka_client())
    admin.wait_ready(30)
    copies = settings.replication_factor or (3 if admin.brokers() >= 3 else 1)
    specs = settings.topics.specs(single_copy=copies == 1)
    admin.create(specs, partitions, copies=copies)
    admin.close()
    return [spec.name for spec in specs]
