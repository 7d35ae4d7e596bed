"""EventBatch: the events fetched from one partition of the commands topic, in their order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mirrorlog.domain.host_keys import Headers
from mirrorlog.ports.streams import Message

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, eq=False)
class EventBatch:
    """At least one event of one partition, by column, so that no object is made for each event.

    positions: ascending. keys, values: as they were fetched, one for each position.
    appended_us: when the broker appended the last one, microseconds since 1970; None if the topic
        holds hosts' times.
    appends_ms: when the broker appended each of them, milliseconds since 1970; None if that isn't
        known of all.
    headers: of each of them; None if they weren't asked for.
    """

    topic: str
    partition: int
    positions: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    appended_us: int | None = None
    appends_ms: Sequence[int] | None = None
    headers: Sequence[Headers] | None = None

    @classmethod
    def from_messages(cls, messages: Sequence[Message]) -> EventBatch:
        """Return the batch of messages of one partition, in the order of their positions."""
        return cls(
            messages[0].topic,
            messages[0].partition,
            [message.position for message in messages],
            [message.key for message in messages],
            [message.value for message in messages],
            messages[-1].at_us if messages[-1].by_broker else None,
            [message.at_us // 1000 for message in messages]
            if all(message.by_broker for message in messages)
            else None,
            [message.headers for message in messages],
        )

    @classmethod
    def join(cls, batches: Sequence[EventBatch]) -> EventBatch:
        """Return one batch of all events. The batches are of one partition, in its order."""
        if len(batches) == 1:
            return batches[0]
        return cls(
            batches[0].topic,
            batches[0].partition,
            _chained(batch.positions for batch in batches),
            _chained(batch.keys for batch in batches),
            _chained(batch.values for batch in batches),
            batches[-1].appended_us,
            _chained_if_known([batch.appends_ms for batch in batches]),
            _chained_if_known([batch.headers for batch in batches]),
        )

    def split_after(self, position: int) -> list[EventBatch]:
        """Return the events through `position` and those behind it, without an empty batch."""
        row = bisect_right(self.positions, position)
        if row in (0, len(self.positions)):
            return [self]
        return [
            EventBatch(
                self.topic,
                self.partition,
                self.positions[part],
                self.keys[part],
                self.values[part],
                self.appended_us,
                None if self.appends_ms is None else self.appends_ms[part],
                None if self.headers is None else self.headers[part],
            )
            for part in (slice(row), slice(row, None))
        ]

    def message(self, row: int) -> Message:
        """Return the event in a row, without its time."""
        return Message(
            self.topic,
            self.partition,
            self.positions[row],
            self.keys[row],
            self.values[row],
            headers=() if self.headers is None else tuple(self.headers[row]),
        )


def _chained(parts: Iterable[Sequence[Item]]) -> list[Item]:
    return [item for part in parts for item in part]


def _chained_if_known(parts: Sequence[Sequence[Item] | None]) -> list[Item] | None:
    known = [part for part in parts if part is not None]
    return _chained(known) if len(known) == len(parts) else None
