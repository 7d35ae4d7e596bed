"""The commands of one volume, as a question reads them from the commands topic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

from mirrorlog.archive.archived_topic import ArchivedTopic
from mirrorlog.changed.append_times import AppendTimes
from mirrorlog.changed.kept_commands import KeptCommand, commands_among
from mirrorlog.changed.logs import VolumeLogSource
from mirrorlog.changed.partition_commands import PartitionCommands
from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.extraction import command_extents, extract
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.read_through import ReadPatience, read_range
from mirrorlog.topics import Topics

Event = TypeVar("Event")
OpenCommands: TypeAlias = "Callable[[Volume, QueryPorts, float], VolumeCommands]"
"""Takes a volume, the ports and a patience in seconds."""
ChooseCommand: TypeAlias = Callable[[KeptCommand], TrackingCommand | None]
"""Returns the part of a command that counts, or None."""


@dataclass(frozen=True, slots=True)
class QueryPorts:
    """The ports that a question needs.

    open_reader: opens a reader; each range of commands is read by one of its own.
    checkpoint: called between two steps of little work. It may rest, or raise to give the question
        up.
    open_commands: makes what reads the commands of a volume; None: they are in the topic.
    archived: the archive of the commands, for those that the topic no longer has; None if there is
        none.
    """

    open_reader: Callable[[], TopicReader]
    admin: TopicAdmin
    catalog: Catalog
    topics: Topics
    clock: Clock
    logs: VolumeLogSource
    checkpoint: Callable[[], None] = lambda: None
    open_commands: OpenCommands | None = None
    archived: ArchivedTopic | None = None


class VolumeCommand(NamedTuple):
    """One command. extents: those that the node takes of it, clipped to the volume."""

    position: int
    command: TrackingCommand
    extents: ExtentColumns

    @property
    def touches_blocks(self) -> bool:
        """Return whether an extent of it has a byte."""
        return bool(self.extents.lengths.any())


class VolumeCommands:
    """Reads the commands of one volume."""

    def __init__(self, volume: Volume, ports: QueryPorts, patience_s: float) -> None:
        self._volume, self._ports = volume, ports
        self._topic, self._partition = ports.topics.commands, volume.partition
        self._patience = ReadPatience(
            ports.clock,
            patience_s,
            f"reading what changed on volume {volume.volume}",
            before_poll=ports.checkpoint,
            poll_s=0.2,
        )
        self._commands = PartitionCommands(
            self._topic, self._partition, ports.admin, self.messages, ports.archived
        )
        self._append_times = AppendTimes(volume, self._commands, ports.topics.changelog)

    def last_position(self) -> int:
        """Return the position of the partition's last command, or the origin if that is higher."""
        end_position = self._ports.admin.end_position(self._topic, self._partition)
        return max(end_position - 1, self._volume.origin_position)

    def kept_after(self) -> int:
        """Return the position above which commands are kept, in the topic or beside it."""
        return self._commands.kept_after()

    def is_kept(self, after: int) -> bool:
        """Return whether all commands above position `after` are kept."""
        return self._commands.kept_from(after + 1) == after + 1

    def read(
        self, *, after: int, through: int, choose: ChooseCommand = lambda kept: kept.command
    ) -> Iterator[VolumeCommand]:
        """Yield the volume's commands in `(after, through]`.

        choose: returns the part of a command that counts, or None. Messages that are no command
        are left out: the node refused them, and no record has them. Raise KafkaFailed as
        read_through does.
        """
        messages = self._commands.messages(
            start=after + 1, end=through + 1, volume=self._volume.volume
        )
        for kept in commands_among(messages, self._volume):
            command = choose(kept)
            if command is not None:
                volume = self._volume.as_of(kept.position)
                named = command_extents(command, volume, kept.position)
                yield VolumeCommand(kept.position, command, extract(named.extents, volume).extents)

    def read_events(self, topic: str, kind: type[Event]) -> Iterator[Event]:
        """Yield the events of `kind` in a topic with one partition, up to its end as of now."""
        start = self._ports.admin.first_position(topic, 0)
        end = self._ports.admin.end_position(topic, 0)
        for message in self.messages(topic, 0, start=start, end=end):
            event = _decoded(message, kind)
            if event is not None:
                yield event

    def append_times(self) -> AppendTimes:
        """Return when the broker appended the partition's commands."""
        return self._append_times

    def messages(
        self, topic: str, partition: int, *, start: int | None, end: int
    ) -> Iterator[Message]:
        """Yield the messages of a topic at the positions [start, end); None: from the oldest kept.

        Raise KafkaFailed as read_through does.
        """
        return read_range(
            self._ports.open_reader, topic, partition, self._patience, start=start, end=end
        )


def _decoded(message: Message, kind: type[Event]) -> Event | None:
    try:
        return None if message.value is None else decode(message.value, kind)
    except BadInput:
        return None
