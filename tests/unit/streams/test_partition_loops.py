"""The loops of the partitions: they record batches in order, and release the whole fetch budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from deadlines import until

from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.partitions import partition_loops
from mirrorlog.streams.partitions.partition_loops import (
    FetchBudget,
    FetchedBatch,
    FlushLimits,
    PartitionLoops,
)


class Processor:
    """Records its batches; waits for partitions in `held`, and fails with `error` if it is set."""

    def __init__(self) -> None:
        self.recorded: list[tuple[int, list[int]]] = []
        self.planned: list[list[int]] = []
        self.used: list[object] = []
        self.plans = True
        self.maintained: list[int] = []
        self.passed: list[tuple[int, int]] = []
        self.ends: dict[int, int] = {}
        self.held: set[int] = set()
        self.error: Exception | None = None
        self.late_error: Exception | None = None
        self.pause_s = 60.0

    def plan_ahead(self, batch: EventBatch) -> Any:
        self.planned.append(list(batch.positions))
        return SimpleNamespace(batch=batch) if self.plans else None

    async def record(self, batch: EventBatch, ahead: Any = None) -> None:
        if self.error:
            raise self.error
        self.used.append(ahead is not None and ahead.batch is batch)
        while batch.partition in self.held:
            await asyncio.sleep(0)
            if self.late_error:
                raise self.late_error
        self.recorded.append((batch.partition, list(batch.positions)))

    def recorded_end(self, partition: int) -> int:
        return self.ends.get(partition, 0)

    async def pass_empty(self, partition: int, end: int) -> None:
        self.passed.append((partition, end))
        self.ends[partition] = end

    async def maintain(self, partition: int) -> float:
        self.maintained.append(partition)
        return self.pause_s


class World:
    def __init__(self, **limits: Any) -> None:
        self.processor, self.fetch_budget, self.abort_errors = Processor(), FetchBudget(100), []
        self.acknowledged: list[int] = []
        self.seen: dict[int, int] = {}
        limits = {"age_s": 0.0, "commands": 10, "size_bytes": 1000} | limits
        self.loops = PartitionLoops(
            self.processor,
            self.fetch_budget,
            FlushLimits(**limits),
            self.abort_errors.append,
            self.seen.get,
        )

    def put(
        self,
        partition: int,
        *positions: int,
        size_bytes: int = 10,
        appended_us: int | None = None,
    ) -> None:
        async def acknowledge() -> None:
            self.acknowledged.append(positions[-1])

        batch = EventBatch(
            "t",
            partition,
            list(positions),
            [None] * len(positions),
            [b""] * len(positions),
            appended_us,
        )
        self.loops.put(FetchedBatch(batch, size_bytes, acknowledge))


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_batches_are_joined_and_recorded_before_they_are_acknowledged() -> None:
    async def test() -> None:
        world = World(age_s=60.0, commands=4)
        world.loops.start([0])
        world.put(0, 1, 2)
        world.put(0, 3, 4)
        await until(lambda: world.acknowledged == [2, 4])
        assert world.processor.recorded == [(0, [1, 2, 3, 4])]
        world.loops.stop()

    run(test)


def test_only_what_comes_soon_after_a_flush_that_was_not_full_waits_for_more() -> None:
    async def test() -> None:
        world = World(age_s=60.0, commands=4)
        world.loops.start([0])
        await until(lambda: world.processor.maintained == [0])
        world.loops.wake(0)  # without a batch, no flush begins
        await until(lambda: world.processor.maintained == [0, 0])
        world.put(0, 1, 2, 3, 4)
        await until(lambda: world.acknowledged == [4])
        world.put(0, 5)
        await until(lambda: world.acknowledged == [4, 5])
        world.put(0, 6)
        for _ in range(20):
            await asyncio.sleep(0)
        assert world.processor.recorded == [(0, [1, 2, 3, 4]), (0, [5])]
        world.put(0, 7, 8, 9)
        await until(lambda: world.acknowledged == [4, 5, 6, 9])
        assert world.processor.recorded[2:] == [(0, [6, 7, 8, 9])]
        world.loops.stop()

    run(test)


def test_a_partition_that_waits_does_not_delay_another() -> None:
    async def test() -> None:
        world = World()
        world.processor.held = {0}
        world.loops.start([0, 1])
        world.put(0, 5)
        world.put(1, 7)
        await until(lambda: world.acknowledged == [7])
        world.processor.held = set()
        await until(lambda: world.acknowledged == [7, 5])
        world.loops.stop()

    run(test)


def test_a_batch_waits_until_it_is_recorded() -> None:
    async def test() -> None:
        world = World(commands=1)
        world.processor.held = {0}
        assert world.loops.partitions == []
        world.loops.start([0, 1])
        assert world.loops.partitions == [0, 1]
        assert world.loops.oldest_waiting_us(0) is None
        world.put(0, 1, appended_us=10)
        world.put(0, 2, appended_us=20)
        await asyncio.sleep(0)
        assert world.loops.oldest_waiting_us(0) == 10
        world.processor.held = set()
        await until(lambda: world.acknowledged == [1, 2])
        assert world.loops.oldest_waiting_us(0) is None
        world.loops.stop()

    run(test)


def test_a_batch_fetched_before_its_loop_starts_waits_for_it() -> None:
    async def test() -> None:
        world = World()
        world.put(0, 5)
        world.put(3, 9)
        await asyncio.sleep(0)
        assert (world.processor.recorded, world.processor.maintained) == ([], [])
        world.loops.start([0])
        await until(lambda: world.acknowledged == [5])
        assert world.processor.recorded == [(0, [5])]
        world.loops.start([0, 3])
        await asyncio.sleep(0)
        assert world.processor.recorded == [
            (0, [5])
        ]  # the batch of partition 3 was dropped: another worker had it
        world.loops.stop()

    run(test)


@pytest.mark.parametrize("steps", range(8))
def test_a_loop_that_is_stopped_while_a_batch_arrives_ends(steps: int) -> None:
    async def test() -> None:
        world = World()
        world.loops.start([0])
        for _ in range(3):
            await asyncio.sleep(0)
        world.processor.held = {0}
        world.put(0, 1)
        for _ in range(steps):
            await asyncio.sleep(0)
        world.loops.stop()
        world.processor.held = set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert world.processor.recorded == []
        assert world.fetch_budget._used_bytes == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(test)


def test_stopped_loops_release_the_fetch_budget() -> None:
    async def test() -> None:
        world = World(age_s=60.0)
        world.loops.start([0, 1, 2])
        world.processor.held = {2}
        world.put(0, 1, size_bytes=60)  # the loop has it, and waits for more
        world.put(2, *range(10), size_bytes=30)  # the loop records it
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        world.put(1, 1, size_bytes=5)
        world.put(1, 2, size_bytes=5)  # still queued
        assert not world.fetch_budget.has_room.is_set()
        world.loops.stop()
        await until(lambda: world.fetch_budget._used_bytes == 0)
        assert world.fetch_budget.has_room.is_set()
        assert world.acknowledged == []

    run(test)


def test_an_error_aborts_the_process_and_nothing_is_acknowledged() -> None:
    async def test() -> None:
        world = World()
        world.processor.error = ValueError("x")
        world.loops.start([0])
        world.put(0, 5)
        await until(lambda: bool(world.abort_errors))
        assert (world.abort_errors, world.acknowledged) == ([world.processor.error], [])
        world.loops.stop()

    run(test)


@pytest.mark.parametrize("records", [False, True])
def test_an_end_that_stays_ahead_of_the_log_without_a_command_is_passed(
    records: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_loops, "_LOOK_S", 0.0)

    async def test() -> None:
        world = World()
        world.processor.ends = {0: 5, 1: 7}
        world.seen |= {0: 8, 1: 7}
        if records:
            world.processor.held = {0}
            world.put(0, 5, 6, 7)  # what makes the end move on is being recorded
        world.loops.start([0, 1])
        if not records:
            await until(lambda: bool(world.processor.passed))
        for _ in range(50):
            await asyncio.sleep(0)
        assert world.processor.passed == ([] if records else [(0, 8)])
        world.loops.stop()

    run(test)


@pytest.mark.parametrize("plans", [True, False])
def test_a_full_flush_is_planned_while_the_one_before_is_recorded_and_recorded_after_it(
    plans: bool,
) -> None:
    async def test() -> None:
        world = World(commands=2)
        world.processor.plans = plans
        world.processor.held = {0}
        world.loops.start([0])
        world.put(0, 1, 2)
        world.put(0, 3)
        world.put(0, 4)
        world.put(0, 5)
        await until(lambda: world.processor.planned == [[3, 4]])
        assert (world.processor.recorded, world.acknowledged) == ([], [])
        world.processor.held = set()
        await until(lambda: world.acknowledged == [2, 3, 4, 5])
        assert world.processor.recorded == [(0, [1, 2]), (0, [3, 4]), (0, [5])]
        assert world.processor.used == [False, plans, False]
        assert world.processor.planned == [[3, 4]]
        world.loops.stop()

    run(test)


def test_a_flush_that_is_not_full_takes_what_arrives_until_its_turn() -> None:
    async def test() -> None:
        world = World(commands=3)
        world.processor.held = {0}
        world.loops.start([0])
        world.put(0, 1, 2, 3)
        world.put(0, 4)
        for _ in range(20):
            await asyncio.sleep(0)
        assert world.processor.planned == []
        world.put(0, 5)
        world.processor.held = set()
        await until(lambda: world.acknowledged == [3, 4, 5])
        assert world.processor.recorded == [(0, [1, 2, 3]), (0, [4, 5])]
        world.loops.stop()

    run(test)


def test_a_partition_that_is_taken_away_drops_what_is_planned() -> None:
    async def test() -> None:
        world = World(commands=1)
        world.processor.held = {0}
        world.loops.start([0])
        world.put(0, 1, size_bytes=50)
        world.put(0, 2, size_bytes=50)
        await until(lambda: world.processor.planned == [[2]])
        assert not world.loops.has_room.is_set()
        world.loops.stop([0])
        world.processor.held = set()
        await until(lambda: world.fetch_budget._used_bytes == 0)
        assert asyncio.all_tasks() == {asyncio.current_task(), world.loops._watch}
        assert (world.processor.recorded, world.acknowledged) == ([], [])
        world.loops.stop()

    run(test)


def test_an_error_of_a_recording_aborts_while_the_next_flush_is_awaited() -> None:
    async def test() -> None:
        world = World(commands=2)
        world.processor.held = {0}
        world.loops.start([0])
        world.put(0, 1, 2)
        await until(lambda: world.processor.used == [False])
        world.processor.late_error = ValueError("x")
        await until(lambda: bool(world.abort_errors))
        assert (world.abort_errors, world.acknowledged) == ([world.processor.late_error], [])
        world.loops.stop()

    run(test)


def test_other_tasks_run_between_two_calls_of_a_maintenance_that_has_more_to_do() -> None:
    async def test() -> None:
        world = World()
        world.processor.pause_s = 0.0
        world.loops.start([0])
        for _ in range(10):
            await asyncio.sleep(0)
        assert 1 < len(world.processor.maintained) <= 10
        world.loops.stop()

    run(test)
