"""A batch: what was fetched of one partition, as it came, in order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mirrorlog.ports.streams import Message

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, eq=False)
class EventBatch:
    """Events of one partition of the commands topic by column: no object for each of them. At least one."""

    topic: str
    partition: int
    positions: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]

    @classmethod
    def from_messages(cls, messages: Sequence[Message]) -> EventBatch:
        """The batch of some messages."""
        return cls(
            messages[0].topic,
            messages[0].partition,
            [each.position for each in messages],
            [each.key for each in messages],
            [each.value for each in messages],
        )

    @classmethod
    def join(cls, batches: Sequence[EventBatch]) -> EventBatch:
        """Batches of one partition, one after the other."""
        if len(batches) == 1:
            return batches[0]
        return cls(
            batches[0].topic,
            batches[0].partition,
            _chained(each.positions for each in batches),
            _chained(each.keys for each in batches),
            _chained(each.values for each in batches),
        )

    def split_after(self, position: int) -> list[EventBatch]:
        """What is at `position` and before it, and what follows; one of them alone where there is no other."""
        row = bisect_right(self.positions, position)
        if row in (0, len(self.positions)):
            return [self]
        return [
            EventBatch(
                self.topic, self.partition, self.positions[part], self.keys[part], self.values[part]
            )
            for part in (slice(row), slice(row, None))
        ]

    def message(self, row: int) -> Message:
        """One event."""
        return Message(
            self.topic, self.partition, self.positions[row], self.keys[row], self.values[row]
        )


def _chained(parts: Iterable[Sequence[Item]]) -> list[Item]:
    return [each for part in parts for each in part]
