"""One loop for each partition of this worker: fetched batches become flushes, one after the other.

Partitions do not wait for each other: while one waits for its acknowledgements, another folds. Nor
does a partition with much to do: while a flush waits for its acknowledgements, the next one is
planned if it is full already. It is written when the one before is durable. A budget bounds the
bytes that are fetched and not yet recorded, for all partitions together: nothing more is fetched
while it is used up.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from mirrorlog.streams.engine import AbortProcess, FetchedBatch
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.batch_plan import PlannedFlush

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

    The coroutines never run at the same time for one partition. `plan_ahead` is called while
    `record` runs.
    """

    def recorded_end(self, partition: int) -> int:
        """Return the first position of the partition that isn't in the log."""

    async def pass_empty(self, partition: int, end: int) -> None:
        """Let the log be complete up to `end`, unless a command lies between."""

    def plan_ahead(self, batch: EventBatch) -> PlannedFlush | None:
        """Plan the flush of the batch behind the one that is recorded, None if that can't be."""

    async def record(self, batch: EventBatch, ahead: PlannedFlush | None = None) -> None:
        """Make the batch's commands durable in the log. ahead: what plan_ahead returned for it."""

    async def maintain(self, partition: int) -> float:
        """Do a little work on the partition's log; return after how many seconds at most to call
        again."""


@dataclass(frozen=True, slots=True)
class FlushLimits:
    """A flush is full at this many commands or bytes, and begins then.

    One that isn't full begins `age_s` after the last one that wasn't full began. So no batch waits
    longer than that for its flush, and one that comes after a pause, or as the last one of many,
    doesn't wait.
    """

    age_s: float
    commands: int
    size_bytes: int


class _WaitingBatches:
    """The fetched batches of one partition that no flush has yet, the oldest first."""

    def __init__(self, limits: FlushLimits) -> None:
        self._limits = limits
        self._batches: deque[FetchedBatch] = deque()
        self._news = asyncio.Event()
        self._is_woken = False
        self._last_partial_s = -math.inf

    def __len__(self) -> int:
        return len(self._batches)

    def append(self, fetched: FetchedBatch) -> None:
        """Add the newest batch."""
        self._batches.append(fetched)
        self._news.set()

    def wake(self) -> None:
        """Let the next flush begin without more batches, or without any."""
        self._is_woken = True
        self._news.set()

    def note(self) -> None:
        """Let `wait` return."""
        self._news.set()

    async def wait(self, wait_s: float | None = None) -> bool:
        """Return True when something was added or noted since the last call, False after `wait_s`.

        Other tasks run at least once in between, unless there is something new.
        """
        try:
            # Not wait_for: before Python 3.12 it swallows a cancellation that comes with the
            # result.
            async with asyncio.timeout(None if wait_s is None else max(wait_s, 0.0)):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True

    async def begin(self, wait_s: float) -> bool:
        """Return whether there is a batch: True at once, False after `wait_s` or when woken."""
        deadline_s = _now_s() + wait_s
        while not self._batches and not self._is_woken:
            if not await self.wait(deadline_s - _now_s()):
                break
        return bool(self._batches)

    async def fill(self) -> None:
        """Return when a flush of these batches is full, when it may begin anyway, or when woken."""
        deadline_s = self._last_partial_s + self._limits.age_s
        while not self._is_woken and not self.full():
            if not await self.wait(deadline_s - _now_s()):
                break

    def full(self) -> list[FetchedBatch]:
        """Return the batches of the next flush if no more fit into it, otherwise none."""
        first, is_full = self._first_flush()
        return first if is_full else []

    def take(self) -> list[FetchedBatch]:
        """Remove the batches of the next flush, which begins now, and return them."""
        self._is_woken = False
        first, is_full = self._first_flush()
        if first and not is_full:
            self._last_partial_s = _now_s()
        for _ in first:
            self._batches.popleft()
        return first

    def drop(self) -> int:
        """Remove all batches; return their bytes."""
        size_bytes = sum(fetched.size_bytes for fetched in self._batches)
        self._batches.clear()
        return size_bytes

    def _first_flush(self) -> tuple[list[FetchedBatch], bool]:
        """Return the batches of the next flush, and whether it has reached a limit."""
        first: list[FetchedBatch] = []
        commands = size_bytes = 0
        for fetched in self._batches:
            first.append(fetched)
            commands += len(fetched.batch.positions)
            size_bytes += fetched.size_bytes
            if commands >= self._limits.commands or size_bytes >= self._limits.size_bytes:
                return first, True
        return first, False


@dataclass(frozen=True, slots=True)
class _PlannedAhead:
    """A flush that was planned before its turn. planned: of `batches`, joined."""

    batches: Sequence[FetchedBatch]
    planned: PlannedFlush


@dataclass(slots=True)
class _PartitionLoop:
    """The batches fetched of one partition, and the task that records them: None before `start`.

    recording: makes the batches that the task has taken durable. None: it hasn't begun yet.
    ahead: the next flush, if it is planned.
    is_idle: the task waits for a batch, and holds none.
    empty_end: no command seems to lie between the log and this position; None if there is no such
        position.
    waiting_us: when the broker appended the last command of each batch that isn't recorded, the
        oldest first; None for what isn't known.
    """

    waiting: _WaitingBatches
    task: asyncio.Task[None] | None = None
    recording: asyncio.Task[None] | None = None
    ahead: _PlannedAhead | None = None
    is_idle: bool = False
    empty_end: int | None = None
    waiting_us: deque[int | None] = field(default_factory=deque)

    def cancel(self) -> None:
        """Cancel what runs, at once: no step of it may come after this."""
        for task in (self.recording, self.task):
            if task is not None:
                task.cancel()


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
            loop = self._loop_of(partition)
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
        loop = self._loop_of(fetched.batch.partition)
        loop.waiting_us.append(fetched.batch.appended_us)
        loop.waiting.append(fetched)

    def wake(self, partition: int) -> None:
        """Let the loop of a partition look for work soon; do nothing if this worker hasn't it."""
        loop = self._loops.get(partition)
        if loop is not None and loop.task is not None:
            loop.waiting.wake()

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
            loop.cancel()
            self._fetch_budget.release(loop.waiting.drop())

    def _loop_of(self, partition: int) -> _PartitionLoop:
        loop = self._loops.get(partition)
        if loop is None:
            loop = self._loops[partition] = _PartitionLoop(_WaitingBatches(self._limits))
        return loop

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
                    loop.waiting.wake()
            before = ahead

    def _ends_ahead(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """Yield the idle partitions whose end lies above the log, each with (log's end, end)."""
        for partition, loop in self._loops.items():
            if loop.is_idle and not loop.waiting:
                recorded = self._processor.recorded_end(partition)
                end = self._seen_end(partition)
                if end is not None and end > recorded:
                    yield partition, (recorded, end)

    async def _run(self, partition: int, loop: _PartitionLoop) -> None:
        """Record the partition's batches, and maintain its log between two flushes, for ever.

        Their bytes are released when they are recorded, and if they never are.
        """
        processor = self._processor
        try:
            wait_s = await processor.maintain(partition)
            while True:
                batches = await self._next_batches(loop, wait_s)
                try:
                    if batches:
                        await self._record(loop, batches)
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
        loop.is_idle = True
        has_some = await loop.waiting.begin(wait_s)
        loop.is_idle = False
        if has_some:
            await loop.waiting.fill()
        return loop.waiting.take()

    async def _record(self, loop: _PartitionLoop, batches: list[FetchedBatch]) -> None:
        """Make batches durable in the log, and plan the next flush meanwhile.

        They are acknowledged only after they are recorded. BatchFolder.record
        (streams/fold/fold_batch.py) is the next step of a batch.
        """
        ahead, loop.ahead = loop.ahead, None
        planned = ahead.planned if ahead is not None and ahead.batches == batches else None
        batch = _joined(batches) if planned is None else planned.batch
        loop.recording = asyncio.create_task(self._processor.record(batch, planned))
        try:
            await self._plan_next(loop, loop.recording)
            await loop.recording
        finally:
            loop.recording.cancel()
        for fetched in batches:
            await fetched.acknowledge()

    async def _plan_next(self, loop: _PartitionLoop, recording: asyncio.Task[None]) -> None:
        """Plan the next flush if it gets full while batches are recorded. Return when either ends.

        A flush that isn't full takes what arrives until its turn. Planned now it would be smaller,
        and what arrives later would wait for two flushes.
        """
        recording.add_done_callback(lambda _: loop.waiting.note())
        await asyncio.sleep(0)  # It plans its own flush first, and then waits for the changelog.
        while not recording.done():
            if batches := loop.waiting.full():
                planned = self._processor.plan_ahead(_joined(batches))
                loop.ahead = None if planned is None else _PlannedAhead(batches, planned)
                return
            await loop.waiting.wait()


def _joined(batches: Iterable[FetchedBatch]) -> EventBatch:
    return EventBatch.join([fetched.batch for fetched in batches])


def _now_s() -> float:
    return asyncio.get_running_loop().time()
