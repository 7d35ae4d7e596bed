"""Kafka in memory: the ports of mirrorlog.ports.streams, for tests in one thread.

A message reaches the broker, and is acknowledged, when its publisher is polled or flushed. Closing
the publisher before that loses the message, as a crash does.

A test can cut a client off: `way = broker.other_way()`, then `way.is_away = True`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Final

from mirrorlog.domain.host_keys import CommandSigner, Headers
from mirrorlog.errors import KafkaFailed, OutOfRetention
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Acknowledged, AppendTime, Message
from mirrorlog.topics import TopicSpec

_BY_POSITION: Final = attrgetter("position")


@dataclass(slots=True)
class MemoryPartition:
    """The kept messages of a partition, and the positions where it begins and ends."""

    messages: list[Message] = field(default_factory=list)
    first: int = 0
    end: int = 0

    def messages_from(self, position: int, limit: int | None = None) -> list[Message]:
        """Return the first `limit` messages at or above a position; None: all."""
        start = bisect_left(self.messages, position, key=_BY_POSITION)
        return self.messages[start : None if limit is None else start + limit]


class MemoryBroker:
    """Topics in memory, and a TopicAdmin of them.

    clock: the broker's. Without it messages have no time.
    refused_topics: publishing to a topic in this set raises KafkaFailed. Tests change it.
    host_times: the topics whose messages have the time of `host_clock` (CreateTime). Tests change
        both.
    is_away: clients can't reach it. Readers get nothing, publishers keep what they have, and
        requests fail.
    """

    def __init__(self, cluster_id: str = "memory", clock: Clock | None = None) -> None:
        self._cluster_id = cluster_id
        self.clock, self.host_clock = clock, clock
        self.host_times: set[str] = set()
        self._partitions: dict[tuple[str, int], MemoryPartition] = {}
        self._counts: dict[str, int] = {}
        self._identities: dict[str, str] = {}
        self._created = 0
        self.refused_topics: set[str] = set()
        self.is_away = False
        self._committed: dict[tuple[str, str, int], int] = {}

    def other_way(self) -> MemoryBroker:
        """Return the same broker, as clients reach it by a way that has an `is_away` of its own."""
        return copy(self)

    def copied(self) -> MemoryBroker:
        """Return a broker of its own that holds the same."""
        other = copy(self)
        other.host_times, other.refused_topics = set(self.host_times), set(self.refused_topics)
        other._partitions = {
            at: replace(partition, messages=list(partition.messages))
            for at, partition in self._partitions.items()
        }
        other._counts, other._identities = dict(self._counts), dict(self._identities)
        other._committed = dict(self._committed)
        return other

    def check_reached(self, where: str) -> None:
        """Raise KafkaFailed if clients can't reach the broker."""
        if self.is_away:
            raise KafkaFailed("no broker answers", where=where)

    def publisher(self, signer: CommandSigner | None = None) -> MemoryPublisher:
        """Return a new publisher. signer: puts codes on commands."""
        return MemoryPublisher(self, signer)

    def reader(self) -> MemoryReader:
        """Return a new reader."""
        return MemoryReader(self)

    def cluster_id(self) -> str:
        """Return the id that the broker was made with."""
        return self._cluster_id

    def create(self, specs: Sequence[TopicSpec], partitions: int) -> None:
        """Create the missing topics."""
        for spec in specs:
            if spec.name not in self._counts:
                self._created += 1
                self._identities[spec.name] = f"{spec.name}#{self._created}"
                self._counts[spec.name] = 1 if spec.one_partition else partitions
                for number in range(self._counts[spec.name]):
                    self._partitions[spec.name, number] = MemoryPartition()

    def delete(self, topics: Sequence[str]) -> None:
        """Delete topics with all their messages."""
        for topic in topics:
            for number in range(self._counts.pop(topic)):
                del self._partitions[topic, number]
            del self._identities[topic]

    def names(self, prefix: str) -> set[str]:
        """Return the names of the topics that begin with `prefix`."""
        self.check_reached(f"topics {prefix}")
        return {name for name in self._counts if name.startswith(prefix)}

    def identity(self, topic: str) -> str:
        """Return the topic's id. A topic that is deleted and created again has another one."""
        self.check_reached(f"topic {topic}")
        return self._identities[topic]

    def add_partitions(self, topic: str, count: int) -> None:
        """Let the topic have `count` partitions, as an operator does."""
        for number in range(self._counts[topic], count):
            self._partitions[topic, number] = MemoryPartition()
        self._counts[topic] = count

    def partitions(self, topic: str) -> int:
        """Return the number of partitions. Raise KafkaFailed if there is no such topic."""
        self.check_reached(f"topic {topic}")
        if topic not in self._counts:
            raise KafkaFailed("there is no such topic", where=f"topic {topic}")
        return self._counts[topic]

    def end_position(self, topic: str, partition: int) -> int:
        """Return the position that the next message will have."""
        self.check_reached(f"topic {topic}")
        return self.partition(topic, partition).end

    def first_position(self, topic: str, partition: int) -> int:
        """Return the oldest position that is kept."""
        self.check_reached(f"topic {topic}")
        return self.partition(topic, partition).first

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return (first_position, end_position)."""
        return self.first_position(topic, partition), self.end_position(topic, partition)

    def committed_positions(self, group: str, topic: str) -> dict[int, int | None]:
        """Return by partition what the group has committed; None where it has nothing."""
        return {
            partition: self._committed.get((group, topic, partition))
            for partition in range(self.partitions(topic))
        }

    def commit(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        """Commit positions for a group, whether or not it has members."""
        for partition, position in positions.items():
            self._committed[group, topic, partition] = position

    def appended_from(self, topic: str, partition: int, at_us: int) -> tuple[int, int]:
        """Return (position, end): of the first message with that time or later (TopicAdmin)."""
        self.check_reached(f"topic {topic}")
        log = self.partition(topic, partition)
        later = (m.position for m in log.messages if m.at_us // 1000 >= at_us // 1000)
        return next(later, log.end), log.end

    def trim(self, topic: str, partition: int, first: int) -> None:
        """Delete the messages below position `first`, as retention does."""
        kept = self.partition(topic, partition)
        kept.first = first
        kept.messages = [message for message in kept.messages if message.position >= first]

    def rewind(self, topic: str, partition: int, end: int) -> None:
        """Lose the messages from position `end` on: the broker goes back in time.

        Its data folder was restored, or a replica that lagged behind became the leader.
        """
        kept = self.partition(topic, partition)
        kept.end = min(kept.end, end)
        kept.first = min(kept.first, kept.end)
        kept.messages = [message for message in kept.messages if message.position < kept.end]

    def compact(self, topic: str, partition: int, below: int | None = None) -> None:
        """Keep only the latest message of each key, and no tombstones, as compaction does.

        below: the log cleaner has swapped only the segments below that position so far. It knows
        from all segments which messages to remove there.
        """
        compacted = self.partition(topic, partition)
        latest = {message.key: message for message in compacted.messages}
        end = compacted.end if below is None else below
        compacted.messages = [
            message
            for message in compacted.messages
            if message.position >= end
            or (latest[message.key] is message and message.value is not None)
        ]

    def partition(self, topic: str, partition: int) -> MemoryPartition:
        """Return one partition. Raise KafkaFailed if there is no such partition."""
        if (topic, partition) not in self._partitions:
            raise KafkaFailed(
                "there is no such partition", where=f"topic {topic}, partition {partition}"
            )
        return self._partitions[topic, partition]

    def messages(self, topic: str) -> list[Message]:
        """Return all kept messages of a topic, partition by partition."""
        return [
            message
            for number in range(self.partitions(topic))
            for message in self.partition(topic, number).messages
        ]

    def append(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
    ) -> int:
        """Append a message at once. Return its position.

        Raise KafkaFailed if the topic is one of `refused_topics`.
        """
        if topic in self.refused_topics:
            raise KafkaFailed("the topic refuses the message", where=f"topic {topic}")
        log = self.partition(topic, partition)
        position = log.end
        by_broker = topic not in self.host_times
        clock = self.clock if by_broker else self.host_clock
        at_us, by_broker = (0, False) if clock is None else (clock.now_us(), by_broker)
        message = Message(
            topic, partition, position, key, value, at_us, by_broker, headers=tuple(headers)
        )
        log.messages.append(message)
        log.end += 1
        return position

    def append_marker(self, topic: str, partition: int) -> None:
        """Append a position without a message, as the end of a transaction does."""
        self.partition(topic, partition).end += 1


class MemoryPublisher:
    """Publisher whose messages reach the broker, and are acknowledged, in poll() and flush()."""

    def __init__(self, broker: MemoryBroker, signer: CommandSigner | None = None) -> None:
        self._broker, self._signer = broker, signer
        self.last_append: AppendTime | None = None
        self._queue: list[tuple[str, int, bytes, bytes | None, Acknowledged | None]] = []

    def publish(
        self,
        topic: str,
        partition: int,
        key: bytes,
        value: bytes | None,
        on_acknowledged: Acknowledged | None = None,
    ) -> None:
        """Queue one message."""
        self._queue.append((topic, partition, key, value, on_acknowledged))

    def poll(self, timeout_s: float) -> None:
        """Deliver the queued messages without waiting."""
        if self._broker.is_away:
            return
        queue, self._queue = self._queue, []
        for topic, partition, key, value, on_acknowledged in queue:
            signer = self._signer
            headers = () if signer is None else signer.headers(topic, partition, key, value)
            position = self._broker.append(topic, partition, key, value, headers)
            message = self._broker.partition(topic, partition).messages[-1]
            self.last_append = (
                AppendTime(topic, message.at_us, message.by_broker) if message.at_us else None
            )
            if on_acknowledged is not None:
                on_acknowledged(position)

    def flush(self, deadline_s: float) -> None:
        """Deliver the queued messages, and those that their callbacks queue."""
        if self._queue:
            self._broker.check_reached("publishing")
        while self._queue:
            self.poll(0)

    def close(self) -> None:
        """Drop the queued messages."""
        self._queue.clear()


class MemoryReader:
    """TopicReader whose poll() never waits."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._next: dict[tuple[str, int], int] = defaultdict(int)
        self._ends: dict[tuple[str, int], int] = {}

    def assign(self, topic: str, positions: Mapping[int, int | None]) -> None:
        """Add partitions, each from a position on (None: from the oldest kept)."""
        for partition, position in positions.items():
            oldest = self._broker.first_position(topic, partition)
            self._next[topic, partition] = oldest if position is None else position

    def unassign(self, topic: str, partitions: Collection[int]) -> None:
        """Remove partitions."""
        for partition in partitions:
            del self._next[topic, partition]

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
        """Return the next messages, in order within each partition."""
        taken: list[Message] = []
        if self._broker.is_away:
            return taken
        for (topic, number), position in self._next.items():
            partition = self._broker.partition(topic, number)
            self._ends[topic, number] = partition.end
            if not partition.first <= position <= partition.end:
                raise OutOfRetention(
                    "the topic no longer holds the position",
                    where=f"{topic}/{number} at {position}",
                )
            new = partition.messages_from(position, max_messages - len(taken))
            taken.extend(new)
            if new:
                self._next[topic, number] = new[-1].position + 1
            elif len(taken) < max_messages:
                self._next[topic, number] = partition.end
        return taken

    def reached(self, topic: str, partition: int) -> int:
        """Return the position below which poll() has returned every message that is kept."""
        return self._next[topic, partition]

    def at_end(self, topic: str, partition: int) -> bool:
        """Return whether poll() has returned every message, as far as the broker was reached."""
        if self._broker.is_away:
            return self._next[topic, partition] >= self._ends.get((topic, partition), 1 << 62)
        return self._next[topic, partition] >= self._broker.end_position(topic, partition)

    def close(self) -> None:
        """Do nothing."""
