"""ChainBuilder: grows the trees of all partitions up to what the log holds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mirrorlog.errors import OutOfRetention, StateDamaged
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.log_files import LogStore
from mirrorlog.ports.streams import TopicAdmin, TopicReader
from mirrorlog.reading.newest_watermark import newest_watermark
from mirrorlog.reading.read_through import ReadPatience, read_range
from mirrorlog.streams.chain.partition_chain import ForeignCommands, PartitionChain, name_of
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.heads import Watermark

log = logging.getLogger("mirrorlog.chain")

_PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainedPartition:
    """How far the tree of one partition is.

    added: leaves of this turn. size, position: of the tree; None if it has none. through: the
    watermark, None if the log has none. trouble: why the tree doesn't go on; empty if it does.
    """

    partition: int
    added: int
    size: int | None
    position: int | None
    through: int | None
    trouble: str = ""


class ChainBuilder:
    """The trees of all partitions.

    One process at a time may use a store: lock its folder. Two would write the same bytes, because
    a tree is a pure function of its name.
    """

    def __init__(
        self,
        open_reader: Callable[[], TopicReader],
        admin: TopicAdmin,
        topics: Topics,
        store: LogStore,
        clock: Clock,
    ) -> None:
        self._open_reader, self._admin, self._topics = open_reader, admin, topics
        self._store, self._clock = store, clock
        self._chains: dict[int, PartitionChain] = {}
        self._epochs: dict[int, int] = {}
        self._troubles: dict[int, str] = {}

    def advance(self) -> list[ChainedPartition]:
        """Grow each tree up to the watermark of its partition, and return how far it is.

        Raise KafkaFailed if the broker doesn't answer, DeviceFailed if the store can't be used.
        """
        return [
            self._advance(partition)
            for partition in range(self._admin.partitions(self._topics.commands))
        ]

    def _advance(self, partition: int) -> ChainedPartition:
        watermark = newest_watermark(
            self._open_reader,
            self._admin,
            self._topics.changelog,
            partition,
            self._patience("reading how far the log is complete"),
        )
        if watermark is None or watermark.history is None:
            return ChainedPartition(
                partition=partition,
                added=0,
                size=None,
                position=None,
                through=None if watermark is None else watermark.through,
                trouble="" if watermark is None else "the log names no history yet",
            )
        if watermark.epoch < self._epochs.get(partition, watermark.epoch):
            return self._report(partition, 0, watermark, "a watermark of an ended history came")
        self._epochs[partition] = watermark.epoch
        added, trouble = 0, ""
        try:
            added = self._grow(partition, watermark)
        except (ForeignCommands, OutOfRetention, StateDamaged) as error:
            # What isn't durable is forgotten: the next turn begins with what is.
            self._chains.pop(partition, None)
            trouble = str(error)
            if trouble != self._troubles.get(partition):
                log.warning("the tree of partition %d doesn't grow: %s", partition, trouble)
        self._troubles[partition] = trouble
        return self._report(partition, added, watermark, trouble)

    def _report(
        self, partition: int, added: int, watermark: Watermark, trouble: str
    ) -> ChainedPartition:
        chain = self._chains.get(partition)
        return ChainedPartition(
            partition=partition,
            added=added,
            size=None if chain is None else chain.tree.size,
            position=None if chain is None or not chain.tree.size else chain.position,
            through=watermark.through,
            trouble=trouble,
        )

    def _grow(self, partition: int, watermark: Watermark) -> int:
        """Add the commands through the watermark to the tree; return how many there were."""
        chain = self._chain(partition, watermark)
        if chain.position >= watermark.through:
            return 0
        topic = self._topics.commands
        if (end := self._admin.end_position(topic, partition)) <= watermark.through:
            raise ForeignCommands(
                f"the topic ends at {end}, and the node recorded commands through "
                f"{watermark.through}"
            )
        start = chain.position if self._is_kept(partition, chain.position) else chain.position + 1
        messages = read_range(
            self._open_reader,
            topic,
            partition,
            self._patience("reading the commands for the tree"),
            start=start,
            end=watermark.through + 1,
        )
        try:
            return chain.grow(messages, watermark)
        finally:
            messages.close()

    def _chain(self, partition: int, watermark: Watermark) -> PartitionChain:
        """Return the tree that goes on: the newest of the history, or a new one."""
        history = watermark.history
        assert history is not None
        first_kept = self._admin.first_position(self._topics.commands, partition)
        chain = self._chains.get(partition)
        if chain is None or chain.name.history != history.id:
            chain = PartitionChain.newest(self._store, partition, history.id)
        if (
            chain is not None
            and first_kept > chain.position + 1
            and first_kept <= (watermark.through + 1)
        ):
            log.warning(
                "retention took the commands at positions %d to %d of partition %d before they "
                "were in the tree: another tree begins at %d",
                chain.position + 1,
                first_kept - 1,
                partition,
                first_kept,
            )
            chain = None
        if chain is None:
            name = name_of(history, partition=partition, first=first_kept)
            chain = PartitionChain.begin(self._store, name)
        self._chains[partition] = chain
        return chain

    def _is_kept(self, partition: int, position: int) -> bool:
        return position >= self._admin.first_position(self._topics.commands, partition)

    def _patience(self, purpose: str) -> ReadPatience:
        return ReadPatience(self._clock, _PATIENCE_S, purpose)
