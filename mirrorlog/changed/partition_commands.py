"""The messages of one partition of commands: the topic's, and below them those of an archive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from mirrorlog.archive.archived_topic import ArchivedTopic
from mirrorlog.ports.streams import Message, TopicAdmin


class MessageReader(Protocol):
    """Reads ranges of topics (VolumeCommands.messages)."""

    def __call__(
        self, topic: str, partition: int, *, start: int | None, end: int
    ) -> Iterator[Message]:
        """Yield the messages at the positions [start, end); start None: from the oldest kept."""


@dataclass(frozen=True, slots=True)
class PartitionCommands:
    """Reads one partition. archived: None if there is no archive.

    What the archive holds at or above the topic's first position isn't read: if the topic went back
    in time, it holds other commands there.
    """

    topic: str
    partition: int
    admin: TopicAdmin
    read_topic: MessageReader
    archived: ArchivedTopic | None = None

    def kept_after(self) -> int:
        """Return the position above which every message is kept."""
        first = self._first_in_topic()
        if self.archived is None:
            return first - 1
        return self.archived.covered_after(self.partition, below=first)

    def kept_from(self, position: int) -> int:
        """Return the lowest position, not below `position`, from which on every message is kept.

        The archive is asked only if the topic begins above the position.
        """
        if position >= self._first_in_topic():
            return position
        return max(position, self.kept_after() + 1)

    def appended_from(self, at_us: int) -> tuple[int, int]:
        """Return (position, end): of the first kept message with that time or later.

        As TopicAdmin.appended_from: times are compared in Kafka's milliseconds, and the position is
        the end if there is no such message.
        """
        position, end = self.admin.appended_from(self.topic, self.partition, at_us)
        first = self._first_in_topic()
        if self.archived is None or position > first:
            return position, end
        after = self.archived.covered_after(self.partition, below=first)
        archived = self.archived.appended_from(self.partition, at_us, after=after, below=first)
        return (position if archived is None else archived), end

    def messages(self, *, start: int, end: int, volume: str | None = None) -> Iterator[Message]:
        """Yield the messages at the positions [start, end), which are kept.

        volume: those that the archive has come without the commands that name another one. What the
        topic drops meanwhile is read from the archive, too: the first position is asked for before
        the topic is read. Raise KafkaFailed as read_through does; StateDamaged.
        """
        if self.archived is not None and (first := self._first_in_topic()) > start:
            yield from self.archived.messages(
                self.partition, after=start - 1, through=min(end, first) - 1, volume=volume
            )
            start = first
        yield from self.read_topic(self.topic, self.partition, start=start, end=end)

    def _first_in_topic(self) -> int:
        return self.admin.first_position(self.topic, self.partition)
