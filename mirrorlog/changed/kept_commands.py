"""The commands of one volume among the messages of its partition, each with its position."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput
from mirrorlog.ports.streams import Message


class KeptCommand(NamedTuple):
    """A command of one volume at a position of its partition.

    appended_at_us: when the broker appended it, in microseconds since 1970, rounded down to its
        milliseconds; None if only a producer's clock says so.
    """

    position: int
    command: TrackingCommand
    appended_at_us: int | None


def commands_among(messages: Iterable[Message], volume: Volume) -> Iterator[KeptCommand]:
    """Yield the volume's commands among the messages, in their order.

    Extents are as the command names them: not clipped. Commands of recordings come as
    RecordedWrites, with the time of each write. Messages that are no command are left out: the node
    refused them, and no record has them.
    """
    for message in messages:
        if message.value is None:
            continue
        try:
            command = decode(message.value, TrackingCommand)
        except BadInput:
            continue
        if command.volume == volume.volume:
            appended_us = message.at_us if message.by_broker else None
            yield KeptCommand(message.position, command, appended_us)
