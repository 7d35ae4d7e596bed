"""The rows of the commands topic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Final

from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import OutOfRetention
from mirrorlog.history.batches import HistoryBatch, empty_batch
from mirrorlog.history.command_rows import command_rows
from mirrorlog.history.source import CoveredRange
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.reading.read_through import ReadPatience, read_range
from mirrorlog.topics import Topics

_BATCH_BYTES: Final = 2 << 20
"""The bytes of commands that become one batch: about 130,000 extents, or 10,000 commands of one."""
_BATCH_COMMANDS: Final = 10_000


class TopicHistory:
    """HistorySource of the commands topic.

    patience: of each reading; it ends after so long without progress.
    """

    def __init__(
        self,
        open_reader: Callable[[], TopicReader],
        admin: TopicAdmin,
        topics: Topics,
        patience: ReadPatience,
    ) -> None:
        self._open_reader, self._admin = open_reader, admin
        self._topic, self._patience = topics.commands, patience

    def covered(self, volume: Volume) -> list[CoveredRange]:
        """Return the range of positions that the topic keeps, up to its end as of now."""
        first = self._admin.first_position(self._topic, volume.partition)
        end = self._admin.end_position(self._topic, volume.partition)
        return [CoveredRange(after=first - 1, through=end - 1)] if first < end else []

    def batches(self, volume: Volume, *, after: int, through: int) -> Iterator[HistoryBatch]:
        """Yield the volume's rows in `(after, through]` (HistorySource).

        Gaps in the positions, as control records leave them, are expected. Raise OutOfRetention,
        and KafkaFailed as read_range does; also while it reads, if retention is faster.
        """
        first = self._admin.first_position(self._topic, volume.partition)
        if first - 1 > after and after < through:
            raise OutOfRetention(
                f"the commands topic begins at position {first}",
                where=f"volume {volume.volume}, positions ({after}, {through}]",
                next=f"Ask from @{first - 1} on.",
            )
        messages = read_range(
            self._open_reader,
            self._topic,
            volume.partition,
            self._patience,
            start=after + 1,
            end=through + 1,
        )
        reached = after
        with closing(messages):
            for part in message_parts(messages):
                reached = part[-1].position
                yield command_rows(part, volume, through=reached)
        if reached < through:
            yield empty_batch(through)


def message_parts(messages: Iterator[Message]) -> Iterator[list[Message]]:
    """Yield the messages in parts of bounded size, each of which becomes one batch."""
    part: list[Message] = []
    size_bytes = 0
    for message in messages:
        part.append(message)
        size_bytes += len(message.value or b"")
        if size_bytes >= _BATCH_BYTES or len(part) >= _BATCH_COMMANDS:
            yield part
            part, size_bytes = [], 0
    if part:
        yield part
