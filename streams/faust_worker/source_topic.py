"""The commands topic, and what the node's consumer group has committed of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.ports.streams import TopicReader
from mirrorlog.streams.faust_worker.start_positions import PartitionBounds


class SourceTopic:
    """Asks the broker about the topic. Every call blocks: call from a thread beside the event loop.

    open_reader: opens a reader; each gap is read by one of its own.
    """

    def __init__(
        self, admin: KafkaAdmin, open_reader: Callable[[], TopicReader], *, topic: str, group: str
    ) -> None:
        self._admin, self._open_reader, self._topic, self._group = admin, open_reader, topic, group

    def all_bounds(self) -> dict[int, PartitionBounds]:
        """Return the bounds of every partition, by its number."""
        committed = self._admin.committed_positions(self._group, self._topic)
        return {
            partition: PartitionBounds(*self._admin.bounds(self._topic, partition), position)
            for partition, position in committed.items()
        }

    def bounds(self, partition: int) -> PartitionBounds:
        """Return the bounds of a partition that the group has committed."""
        first_kept, end = self._admin.bounds(self._topic, partition)
        return PartitionBounds(first_kept, end, self.committed(partition))

    def committed(self, partition: int) -> int:
        """Return the first position of the partition that the group has not committed."""
        position = self._admin.committed_positions(self._group, self._topic)[partition]
        assert position is not None
        return position

    def commit(self, positions: Mapping[int, int]) -> None:
        """Commit positions for the group. Only possible while the group has no member."""
        self._admin.commit(self._group, self._topic, positions)

    def gap_reason(self, partition: int, *, first: int, end: int) -> str | None:
        """Say what became of the commands in [first, end); None if there are none.

        A transaction leaves positions without a command: its control records.
        """
        if self._admin.first_position(self._topic, partition) > first:
            return "were deleted before the node recorded them"
        reader = self._open_reader()
        reader.assign(self._topic, {partition: first})
        try:
            while reader.reached(self._topic, partition) < end:
                if any(message.position < end for message in reader.poll(0.5)):
                    return "were passed over by the stream"
        finally:
            reader.close()
        return None
