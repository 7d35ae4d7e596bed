"""One loop for each partition: batches in order, the fetch_budget counted down to nothing whatever becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from deadlines import DEADLINE_S

from mirrorlog.streams.faust_worker.partition_loops import (
    FetchBudget,
    FetchedBatch,
    FlushLimits,
    PartitionLoops,
)
from mirrorlog.streams.fold.batch import EventBatch


class Processor:
    """Records what it is given; waits where `hold` says so, fails where `error` does."""

    def __init__(self) -> None:
        self.recorded: list[tuple[int, list[int]]] = []
        self.tended: list[int] = []
        self.hold: set[int] = set()
        self.error: Exception | None = None

    async def record(self, batch: EventBatch) -> None:
        if self.error:
            raise self.error
        while batch.partition in self.hold:
            await asyncio.sleep(0)
        self.recorded.append((batch.partition, list(batch.positions)))

    async def maintain(self, partition: int) -> float:
        self.tended.append(partition)
        return 60.0


class World:
    def __init__(self, **pace: Any) -> None:
        self.work, self.fetch_budget, self.aborted_by = Processor(), FetchBudget(100), []
        self.acknowledged: list[int] = []
        pace = {"age_s": 0.0, "commands": 10, "size_bytes": 1000} | pace
        self.loops = PartitionLoops(
            self.work, self.fetch_budget, FlushLimits(**pace), self.aborted_by.append
        )

    def put(self, partition: int, *positions: int, size_bytes: int = 10) -> None:
        async def recorded() -> None:
            self.acknowledged.append(positions[-1])

        batch = EventBatch(
            "t", partition, list(positions), [None] * len(positions), [b""] * len(positions)
        )
        self.loops.put(FetchedBatch(batch, size_bytes, recorded))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_batches_of_a_partition_are_joined_recorded_and_only_then_acknowledged() -> None:
    async def test() -> None:
        world = World(age_s=60.0, commands=4)
        world.loops.start([0])
        world.put(0, 1, 2)
        world.put(0, 3, 4)
        await world.until(lambda: world.acknowledged == [2, 4])
        assert world.work.recorded == [(0, [1, 2, 3, 4])]
        world.loops.stop()

    run(test)


def test_a_partition_that_waits_holds_up_no_other() -> None:
    async def test() -> None:
        world = World()
        world.work.hold = {0}
        world.loops.start([0, 1])
        world.put(0, 5)
        world.put(1, 7)
        await world.until(lambda: world.acknowledged == [7])
        world.work.hold = set()
        await world.until(lambda: world.acknowledged == [7, 5])
        world.loops.stop()

    run(test)


def test_what_comes_before_the_loop_begins_waits_and_isnt_lost() -> None:
    async def test() -> None:
        world = World()
        world.put(0, 5)
        world.put(3, 9)
        await asyncio.sleep(0)
        assert (world.work.recorded, world.work.tended) == ([], [])
        world.loops.start([0])
        await world.until(lambda: world.acknowledged == [5])
        assert world.work.recorded == [(0, [5])]
        world.loops.start([0, 3])
        await asyncio.sleep(0)
        assert world.work.recorded == [
            (0, [5])
        ]  # dropped when it turned out not to be this worker's
        world.loops.stop()

    run(test)


@pytest.mark.parametrize("turns", range(8))
def test_a_loop_that_is_ended_when_a_batch_comes_ends(turns: int) -> None:
    async def test() -> None:
        world = World()
        world.loops.start([0])
        for _ in range(3):
            await asyncio.sleep(0)
        world.work.hold = {0}
        world.put(0, 1)
        for _ in range(turns):
            await asyncio.sleep(0)
        world.loops.stop()
        world.work.hold = set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert world.work.recorded == []
        assert world.fetch_budget._used_bytes == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(test)


def test_the_backlog_is_counted_down_when_loops_end_in_the_middle() -> None:
    async def test() -> None:
        world = World(age_s=60.0)
        world.loops.start([0, 1, 2])
        world.work.hold = {2}
        world.put(0, 1, size_bytes=60)  # taken, waiting for more
        world.put(2, *range(10), size_bytes=30)  # being recorded
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        world.put(1, 1, size_bytes=5)
        world.put(1, 2, size_bytes=5)  # still in the queue
        assert not world.fetch_budget.has_room.is_set()
        world.loops.stop()
        await world.until(lambda: world.fetch_budget._used_bytes == 0)
        assert world.fetch_budget.has_room.is_set()
        assert world.acknowledged == []

    run(test)


def test_an_error_ends_the_process_and_nothing_is_acknowledged() -> None:
    async def test() -> None:
        world = World()
        world.work.error = ValueError("x")
        world.loops.start([0])
        world.put(0, 5)
        await world.until(lambda: bool(world.aborted_by))
        assert (world.aborted_by, world.acknowledged) == ([world.work.error], [])
        world.loops.stop()

    run(test)
