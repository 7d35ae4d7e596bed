"""Ports to Kafka: publish messages, read partitions by position, create and inspect topics.

mirrorlog.adapters.kafka implements them on a cluster, mirrorlog.simulation.memory_broker in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from mirrorlog.errors import KafkaFailed
from mirrorlog.topics import TopicSpec


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a topic.

    value: None for a tombstone.
    at_us: the message's timestamp, in microseconds since 1970; 0 where it has none.
    by_broker: whether the timestamp is the broker's time of appending (invariant 15); if not, it is
        the time that the producer's clock showed.
    headers: those that the producer gave it, where the reader was asked for them.
    """

    topic: str
    partition: int
    position: int
    key: bytes | None
    value: bytes | None
    at_us: int = 0
    by_broker: bool = False
    headers: tuple[tuple[str, bytes | None], ...] = ()

    @property
    def size_bytes(self) -> int:
        """The bytes of key and value."""
        return len(self.key or b"") + len(self.value or b"")


@dataclass(frozen=True, slots=True)
class AppendTime:
    """The timestamp of a message that was acknowledged. at_us, by_broker: as in Message."""

    topic: str
    at_us: int
    by_broker: bool


Acknowledged: TypeAlias = Callable[[int | None], None]
"""A callback that receives a message's position once every in-sync replica has the message.

The position is None if it isn't known: a broker that takes a message for one that it has already,
because a client sent it again after an outage, may no longer know where it is.

It runs inside `poll` or `flush`, on the thread that calls them. While one thread polls, those of a
partition run in the order of the positions. If several threads poll, one may overtake another.
"""


def known_position(position: int | None, *, what: str, where: str) -> int:
    """Return the position of an acknowledged message. Raise KafkaFailed if it isn't known."""
    if position is None:
        raise KafkaFailed(
            f"Kafka has acknowledged {what}, and doesn't say at which position",
            where=where,
            next="Check that all brokers run, and try again.",
        )
    return position


class Publisher(Protocol):
    """Publishes with acks=all, with idempotence, and in order within a partition.

    It retries until it succeeds: an outage delays messages and loses none.
    """

    @property
    def last_append(self) -> AppendTime | None:
        """The time of the message acknowledged last: in a callback, of its own message.

        None if there is none, or if it has no time.
        """

    def publish(
        self,
        topic: str,
        partition: int,
        key: bytes,
        value: bytes | None,
        on_acknowledged: Acknowledged | None = None,
    ) -> None:
        """Queue one message; value None deletes the key. Block while the queue is full.

        Raise KafkaFailed if the broker refused this message or an earlier one for good.
        """

    def poll(self, timeout_s: float) -> None:
        """Run the callbacks that are due. Wait up to `timeout_s` for the first of them.

        Raise KafkaFailed as `publish` does.
        """

    def flush(self, deadline_s: float) -> None:
        """Return when all queued messages are acknowledged.

        Raise KafkaFailed after `deadline_s` seconds, or as `publish` does.
        """

    def close(self) -> None:
        """Release the client. Messages that aren't acknowledged may be lost."""


class TopicReader(Protocol):
    """Reads whole partitions from given positions, without a consumer group."""

    def assign(self, topic: str, positions: Mapping[int, int | None]) -> None:
        """Add partitions of a topic. One that was added before begins again.

        positions: by partition, the position of the first message; None: the oldest that is kept.
        """

    def unassign(self, topic: str, partitions: Collection[int]) -> None:
        """Remove partitions that were added. poll() returns no message of them any more."""

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
        """Return up to `max_messages` messages, in order within each partition.

        Return an empty sequence if none arrives within `timeout_s`. Raise OutOfRetention if a
        position is no longer kept (invariant 7), and KafkaFailed if the broker refuses.
        """

    def reached(self, topic: str, partition: int) -> int:
        """Return the position below which `poll` has returned every message that is kept."""

    def at_end(self, topic: str, partition: int) -> bool:
        """Return whether the partition's last fetch found no message beyond those of `poll`."""

    def close(self) -> None:
        """Release the client."""


class TopicAdmin(Protocol):
    """Creates topics, and says where their partitions begin and end."""

    def cluster_id(self) -> str:
        """Return the id that the cluster gave itself when it was made.

        A cluster that holds a mirror of the topics has another id.
        """

    def identity(self, topic: str) -> str:
        """Return the topic's id. A topic that is deleted and created again has another one."""

    def create(self, specs: Sequence[TopicSpec], partitions: int) -> None:
        """Create the missing topics. Existing topics stay as they are."""

    def names(self, prefix: str) -> set[str]:
        """Return the names of the topics that begin with `prefix`."""

    def partitions(self, topic: str) -> int:
        """Return the number of partitions. Raise KafkaFailed if there is no such topic."""

    def end_position(self, topic: str, partition: int) -> int:
        """Return the position that the next message will have."""

    def appended_from(self, topic: str, partition: int, at_us: int) -> tuple[int, int]:
        """Return (position, end) for a time in microseconds since 1970, rounded down to Kafka's ms.

        position: of the first message whose timestamp is that time or later. end: where the
        partition ended shortly before; it is the position, too, if there is no such message below.
        """

    def first_position(self, topic: str, partition: int) -> int:
        """Return the oldest position that is kept."""
