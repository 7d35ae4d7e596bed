"""Send one tracking command that belongs to no host's session, and wait for the node's status."""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.codec.events import encode
from mirrorlog.codec.status_batches import read_statuses
from mirrorlog.domain.commands import (
    CommandKind,
    CommandStatus,
    RawCommand,
    StatusCode,
    TrackingCommand,
)
from mirrorlog.domain.extents import Extent, ExtentColumns
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, KafkaFailed
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.streams import known_position
from mirrorlog.settings import Settings


@dataclass(frozen=True, slots=True)
class CommandContent:
    """The content of a command besides its sender: fields named as those of TrackingCommand.

    session: the id of the session that it belongs to; None for a new id.
    """

    kind: CommandKind
    extents: Sequence[Extent] = ()
    note: str | None = None
    session: str | None = None
    raw: tuple[RawCommand, ...] = ()
    logical_block_bytes: int = 0
    size_bytes: int = 0
    new_generation: str | None = None


def send_command(
    settings: Settings, volume: Volume, content: CommandContent, deadline_s: float
) -> CommandStatus:
    """Make a command, publish it, and return the node's status of it. Errors: send_made()'s."""
    return send_made(settings, volume, _command(volume, content), deadline_s)


def sender() -> str:
    """Return who sends a command by hand: the user and the machine."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def send_made(
    settings: Settings, volume: Volume, command: TrackingCommand, deadline_s: float
) -> CommandStatus:
    """Publish a command of the volume, and return the node's status of it.

    1. Ask for the end of the status topic: the status comes after it.
    2. Publish the command, and wait until Kafka acknowledges it.
    3. Wait for the status that names the command's position.

    Errors: KafkaFailed if Kafka doesn't acknowledge it, or no status comes, within `deadline_s`.
    """
    client, topics = settings.kafka_client(), settings.topics
    admin, publisher, reader = KafkaAdmin(client), KafkaPublisher(client), KafkaReader(client)
    try:
        end = admin.end_position(topics.status, volume.partition)
        reader.assign(topics.status, {volume.partition: end})  # 1
        if volume.is_authenticated:
            # The node tells by it that the bytes aren't sent for the second time.
            known = newest_position(admin, topics.commands, volume.partition)
            command = replace(command, acknowledged_position=known)
        positions: list[int | None] = []
        value = encode(command)
        publisher.publish(
            topics.commands, volume.partition, volume.volume.encode(), value, positions.append
        )
        publisher.flush(deadline_s)  # 2
        where = f"volume {volume.volume}"
        position = known_position(positions[0], what="the command", where=where)
        return _await_status(reader, position, deadline_s)  # 3
    finally:
        reader.close()
        publisher.close()
        admin.close()


def newest_position(admin: KafkaAdmin, topic: str, partition: int) -> int | None:
    """Return the highest position that is acknowledged now; None if there is none."""
    end = admin.end_position(topic, partition)
    return end - 1 if end else None


def check_accepted(status: CommandStatus) -> None:
    """Raise BadInput, with the node's reason, if the node refused the command."""
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
        f"the command is published, at position {position}, but no status came within "
        f"{deadline_s:g} s",
        next="Is a node running? It will record the command when it does.",
    )


def _command(volume: Volume, content: CommandContent) -> TrackingCommand:
    """Return the command, with sequence -1: it isn't one of a session's numbered commands."""
    now_us = SystemClock().now_us()
    return TrackingCommand(
        volume=volume.volume,
        generation=volume.generation,
        host=sender(),
        session=content.session or str(uuid4()),
        sequence=-1,
        kind=content.kind,
        extents=ExtentColumns.of(content.extents),
        first_at_us=now_us,
        last_at_us=now_us,
        note=content.note,
        raw=content.raw,
        logical_block_bytes=content.logical_block_bytes,
        size_bytes=content.size_bytes,
        new_generation=content.new_generation,
    )
