"""One loop for each partition of this worker: fetched batches become flushes, one after the other.

Partitions do not wait for each other: while one waits for its acknowledgements, another folds. A
budget bounds the bytes that are fetched and not yet recorded, for all partitions together: nothing
more is fetched while it is used up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from mirrorlog.streams.engine import AbortProcess, FetchedBatch
from mirrorlog.streams.fold.batch import EventBatch

_LOOK_S: Final = 1.0
"""How often the loops look for partitions whose end moved on without a command."""
SeenEnd: TypeAlias = Callable[[int], int | None]
"""Returns where a partition ended at the consumer's last fetch of it, None if it isn't known."""


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


class BatchProcessor(Protocol):
    """The part of BatchFolder that the loops need (streams/fold/fold_batch.py).

    The coroutines never run at the same time for one partition.
    """

    def recorded_end(self, partition: int) -> int:
        """Return the first position of the partition that isn't in the log."""

    async def pass_empty(self, partition: int, end: int) -> None:
        """Let the log be complete up to `end`, unless a command lies between."""

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
    """The batches fetched of one partition, and the task that records them: None before `start`.

    queue: None wakes the task.
    is_idle: the task waits for a batch, and holds none.
    empty_end: no command seems to lie between the log and this position; None if there is no such
        position.
    waiting_us: when the broker appended the last command of each batch that isn't recorded, the
        oldest first; None for what isn't known.
    """

    queue: asyncio.Queue[FetchedBatch | None] = field(default_factory=asyncio.Queue)
    task: asyncio.Task[None] | None = None
    is_idle: bool = False
    empty_end: int | None = None
    waiting_us: deque[int | None] = field(default_factory=deque)


class PartitionLoops:
    """The loops of this worker. The engine puts what it fetches here (engine.BatchSink).

    abort: ends the process. An error that only ended a loop would let the consumer go on, and its
    commands would be passed over.
    """

    def __init__(
        self,
        processor: BatchProcessor,
        fetch_budget: FetchBudget,
        limits: FlushLimits,
        abort: AbortProcess,
        seen_end: SeenEnd,
    ) -> None:
        self._processor, self._fetch_budget = processor, fetch_budget
        self._limits, self._abort, self._seen_end = limits, abort, seen_end
        self._loops: dict[int, _PartitionLoop] = {}
        self._watch: asyncio.Task[None] | None = None

    @property
    def partitions(self) -> list[int]:
        """The partitions whose loops run, in order."""
        return sorted(number for number, loop in self._loops.items() if loop.task is not None)

    def oldest_waiting_us(self, partition: int) -> int | None:
        """Return when the broker appended the oldest batch that isn't recorded, if that is known.

        In microseconds since 1970. None, too, if no batch waits.
        """
        return next(iter(self._loops[partition].waiting_us), None)

    def start(self, partitions: Iterable[int]) -> None:
        """Start the loops of the partitions that this worker has now, and stop all others.

        A loop runs for every partition, because its log needs maintenance without commands, too.
        """
        assigned = set(partitions)
        self.stop(self._loops.keys() - assigned)
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_ends(), name="mirrorlog-ends")
        for partition in assigned:
            loop = self._loops.setdefault(partition, _PartitionLoop())
            if loop.task is None:
                loop.task = asyncio.create_task(
                    self._run(partition, loop), name=f"mirrorlog-partition-{partition}"
                )

    @property
    def has_room(self) -> asyncio.Event:
        """The event that is set while more may be fetched."""
        return self._fetch_budget.has_room

    def put(self, fetched: FetchedBatch) -> None:
        """Queue a fetched batch for its partition's loop.

        Before `start` the batch only waits: the partition may belong to another worker by now, or
        its table may not be complete.
        """
        self._fetch_budget.reserve(fetched.size_bytes)
        loop = self._loops.setdefault(fetched.batch.partition, _PartitionLoop())
        loop.waiting_us.append(fetched.batch.appended_us)
        loop.queue.put_nowait(fetched)

    def wake(self, partition: int) -> None:
        """Let the loop of a partition look for work soon; do nothing if this worker hasn't it."""
        loop = self._loops.get(partition)
        if loop is not None and loop.task is not None:
            loop.queue.put_nowait(None)

    def stop(self, partitions: Iterable[int] | None = None) -> None:
        """Cancel the loops of `partitions` (None: all) and drop what they hold.

        Dropped batches are not committed: the next worker of the partition reads them again.
        """
        if partitions is None and self._watch is not None:
            self._watch.cancel()
            self._watch = None
        for partition in list(self._loops if partitions is None else partitions):
            loop = self._loops.pop(partition, None)
            if loop is None:
                continue
            if loop.task is not None:
                loop.task.cancel()
            while not loop.queue.empty():
                if (fetched := loop.queue.get_nowait()) is not None:
                    self._fetch_budget.release(fetched.size_bytes)

    async def _watch_ends(self) -> None:
        """Wake the loops of partitions whose end moved on although no command came, for ever.

        A transaction ends with a marker, which takes a position and which no consumer returns. The
        log must be complete through it: whoever asks where the partition ends waits for that.

        An end counts only if it is seen twice, with nothing recorded and nothing waiting between:
        its commands may be on their way.
        """
        before: dict[int, tuple[int, int]] = {}
        while True:
            await asyncio.sleep(_LOOK_S)
            ahead = dict(self._ends_ahead())
            for partition, seen in ahead.items():
                if before.get(partition) == seen:
                    loop = self._loops[partition]
                    loop.empty_end = seen[1]
                    loop.queue.put_nowait(None)
            before = ahead

    def _ends_ahead(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """Yield the idle partitions whose end lies above the log, each with (log's end, end)."""
        for partition, loop in self._loops.items():
            if loop.is_idle and loop.queue.empty():
                recorded = self._processor.recorded_end(partition)
                end = self._seen_end(partition)
                if end is not None and end > recorded:
                    yield partition, (recorded, end)

    async def _run(self, partition: int, loop: _PartitionLoop) -> None:
        """Record the partition's batches, and maintain its log between two flushes, for ever.

        BatchFolder.record (streams/fold/fold_batch.py) is the next step of a batch.

        Batches are acknowledged only after they are recorded. Their bytes are released in any case.
        """
        processor = self._processor
        try:
            wait_s = await processor.maintain(partition)
            while True:
                batches = await self._next_batches(loop, wait_s)
                try:
                    if batches:
                        await processor.record(
                            EventBatch.join([fetched.batch for fetched in batches])
                        )
                        for fetched in batches:
                            await fetched.acknowledge()
                finally:
                    self._fetch_budget.release(sum(fetched.size_bytes for fetched in batches))
                for _ in batches:
                    loop.waiting_us.popleft()
                if not batches and loop.empty_end is not None:
                    await processor.pass_empty(partition, loop.empty_end)
                loop.empty_end = None
                wait_s = await processor.maintain(partition)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001
            self._abort(error)

    async def _next_batches(self, loop: _PartitionLoop, wait_s: float) -> list[FetchedBatch]:
        """Return the batches of the next flush.

        Return an empty list if none arrives within `wait_s`, or if the loop is woken.
        """
        queue = loop.queue
        loop.is_idle = True
        first = await _next_batch(queue, wait_s)
        loop.is_idle = False
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


async def _next_batch(
    queue: asyncio.Queue[FetchedBatch | None], wait_s: float
) -> FetchedBatch | None:
    """Return the next entry of the queue; None, too, if none arrives within `wait_s`."""
    if not queue.empty():
        return queue.get_nowait()
    try:
        # Not wait_for: before Python 3.12 it swallows a cancellation that comes with the result.
        async with asyncio.timeout(max(wait_s, 0.0)):
            return await queue.get()
    except TimeoutError:
        return None
