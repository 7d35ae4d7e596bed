"""`mirrorlog command`: one tracking command by hand, and its status."""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Final
from uuid import uuid4

import typer

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.codec.events import encode
from mirrorlog.codec.status_batches import read_statuses
from mirrorlog.domain.commands import (
    CommandKind,
    CommandStatus,
    RawCommand,
    StatusCode,
    TrackingCommand,
    WireProtocol,
)
from mirrorlog.domain.extents import Extent, ExtentColumns, ExtentKind
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, BadUse, KafkaFailed
from mirrorlog.ports.clock import SystemClock
from mirrorlog.settings import Settings
from mirrorlog.units import parse_duration_s, parse_size

app = typer.Typer(no_args_is_help=True, help="Tracking commands by hand.")

_EXTENT_HELP: Final = (
    "OFFSET+LENGTH, sizes with units, as in 1GiB+64KiB; may be given more than once."
)
Extents = Annotated[list[str] | None, typer.Option(metavar="EXTENT", help=_EXTENT_HELP)]


@app.command()
def send(
    context: typer.Context,
    volume: Annotated[str, typer.Argument(metavar="VOLUME")],
    write: Extents = None,
    zero: Extents = None,
    discard: Extents = None,
    mark_dirty: Extents = None,
    raw: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROTOCOL:HEX[:HEX]",
            help="A command from the wire (scsi, nvme, nbd), and its data.",
        ),
    ] = None,
    logical_block: Annotated[
        str, typer.Option(help="Unit of the addresses in raw SCSI and NVMe commands.")
    ] = "512",
    close_session: Annotated[
        str | None,
        typer.Option(
            metavar="SESSION",
            help="It is dead and will never write again: sites stop waiting for it.",
        ),
    ] = None,
    barrier: Annotated[
        str | None, typer.Option(metavar="NAME", help="A named point in the volume's history.")
    ] = None,
    timeout: Annotated[str, typer.Option(help="How long the status is waited for.")] = "30s",
) -> None:
    """Publish one command that belongs to no session, and wait for the node's status."""
    call = invocation(context)
    deadline_s = parse_duration_s(timeout)
    extents = [
        *(_extent(text, ExtentKind.WRITE) for text in [*(write or []), *(mark_dirty or [])]),
        *(_extent(text, ExtentKind.ZERO) for text in zero or []),
        *(_extent(text, ExtentKind.DISCARD) for text in discard or []),
    ]
    said = {
        CommandKind.WRITES: write or zero or discard,
        CommandKind.MARK_DIRTY: mark_dirty,
        CommandKind.RAW: raw,
        CommandKind.BARRIER: barrier,
        CommandKind.SESSION_CLOSE: close_session,
    }
    kinds = [kind for kind, given in said.items() if given]
    if len(kinds) != 1:
        raise BadUse(
            "one command says one thing",
            next="Give extents, or ranges to mark dirty, or raw commands, or a barrier's name, or a session to close.",
        )
    content = CommandContent(
        kinds[0],
        extents,
        note=barrier,
        session=close_session,
        raw=tuple(_raw(text) for text in raw or []),
        logical_block_bytes=parse_size(logical_block) if raw else 0,
    )
    status = send_command(call.settings, find_volume(call.settings, volume), content, deadline_s)
    call.output.print_json({"schema_version": 1, **asdict(status)})
    call.output.print_text(
        f"{status.code} at position {status.position} of partition {status.partition}. {status.text}".strip()
    )
    check_taken(status)


@dataclass(frozen=True, slots=True)
class CommandContent:
    """What a command says; without a session it belongs to one of its own."""

    kind: CommandKind
    extents: Sequence[Extent] = ()
    note: str | None = None
    session: str | None = None
    raw: tuple[RawCommand, ...] = ()
    logical_block_bytes: int = 0
    size_bytes: int = 0
    new_generation: str | None = None


def send_command(
    settings: Settings, volume: Volume, said: CommandContent, deadline_s: float
) -> CommandStatus:
    """Publishes the command, acknowledged, and returns the node's reply; KafkaFailed where none comes in time.

    1. The end of the status topic is asked: the reply comes behind it.
    2. The command is published.
    3. The reply with its position is waited for.
    """
    client, topics = settings.kafka_client(), settings.topics
    admin, publisher, reader = KafkaAdmin(client), KafkaPublisher(client), KafkaReader(client)
    try:
        reader.assign(
            topics.status, {volume.partition: admin.end_position(topics.status, volume.partition)}
        )
        positions: list[int] = []
        content = encode(_command(volume, said))
        publisher.publish(
            topics.commands, volume.partition, volume.volume.encode(), content, positions.append
        )
        publisher.flush(deadline_s)
        return _await_status(reader, positions[0], deadline_s)
    finally:
        reader.close()
        publisher.close()
        admin.close()


def check_taken(status: CommandStatus) -> None:
    """BadInput, saying why, where the node refused the command."""
    if status.code is StatusCode.REJECTED:
        raise BadInput(
            f"the node refused the command ({status.reason}): {status.text.rstrip('.')}",
            where=f"volume {status.volume}, position {status.position}",
            next="docs/statuses.md explains each reason.",
        )


def _await_status(reader: KafkaReader, position: int, deadline_s: float) -> CommandStatus:
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        for message in reader.poll(0.2):
            for status in read_statuses(message.value or b""):
                if status.position == position:
                    return status
    raise KafkaFailed(
        f"the command is published, at position {position}, but no status came within {deadline_s:g} s",
        next="Is a node running? It will record the command when it does.",
    )


def _command(volume: Volume, said: CommandContent) -> TrackingCommand:
    now_us = SystemClock().now_us()
    return TrackingCommand(
        volume=volume.volume,
        generation=volume.generation,
        host=f"{getpass.getuser()}@{socket.gethostname()}",
        session=said.session or str(uuid4()),
        sequence=-1,
        kind=said.kind,
        extents=ExtentColumns.of(said.extents),
        first_at_us=now_us,
        last_at_us=now_us,
        note=said.note,
        raw=said.raw,
        logical_block_bytes=said.logical_block_bytes,
        size_bytes=said.size_bytes,
        new_generation=said.new_generation,
    )


def _raw(text: str) -> RawCommand:
    protocol, _, rest = text.partition(":")
    command, _, data = rest.partition(":")
    try:
        return RawCommand(
            WireProtocol(protocol.upper()), bytes.fromhex(command), bytes.fromhex(data)
        )
    except ValueError as error:
        raise BadUse(
            f"'{text[:60]}' isn't a raw command", next="Write it like scsi:2a000000000800000800."
        ) from error


def _extent(text: str, kind: ExtentKind) -> Extent:
    offset, plus, length = text.partition("+")
    if not plus:
        raise BadUse(f"'{text}' isn't an extent", next="Write OFFSET+LENGTH, as in 1GiB+64KiB.")
    return Extent(parse_size(offset), parse_size(length), kind)
