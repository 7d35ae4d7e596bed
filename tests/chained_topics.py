"""A commands topic and a changelog in memory, from which trees grow."""

from __future__ import annotations

from uuid import UUID

from mirrorlog.codec.events import encode
from mirrorlog.domain.histories import History, anchor_of
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_log_files import MemoryLogStore
from mirrorlog.streams.chain.chain_builder import ChainBuilder
from mirrorlog.topics import Topics, TopicSpec
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import watermark_key

TOPICS = Topics()


class ChainedTopics:
    """One partition of commands, the watermarks of a node that recorded them, and the trees.

    epoch: of the partition's history.
    """

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.broker.create([TopicSpec(TOPICS.commands, {}), TopicSpec(TOPICS.changelog, {})], 1)
        self.store, self.epoch, self.clock = MemoryLogStore(), 1, ManualClock()

    @property
    def history(self) -> History:
        """The partition's history."""
        return History(
            cluster=self.broker.cluster_id(),
            topic=self.broker.identity(TOPICS.commands),
            epoch=self.epoch,
            id=str(UUID(int=self.epoch)),
        )

    def write(self, count: int, text: str = "command") -> None:
        """Append commands, which no watermark names yet."""
        for _ in range(count):
            position = self.broker.end_position(TOPICS.commands, 0)
            self.broker.append(TOPICS.commands, 0, b"vol", f"{text} {position}".encode())

    def record(self, *, through: int | None = None) -> None:
        """Let the node record the commands through a position; None: all of them."""
        end = self.broker.end_position(TOPICS.commands, 0)
        position = end - 1 if through is None else through
        anchors = {
            message.position: anchor_of(message.key, message.value)
            for message in self.broker.messages(TOPICS.commands)
        }
        watermark = Watermark(
            partition=0,
            through=position,
            at_us=0,
            history=self.history,
            anchor=anchors.get(position),
        )
        self.broker.append(TOPICS.changelog, 0, watermark_key(0), encode(watermark))

    def builder(self) -> ChainBuilder:
        """Return a builder that knows only what is in the store, as after a start."""
        return ChainBuilder(self.broker.reader, self.broker, TOPICS, self.store, self.clock)
