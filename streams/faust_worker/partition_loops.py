"""One loop for each partition of this worker: fetched batches become flushes, one after the other.

Partitions do not wait for each other: while one waits for its acknowledgements, another folds. A
budget bounds the bytes that are fetched and not yet recorded, for all partitions together: nothing
more is fetched while it is used up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import NoReturn, Protocol, TypeAlias

from mirrorlog.streams.fold.batch import EventBatch

AbortProcess: TypeAlias = Callable[[BaseException], NoReturn]
"""Ends the process at once, so that nothing more is acknowledged."""


class FetchBudget:
    """The bytes that are fetched and not yet recorded, for all partitions of the worker.

    `has_room` is set while more may be fetched. The consumer waits for it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes, self._used_bytes = limit_bytes, 0
        self.has_room = asyncio.Event()
        self.has_room.set()

    def reserve(self, size_bytes: int) -> None:
        """Count bytes that were fetched. Clears `has_room` when the limit is reached."""
        self._used_bytes += size_bytes
        if self._used_bytes >= self._limit_bytes:
            self.has_room.clear()

    def release(self, size_bytes: int) -> None:
        """Give back bytes that were recorded or dropped. Sets `has_room` below the limit."""
        self._used_bytes -= size_bytes
        if self._used_bytes < self._limit_bytes:
            self.has_room.set()


@dataclass(frozen=True, slots=True)
class FetchedBatch:
    """A batch as it was fetched.

    acknowledge: called once the log holds the batch's commands.
    """

    batch: EventBatch
    size_bytes: int
    acknowledge: Callable[[], Awaitable[None]]


class BatchProcessor(Protocol):
    """The part of BatchFolder that the loops need (streams/fold/fold_batch.py).

    The two methods never run at the same time for one partition.
    """

    async def record(self, batch: EventBatch) -> None:
        """Make the batch's commands durable in the log."""

    async def maintain(self, partition: int) -> float:
        """Do a little work on the partition's log; return after how many seconds at most to call
        again."""


@dataclass(frozen=True, slots=True)
class FlushLimits:
    """A flush begins when its oldest batch is `age_s` old, or at this many commands or bytes."""

    age_s: float
    commands: int
    size_bytes: int


@dataclass(slots=True)
class _PartitionLoop:
    """The batches fetched of one partition, and the task that records them: None before `start`."""

    queue: asyncio.Queue[FetchedBatch] = field(default_factory=asyncio.Queue)
    task: asyncio.Task[None] | None = None


class PartitionLoops:
    """The loops of this worker.

    abort: ends the process. An error that only ended a loop would let the consumer go on, and its
    commands would be passed over.
    """

    def __init__(
        self,
        processor: BatchProcessor,
        fetch_budget: FetchBudget,
        limits: FlushLimits,
        abort: AbortProcess,
    ) -> None:
        self._processor, self._fetch_budget = processor, fetch_budget
        self._limits, self._abort = limits, abort
        self._loops: dict[int, _PartitionLoop] = {}

    def start(self, partitions: Iterable[int]) -> None:
        """Start the loops of the partitions that this worker has now, and stop all others.

        A loop runs for every partition, because its log needs maintenance without commands, too.
        """
        assigned = set(partitions)
        self.stop(self._loops.keys() - assigned)
        for partition in assigned:
            loop = self._loops.setdefault(partition, _PartitionLoop())
            if loop.task is None:
                loop.task = asyncio.create_task(
                    self._run(partition, loop), name=f"mirrorlog-partition-{partition}"
                )

    def put(self, fetched: FetchedBatch) -> None:
        """Queue a fetched batch for its partition's loop.

        Before `start` the batch only waits: the partition may belong to another worker by now, or
        its table may not be complete.
        """
        self._fetch_budget.reserve(fetched.size_bytes)
        self._loops.setdefault(fetched.batch.partition, _PartitionLoop()).queue.put_nowait(fetched)

    def stop(self, partitions: Iterable[int] | None = None) -> None:
        """Cancel the loops of `partitions` (None: all) and drop what they hold.

        Dropped batches are not committed: the next worker of the partition reads them again.
        """
        for partition in list(self._loops if partitions is None else partitions):
            loop = self._loops.pop(partition, None)
            if loop is None:
                continue
            if loop.task is not None:
                loop.task.cancel()
            while not loop.queue.empty():
                self._fetch_budget.release(loop.queue.get_nowait().size_bytes)

    async def _run(self, partition: int, loop: _PartitionLoop) -> None:
        """Record the partition's batches, and maintain its log between two flushes, for ever.

        BatchFolder.record (streams/fold/fold_batch.py) is the next step of a batch.

        Batches are acknowledged only after they are recorded. Their bytes are released in any case.
        """
        processor = self._processor
        try:
            wait_s = await processor.maintain(partition)
            while True:
                batches = await self._next_batches(loop.queue, wait_s)
                try:
                    if batches:
                        await processor.record(
                            EventBatch.join([fetched.batch for fetched in batches])
                        )
                        for fetched in batches:
                            await fetched.acknowledge()
                finally:
                    self._fetch_budget.release(sum(fetched.size_bytes for fetched in batches))
                wait_s = await processor.maintain(partition)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001
            self._abort(error)

    async def _next_batches(
        self, queue: asyncio.Queue[FetchedBatch], wait_s: float
    ) -> list[FetchedBatch]:
        """Return the batches of the next flush; an empty list if none arrives within `wait_s`."""
        first = await _next_batch(queue, wait_s)
        if first is None:
            return []
        batches, limits = [first], self._limits
        commands, size_bytes = len(first.batch.positions), first.size_bytes
        deadline_s = asyncio.get_running_loop().time() + limits.age_s
        try:
            while commands < limits.commands and size_bytes < limits.size_bytes:
                following = await _next_batch(queue, deadline_s - asyncio.get_running_loop().time())
                if following is None:
                    break
                batches.append(following)
                commands += len(following.batch.positions)
                size_bytes += following.size_bytes
        except asyncio.CancelledError:
            self._fetch_budget.release(size_bytes)  # the batches are dropped
            raise
        return batches


async def _next_batch(queue: asyncio.Queue[FetchedBatch], wait_s: float) -> FetchedBatch | None:
    """Return the next batch of the queue; None if none arrives within `wait_s`."""
    if not queue.empty():
        return queue.get_nowait()
    try:
        # Not wait_for: before Python 3.12 it swallows a cancellation that comes with the result.
        async with asyncio.timeout(max(wait_s, 0.0)):
            return await queue.get()
    except TimeoutError:
        return None
