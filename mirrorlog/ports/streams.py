"""Ports to Kafka: topics read by position, messages published with an acknowledgement, topics made and asked about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mirrorlog.topics import TopicSpec


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a topic. `value` None is a tombstone."""

    topic: str
    partition: int
    position: int
    key: bytes | None
    value: bytes | None
    at_us: int = 0


Acknowledged = Callable[[int], None]
"""Called with the message's position once every in-sync replica has it; from `poll` or `flush`, on the caller's thread."""


class Publisher(Protocol):
    """Publishes with acks=all, idempotently and in order per partition; retries for as long as it takes."""

    def publish(
        self,
        topic: str,
        partition: int,
        key: bytes,
        value: bytes,
        on_acknowledged: Acknowledged | None = None,
    ) -> None:
        """Queues one message; blocks while the queue is full. KafkaFailed where the broker refuses for good."""

    def poll(self, timeout_s: float) -> None:
        """Runs the callbacks that are due, waiting up to `timeout_s` for one. KafkaFailed as for `publish`."""

    def flush(self, deadline_s: float) -> None:
        """Returns when everything queued is acknowledged; KafkaFailed when the deadline passes first."""

    def close(self) -> None:
        """Lets go of the client; what isn't acknowledged may be lost."""


class TopicReader(Protocol):
    """Reads whole partitions by position, without a consumer group: where to begin is always said, never guessed."""

    def assign(self, topic: str, positions: Mapping[int, int | None]) -> None:
        """Adds partitions of a topic, each from a position on (None: from the oldest kept)."""

    def poll(self, timeout_s: float, most: int = 1000) -> Sequence[Message]:
        """Up to `most` messages, in order per partition; empty when nothing came within `timeout_s`.

        OutOfRetention where a position is no longer kept (invariant 7); KafkaFailed where the broker refuses.
        """

    def reached(self, topic: str, partition: int) -> int:
        """Everything kept below this position was handed out by `poll`."""

    def at_end(self, topic: str, partition: int) -> bool:
        """Whether the partition's last fetch found nothing that `poll` hasn't handed out: there was no more then."""

    def close(self) -> None:
        """Lets go of the client."""


class TopicAdmin(Protocol):
    """Topics made, and asked where they begin and end."""

    def create(self, specs: Sequence[TopicSpec], partitions: int) -> None:
        """Makes the topics that aren't there; those that are stay as they are."""

    def partitions(self, topic: str) -> int:
        """How many partitions; KafkaFailed where there is no such topic."""

    def end_position(self, topic: str, partition: int) -> int:
        """The position that the next message will have."""

    def first_position(self, topic: str, partition: int) -> int:
        """The oldest position that is kept."""
