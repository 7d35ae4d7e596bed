"""The commands topic, and what the node's consumer group has committed of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, suppress
from itertools import islice
from typing import Final, Protocol

from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.streams import TopicAdmin, TopicReader
from mirrorlog.reading.commands_now import anchor_at, commands_now
from mirrorlog.reading.read_through import ReadPatience, read_range
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.partitions.start_positions import PartitionBounds, plan_first_commits
from mirrorlog.tracking_log.breaks import CommandsNow

_COMMANDS_AT_ONCE: Final = 1000


class GroupAdmin(TopicAdmin, Protocol):
    """The part of KafkaAdmin that is used (mirrorlog/adapters/kafka/admin.py)."""

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return (the oldest position that is kept, the position that the next message gets)."""

    def committed_positions(self, group: str, topic: str) -> dict[int, int | None]:
        """Return by partition what the group has committed; None where it has nothing."""

    def commit(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        """Commit positions for a group. Raise KafkaFailed if the group has members."""


class SourceTopic:
    """Asks the broker about the topic. Every call blocks: call from a thread beside the event loop.

    open_reader: opens a reader; each gap is read by one of its own.
    patience_s: how long a reader waits for a broker that doesn't answer.
    """

    def __init__(
        self,
        admin: GroupAdmin,
        open_reader: Callable[[], TopicReader],
        *,
        topic: str,
        group: str,
        patience_s: float,
    ) -> None:
        self._admin, self._open_reader, self._topic, self._group = admin, open_reader, topic, group
        purpose = "reading the commands that the stream may have passed over"
        self._patience = ReadPatience(SystemClock(), patience_s, purpose, poll_s=0.5)

    def bounds(self, partitions: Collection[int]) -> dict[int, PartitionBounds]:
        """Return by partition where it begins and ends, and what the group has committed of it."""
        if not partitions:
            return {}
        committed = self._admin.committed_positions(self._group, self._topic)
        return {
            partition: PartitionBounds(
                *self._admin.bounds(self._topic, partition), committed[partition]
            )
            for partition in partitions
        }

    def commit_first_positions(self, changelog: str) -> None:
        """Commit where each partition begins whose log nobody has begun (plan_first_commits).

        Another worker that is a member of the group already has done so: Kafka then refuses.
        """
        committed = self._admin.committed_positions(self._group, self._topic)
        bounds = {
            partition: PartitionBounds(*self._admin.bounds(self._topic, partition), None)
            for partition, position in committed.items()
            if position is None  # after the first start there is none, and nothing is asked
        }
        log_ends = {
            partition: self._admin.end_position(changelog, partition) for partition in bounds
        }
        if positions := plan_first_commits(bounds, log_ends):
            with suppress(KafkaFailed):
                self._admin.commit(self._group, self._topic, positions)

    def cluster_id(self) -> str:
        """Return the id of the cluster."""
        return self._admin.cluster_id()

    def commands_now(self, partition: int, position: int) -> CommandsNow:
        """Return the partition's bounds, and the digest of the command at `position`."""
        return commands_now(
            self._open_reader, self._admin, self._topic, partition, position, self._patience
        )

    def anchor_at(self, partition: int, position: int) -> bytes | None:
        """Return the digest of the command at `position`, None if none is kept there."""
        return anchor_at(self._open_reader, self._topic, partition, position, self._patience)

    def batches(self, partition: int, *, first: int, end: int) -> Iterator[EventBatch]:
        """Yield the commands in [first, end) that are kept, in batches of bounded number."""
        end = min(end, self._admin.end_position(self._topic, partition))
        commands = read_range(
            self._open_reader, self._topic, partition, self._patience, start=first, end=end
        )
        with closing(commands):
            while messages := list(islice(commands, _COMMANDS_AT_ONCE)):
                yield EventBatch.from_messages(messages)

    def gap_reason(self, partition: int, *, first: int, end: int) -> str | None:
        """Return what became of the commands in [first, end); None if there are none.

        A transaction leaves positions without a command: its control records. Raise KafkaFailed if
        the broker doesn't answer for the patience.
        """
        if self._admin.first_position(self._topic, partition) > first:
            return "were deleted before the node recorded them"
        commands = read_range(
            self._open_reader, self._topic, partition, self._patience, start=first, end=end
        )
        with closing(commands):
            return "were passed over by the stream" if next(commands, None) else None
