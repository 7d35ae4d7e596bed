"""One loop for each partition that this worker has: what was fetched becomes batches, and one batch after the other a flush.

Partitions don't wait for each other: while one waits for its acknowledgements, another folds. What was fetched and isn't
recorded yet is bounded in bytes for all of them together: above that nothing more is fetched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from mirrorlog.streams.fold.batch import EventBatch


class FetchBudget:
    """Bytes that were fetched and aren't recorded yet. `room` is set while more may be fetched."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._held_bytes = most_bytes, 0
        self.room = asyncio.Event()
        self.room.set()

    def add(self, size_bytes: int) -> None:
        """Counts what was fetched (below 0: what was recorded or dropped)."""
        self._held_bytes += size_bytes
        if self._held_bytes < self._most_bytes:
            self.room.set()
        else:
            self.room.clear()


@dataclass(frozen=True, slots=True)
class FetchedBatch:
    """A batch as it was fetched. recorded: called when its commands are in the log."""

    batch: EventBatch
    size_bytes: int
    recorded: Callable[[], Awaitable[None]]


class Work(Protocol):
    """What a loop does."""

    async def record(self, batch: EventBatch) -> None:
        """Makes the batch durable in the log."""

    async def maintain(self, partition: int) -> float:
        """Looks after the partition's log between two batches; in how many seconds at the latest it wants to again."""


@dataclass(frozen=True, slots=True)
class FlushLimits:
    """A batch is closed `flush_s` after its first event came, or at so many commands or bytes."""

    flush_s: float
    commands: int
    size_bytes: int


@dataclass(slots=True)
class _PartitionLoop:
    queue: asyncio.Queue[FetchedBatch] = field(default_factory=asyncio.Queue)
    task: asyncio.Task[None] | None = None


class PartitionLoops:
    """The loops of this worker. `abort` ends the process: an error that escaped would let commands pass unrecorded."""

    def __init__(
        self,
        work: Work,
        fetch_budget: FetchBudget,
        pace: FlushLimits,
        abort: Callable[[BaseException], None],
    ) -> None:
        self._work, self._fetch_budget, self._pace, self._abort = work, fetch_budget, pace, abort
        self._loops: dict[int, _PartitionLoop] = {}

    def start(self, partitions: Iterable[int]) -> None:
        """Begins the loops of the partitions that this worker has, and ends all others: they are tended also where no
        command comes."""
        mine = set(partitions)
        self.stop(self._loops.keys() - mine)
        for partition in mine:
            loop = self._loops.setdefault(partition, _PartitionLoop())
            if loop.task is None:
                loop.task = asyncio.create_task(
                    self._run(partition, loop), name=f"mirrorlog-partition-{partition}"
                )

    def put(self, fetched: FetchedBatch) -> None:
        """Hands a fetched batch to its partition's loop. Before that begins the batch waits, and nothing is done with the
        partition: it may not be this worker's any more, or its table isn't there yet."""
        self._fetch_budget.add(fetched.size_bytes)
        self._loops.setdefault(fetched.batch.partition, _PartitionLoop()).queue.put_nowait(fetched)

    def stop(self, partitions: Iterable[int] | None = None) -> None:
        """Ends loops where they are (None: all). What they hold isn't committed: whoever has the partition next reads it."""
        for partition in list(self._loops if partitions is None else partitions):
            loop = self._loops.pop(partition, None)
            if loop is None:
                continue
            if loop.task is not None:
                loop.task.cancel()
            while not loop.queue.empty():
                self._fetch_budget.add(-loop.queue.get_nowait().size_bytes)

    async def _run(self, partition: int, loop: _PartitionLoop) -> None:
        try:
            wait_s = await self._work.maintain(partition)
            while True:
                taken = await self._take(loop.queue, wait_s)
                try:
                    if taken:
                        await self._work.record(EventBatch.join([each.batch for each in taken]))
                        for each in taken:
                            await each.recorded()
                finally:
                    self._fetch_budget.add(-sum(each.size_bytes for each in taken))
                wait_s = await self._work.maintain(partition)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001
            self._abort(error)

    async def _take(self, queue: asyncio.Queue[FetchedBatch], wait_s: float) -> list[FetchedBatch]:
        """What comes within the pace from the first on; nothing where none came within `wait_s`."""
        first = await _next(queue, wait_s)
        if first is None:
            return []
        taken, pace = [first], self._pace
        commands, size_bytes = len(first.batch.positions), first.size_bytes
        until = asyncio.get_running_loop().time() + pace.flush_s
        try:
            while commands < pace.commands and size_bytes < pace.size_bytes:
                following = await _next(queue, until - asyncio.get_running_loop().time())
                if following is None:
                    break
                taken.append(following)
                commands += len(following.batch.positions)
                size_bytes += following.size_bytes
        except asyncio.CancelledError:
            self._fetch_budget.add(-size_bytes)  # dropped
            raise
        return taken


async def _next(queue: asyncio.Queue[FetchedBatch], wait_s: float) -> FetchedBatch | None:
    if not queue.empty():
        return queue.get_nowait()
    try:
        # Not wait_for: before Python 3.12 it passes over a cancellation that comes together with the result.
        async with asyncio.timeout(max(wait_s, 0.0)):
            return await queue.get()
    except TimeoutError:
        return None
