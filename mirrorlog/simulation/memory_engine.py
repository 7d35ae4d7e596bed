"""The engine of the node in memory: the port of mirrorlog/streams/engine.py on a MemoryBroker.

It does nothing by itself. A test assigns partitions, fetches and commits, each when it wants to:

    engine = MemoryEngine(broker, topics, group)
    build_node(settings, ports, engine)          # mirrorlog.streams.wiring
    await engine.assign([0, 1])
    engine.fetch()
    engine.commit()
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy

from mirrorlog.errors import ChangelogRefused, KafkaFailed, NodeUnavailable
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.streams.engine import EngineHealth, EngineWork, FetchedBatch
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.table.acknowledged_end import (
    AcknowledgedEnd,
    newly_acknowledged,
    rows_to_keep,
)
from mirrorlog.streams.table.local_store import Row, heads_and_watermark
from mirrorlog.streams.table.outgoing import Outgoing
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.keys import watermark_key


class MemoryTableView:
    """A copy of the rows of one partition (TableView)."""

    def __init__(self, rows: Mapping[bytes, bytes]) -> None:
        self._rows = dict(rows)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a row; None if there is none."""
        return self._rows.get(key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows whose key begins with `prefix`, ascending."""
        for key in sorted(self._rows):
            if key.startswith(prefix):
                yield key, self._rows[key]

    def close(self) -> None:
        """Do nothing."""


class MemoryStore:
    """The rows of a worker by partition (engine.WorkerStore).

    step: called before each row is written, after what newly_acknowledged() returns is kept.
    """

    def __init__(self, step: Callable[[], None] = lambda: None) -> None:
        self.rows: dict[int, dict[bytes, bytes]] = {}
        self._step = step
        self._positions: dict[int, int] = {}
        self._identities: dict[int, str] = {}
        self._discarded: dict[int, dict[bytes, bytes]] = {}
        self._ends: dict[int, AcknowledgedEnd] = {}
        self._copies: dict[int, dict[bytes, bytes]] = {}
        self._files: dict[int, tuple[dict[bytes, bytes], int | None]] = {}

    def get(self, partition: int, key: bytes) -> bytes | None:
        """Return the value of a row; None if there is none."""
        return self.rows.setdefault(partition, {}).get(key)

    def keys(
        self, partition: int, start: bytes, end: bytes, limit: int | None = None
    ) -> list[bytes]:
        """Return the keys in [start, end), ascending, at most the first `limit` of them."""
        return sorted(key for key in self.rows.get(partition, {}) if start <= key < end)[:limit]

    def write(self, partition: int, rows: Sequence[Row], positions: Sequence[int]) -> None:
        """Write rows, then store the highest of `positions`."""
        known = self._ends.get(partition)
        if (kept := newly_acknowledged(known, partition, rows, positions)) is not None:
            self._ends[partition], copied = kept
            _put(self._copies.setdefault(partition, {}), copied)
        table = self.rows.setdefault(partition, {})
        for row in rows:
            self._step()
            _put(table, [row])
        if positions:
            self._positions[partition] = max(positions)

    def changelog_position(self, partition: int) -> int | None:
        """Return the highest changelog position that the table holds, None if it holds none."""
        return self._positions.get(partition)

    def changelog_identity(self, partition: int) -> str | None:
        """Return the identity of the changelog that the rows came from, None if unknown."""
        return self._identities.get(partition)

    def acknowledged_end(self, partition: int) -> AcknowledgedEnd | None:
        """Return where the rows that the table took ended (FollowedStore.acknowledged_end)."""
        return self._ends.get(partition)

    def acknowledged_watermark(self, partition: int) -> bytes | None:
        """Return the newest watermark that the table took, None if it is unknown."""
        return self._copies.get(partition, {}).get(watermark_key(partition))

    def reset(self, partition: int, changelog_identity: str) -> None:
        """Empty the table for rows of that changelog (FollowedStore.reset)."""
        kept = rows_to_keep(
            partition,
            self.discarded(partition),
            heads_and_watermark(self, partition),
            self._copies.get(partition, {}),
        )
        self.lose(partition)
        self._discarded[partition] = kept
        self._identities[partition] = changelog_identity

    def lose(self, partition: int) -> None:
        """Lose all of the table, as with the worker's disk."""
        self.rows[partition] = {}
        for part in (
            self._positions,
            self._identities,
            self._discarded,
            self._ends,
            self._copies,
            self._files,
        ):
            part.pop(partition, None)

    def empty_write_buffer(self, partition: int, *, wait: bool) -> None:
        """Let the rows go to a file, of which there is one (RowStore)."""
        del wait
        rows, position = self.rows.get(partition, {}), self._positions.get(partition)
        self._files[partition] = (dict(rows), position)

    def copied(self, step: Callable[[], None]) -> MemoryStore:
        """Return a store with the same rows, which `step` is called for."""
        return deepcopy(self, {id(self._step): step})

    def lose_write_buffer(self, partition: int) -> None:
        """Lose the rows that are in no file, as when the worker is killed (RowStore.write)."""
        rows, position = self._files.get(partition, ({}, None))
        self.rows[partition] = dict(rows)
        if position is None:
            self._positions.pop(partition, None)
        else:
            self._positions[partition] = position

    def discarded(self, partition: int) -> dict[bytes, bytes]:
        """Return what `reset` kept."""
        return dict(self._discarded.get(partition, {}))

    def forget_discarded(self, partition: int) -> None:
        """Forget what `reset` kept."""
        self._discarded.pop(partition, None)

    def size_bytes(self, partition: int) -> int | None:
        """Return how many bytes the rows have, None if the worker has none."""
        rows = self.rows.get(partition)
        return None if rows is None else sum(len(key) + len(rows[key]) for key in rows)

    def open_view(self, partition: int) -> MemoryTableView:
        """Return a view of a partition's table. NodeUnavailable if the worker has none."""
        if partition not in self.rows:
            raise NodeUnavailable(
                "the partition's table isn't open", where=f"partition {partition}"
            )
        return MemoryTableView(self.rows[partition])


def _put(table: dict[bytes, bytes], rows: Sequence[Row]) -> None:
    for key, value in rows:
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value


class MemoryEngine:
    """One member of the node's group.

    store: the table. Give it to the next engine for a worker that is started again with its disk.
    """

    def __init__(
        self, broker: MemoryBroker, topics: Topics, group: str, store: MemoryStore | None = None
    ) -> None:
        self._broker, self._topics, self._group = broker, topics, group
        self._store = MemoryStore() if store is None else store
        self._positions: dict[int, int] = {}
        self._standby: asyncio.Task[None] | None = None
        self._work: EngineWork | None = None

    @property
    def store(self) -> MemoryStore:
        """The table."""
        return self._store

    @property
    def work(self) -> EngineWork:
        """What the engine calls. AssertionError before `connect`."""
        assert self._work is not None, "connect() comes first"
        return self._work

    def connect(self, work: EngineWork) -> None:
        """Call `work` from now on."""
        self._work = work

    async def assign(self, active: Sequence[int], standbys: Sequence[int] = ()) -> None:
        """Go through a rebalance, at whose end the worker has these partitions."""
        work, active = self.work, sorted(active)
        self._stop_standby()
        for moved in (sorted(self._positions), active):
            for listener in work.listeners:
                listener.release(moved)
        self._positions = {}
        await work.recovery.catch_up(active)
        if standbys:
            self._standby = asyncio.create_task(work.recovery.stand_by(standbys))
        for listener in work.listeners:
            await listener.start(active)
        self._positions = {
            partition: work.positions.expected_position(partition) for partition in active
        }

    def fetch(self, max_messages: int = 500) -> int:
        """Hand on up to `max_messages` commands of each partition; return how many there were.

        Nothing is fetched while the node has no room.
        """
        fetched, batches = 0, self.work.batches
        for partition, position in self._positions.items():
            kept = self._broker.partition(self._topics.commands, partition).messages
            messages = [message for message in kept if message.position >= position][:max_messages]
            if not messages or not batches.has_room.is_set():
                continue
            self._positions[partition] = messages[-1].position + 1
            size_bytes = sum(len(message.value or b"") for message in messages)
            batches.put(FetchedBatch(EventBatch.from_messages(messages), size_bytes, _acknowledge))
            fetched += len(messages)
        return fetched

    def commit(self) -> None:
        """Commit what the node allows."""
        positions = self.work.positions
        committable = {
            partition: offset
            for partition in self._positions
            if (offset := positions.committable_offset(partition)) is not None
        }
        self._broker.commit(self._group, self._topics.commands, committable)

    async def stop(self) -> None:
        """Stop in order. Without it, the worker's end is a crash."""
        self._stop_standby()
        for listener in self.work.listeners:
            listener.stop()
        for service in self.work.services:
            await service.stop()
        self._positions = {}

    def run(self) -> None:
        """Fold and commit all that the topic holds, then stop in order."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        topic = self._topics.commands
        for service in self.work.services:
            await service.start()
        await self.assign(range(self._broker.partitions(topic)))
        ends = {
            partition: self._broker.end_position(topic, partition) for partition in self._positions
        }
        while any(
            self.work.positions.expected_position(partition) < end
            for partition, end in ends.items()
        ):
            self.fetch()
            await asyncio.sleep(0)
        self.commit()
        await self.stop()

    async def send(self, messages: Sequence[Outgoing]) -> list[int]:
        """Append the messages; return their positions. ChangelogRefused if a topic refuses one."""
        try:
            return [
                self._broker.append(
                    message.topic,
                    message.partition or 0,
                    message.key,
                    message.value,
                    message.headers,
                )
                for message in messages
            ]
        except KafkaFailed as error:
            raise ChangelogRefused(error.what, where=error.where) from error

    def seen_end(self, partition: int) -> int | None:
        """Return where an assigned partition of the commands ends; None for another one."""
        if partition not in self._positions:
            return None
        return self._broker.end_position(self._topics.commands, partition)

    def health(self) -> EngineHealth:
        """Return that nothing is wrong."""
        return EngineHealth({}, 0.0, None)

    def worker_urls(self) -> dict[int, str]:
        """Return no address: no other worker is asked."""
        return {}

    def _stop_standby(self) -> None:
        if self._standby is not None:
            self._standby.cancel()
            self._standby = None


async def _acknowledge() -> None:
    """Do nothing: there is no list of acknowledged offsets to clear."""
