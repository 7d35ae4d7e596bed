"""The world's node: the real fold and the real compaction, on a table in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import copy
from random import Random

from mirrorlog.ports.streams import Message
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.world.crashes import Fuse
from mirrorlog.streams.compaction.compactor import CompactionSettings, LogCompactor
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.fold.fold_batch import BatchFolder
from mirrorlog.streams.table.local_store import Row
from mirrorlog.streams.table.log_table import LogTable
from mirrorlog.streams.table.outgoing import Outgoing

_RECORD_MAX_BYTES = 400
_CLOCK_STEP_S = 0.3


class _Source:
    """The commands topic as the fold asks about it: a gap is a loss."""

    def gap_reason(self, partition: int, *, first: int, end: int) -> str | None:
        del partition, first, end
        return "were lost"


class NodeModel:
    """One worker with partition 0. It is the store of its own table (`rows`).

    After a crash the table is there, or it is lost and read again from the changelog.
    """

    def __init__(
        self, broker: MemoryBroker, settings: Settings, fuse: Fuse, random: Random
    ) -> None:
        self._broker, self._settings, self._fuse, self._random = broker, settings, fuse, random
        self._committed = 0
        self._clock = ManualClock(look_s=_CLOCK_STEP_S)
        self.rows: dict[bytes, bytes] = {}
        self.start()

    def start(self) -> None:
        """Start the worker again, as after a crash."""
        if self._random.random() < 0.5:
            self.rows = {}
        for message in self._broker.messages(self._settings.topics.changelog):
            self._put(message.key or b"", message.value)
        self._build()

    def left_behind(self) -> NodeModel:
        """Return a worker that doesn't know that it has lost the partition.

        Its table stays as this one's is now, except for what it writes itself.
        """
        other = copy(self)
        other.rows, other._clock, other._fuse = dict(self.rows), copy(self._clock), Fuse()
        other._build()
        return other

    def _build(self) -> None:
        topics = self._settings.topics
        self._position = self._committed
        self._gate = CommitGate(topics.commands)
        self._gate.assign(0, position=self._committed)
        table = LogTable(self.send, self, topics, self._gate)
        catalog = Catalog(
            self._broker.reader(), self._broker, topics, ManualClock(look_s=_CLOCK_STEP_S)
        )
        compaction = CompactionSettings(
            self._settings.node_tiers_s, self._settings.node_keep_s, None, 45
        )
        self._folder = BatchFolder(
            table,
            self._gate,
            catalog,
            _Source(),
            clock=self._clock,
            record_max_bytes=_RECORD_MAX_BYTES,
            compactor=LogCompactor(table, catalog, self._reports, self._clock, compaction),
        )

    def fold(self, max_messages: int) -> bool:
        """Fold one batch of commands; False if there is none."""
        messages: list[Message] = [
            message
            for message in self._broker.messages(self._settings.topics.commands)
            if message.position >= self._position
        ][:max_messages]
        if not messages:
            return False
        asyncio.run(self._folder.record(EventBatch.from_messages(messages)))
        self._position = messages[-1].position + 1
        return True

    def maintain(self) -> bool:
        """Do a little compaction; False if there is none to do for now."""
        return asyncio.run(self._folder.maintain(0)) == 0

    def commit(self) -> None:
        """Commit the source offset as far as the gate allows it."""
        self._committed = self._gate.committable_offset(0) or 0

    def _reports(self) -> SiteReports:
        return SiteReports(self._broker.reader(), self._broker, self._settings.topics, self._clock)

    # The ports of the table: the producer, and the store

    async def send(self, messages: Sequence[Outgoing]) -> list[int]:
        """Append the messages; return their positions. Each is a step of the fuse."""
        positions = []
        for message in messages:
            self._fuse.step()
            positions.append(
                self._broker.append(
                    message.topic, message.partition or 0, message.key, message.value
                )
            )
        self._fuse.step()
        return positions

    def get(self, partition: int, key: bytes) -> bytes | None:
        """Return the value of a row; None if there is none."""
        del partition
        return self.rows.get(key)

    def keys(
        self, partition: int, start: bytes, end: bytes, limit: int | None = None
    ) -> list[bytes]:
        """Return the keys in [start, end), ascending."""
        del partition
        return sorted(key for key in self.rows if start <= key < end)[:limit]

    def write(self, partition: int, rows: Sequence[Row], positions: Sequence[int]) -> None:
        """Write rows. Each is a step of the fuse."""
        del partition, positions
        for key, value in rows:
            self._fuse.step()
            self._put(key, value)

    def _put(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = value
