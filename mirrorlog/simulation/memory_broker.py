"""Kafka in memory: the ports of mirrorlog.ports.streams for tests and simulations, one thread, no sleeps.

A message reaches the broker, and is acknowledged, when its publisher is polled: until then closing it takes it away, as a
crash does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mirrorlog.errors import KafkaFailed, OutOfRetention
from mirrorlog.ports.streams import Acknowledged, Message
from mirrorlog.topics import TopicSpec


@dataclass(slots=True)
class MemoryPartition:
    messages: list[Message] = field(default_factory=list)
    first: int = 0
    end: int = 0


class MemoryBroker:
    """Topics as lists; hand out publishers, readers and admins."""

    def __init__(self) -> None:
        self._partitions: dict[tuple[str, int], MemoryPartition] = {}
        self._counts: dict[str, int] = {}
        self.refused_topics: set[str] = set()

    def publisher(self) -> MemoryPublisher:
        """A publisher of its own."""
        return MemoryPublisher(self)

    def reader(self) -> MemoryReader:
        """A reader of its own."""
        return MemoryReader(self)

    def create(self, specs: Sequence[TopicSpec], partitions: int) -> None:
        """Makes the topics that aren't there."""
        for spec in specs:
            if spec.name not in self._counts:
                self._counts[spec.name] = 1 if spec.one_partition else partitions
                for number in range(self._counts[spec.name]):
                    self._partitions[spec.name, number] = MemoryPartition()

    def partitions(self, topic: str) -> int:
        """How many partitions."""
        if topic not in self._counts:
            raise KafkaFailed("there is no such topic", where=f"topic {topic}")
        return self._counts[topic]

    def end_position(self, topic: str, partition: int) -> int:
        """The position that the next message will have."""
        return self.partition(topic, partition).end

    def first_position(self, topic: str, partition: int) -> int:
        """The oldest position that is kept."""
        return self.partition(topic, partition).first

    def trim(self, topic: str, partition: int, first: int) -> None:
        """Retention: positions below `first` are gone."""
        found = self.partition(topic, partition)
        found.first = first
        found.messages = [message for message in found.messages if message.position >= first]

    def compact(self, topic: str, partition: int, below: int | None = None) -> None:
        """Compaction: of each key only the latest stays, tombstones go. With `below`, the cleaner has swapped only the
        segments below that position yet; what it removes there it knows from all of them."""
        found = self.partition(topic, partition)
        latest = {message.key: message for message in found.messages}
        end = found.end if below is None else below
        found.messages = [
            m
            for m in found.messages
            if m.position >= end or (latest[m.key] is m and m.value is not None)
        ]

    def partition(self, topic: str, partition: int) -> MemoryPartition:
        """One partition; KafkaFailed where there is none."""
        if (topic, partition) not in self._partitions:
            raise KafkaFailed(
                "there is no such partition", where=f"topic {topic}, partition {partition}"
            )
        return self._partitions[topic, partition]

    def messages(self, topic: str) -> list[Message]:
        """Everything kept of a topic, partition by partition."""
        return [
            m
            for number in range(self.partitions(topic))
            for m in self.partition(topic, number).messages
        ]

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> int:
        """Appends at once; the position."""
        if topic in self.refused_topics:
            raise KafkaFailed("the topic refuses the message", where=f"topic {topic}")
        found = self.partition(topic, partition)
        found.messages.append(Message(topic, partition, found.end, key, value))
        found.end += 1
        return found.end - 1


class MemoryPublisher:
    """Messages reach the broker, and are acknowledged, when it is polled or flushed."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._queue: list[tuple[str, int, bytes, bytes, Acknowledged | None]] = []

    def publish(
        self,
        topic: str,
        partition: int,
        key: bytes,
        value: bytes,
        on_acknowledged: Acknowledged | None = None,
    ) -> None:
        """Queues one message."""
        self._queue.append((topic, partition, key, value, on_acknowledged))

    def poll(self, timeout_s: float) -> None:
        """Delivers the queue; nothing is waited for."""
        queue, self._queue = self._queue, []
        for topic, partition, key, value, on_acknowledged in queue:
            position = self._broker.append(topic, partition, key, value)
            if on_acknowledged is not None:
                on_acknowledged(position)

    def flush(self, deadline_s: float) -> None:
        """Delivers the queue, and what its callbacks queued."""
        while self._queue:
            self.poll(0)

    def close(self) -> None:
        """What isn't acknowledged is lost."""
        self._queue.clear()


class MemoryReader:
    """Reads by position; `poll` never waits."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._next: dict[tuple[str, int], int] = defaultdict(int)

    def assign(self, topic: str, positions: Mapping[int, int | None]) -> None:
        """Adds partitions, each from a position on (None: from the oldest kept)."""
        for partition, position in positions.items():
            oldest = self._broker.first_position(topic, partition)
            self._next[topic, partition] = oldest if position is None else position

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
        """What is there, in order per partition."""
        taken: list[Message] = []
        for (topic, number), position in self._next.items():
            partition = self._broker.partition(topic, number)
            if not partition.first <= position <= partition.end:
                raise OutOfRetention(
                    "the topic no longer holds the position",
                    where=f"{topic}/{number} at {position}",
                )
            new = [message for message in partition.messages if message.position >= position][
                : max_messages - len(taken)
            ]
            taken.extend(new)
            if new:
                self._next[topic, number] = new[-1].position + 1
            elif len(taken) < max_messages:
                self._next[topic, number] = partition.end
        return taken

    def reached(self, topic: str, partition: int) -> int:
        """Everything kept below this position was handed out."""
        return self._next[topic, partition]

    def at_end(self, topic: str, partition: int) -> bool:
        """Whether everything was handed out."""
        return self._next[topic, partition] >= self._broker.end_position(topic, partition)

    def close(self) -> None:
        """Nothing to let go of."""
