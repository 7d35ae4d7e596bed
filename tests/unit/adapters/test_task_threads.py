"""Task runners: results in order, a bounded number ahead, and nothing runs on after a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from threading import Barrier, Event, get_ident

import pytest

from mirrorlog.adapters.task_threads import TaskThreads
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.ports.task_runner import OneAtATime, TaskRunner, run_all

THREADS = 3
BOTH = [TaskThreads(THREADS), OneAtATime()]


@pytest.mark.parametrize("runner", BOTH)
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_results_come_in_the_order_of_the_tasks(runner: TaskRunner, count: int) -> None:
    results: list[int] = []
    runner.run((partial(int, number) for number in range(count)), results.append)
    assert results == list(range(count))


def test_tasks_run_at_the_same_time() -> None:
    meeting = Barrier(THREADS, timeout=60)
    TaskThreads(THREADS).run([meeting.wait] * THREADS, lambda _: None)


def test_the_caller_takes_tasks_and_results_and_runs_a_single_task() -> None:
    callers: list[int] = []

    def tasks() -> Iterator[Callable[[], int]]:
        for _ in range(9):
            callers.append(get_ident())
            yield get_ident

    TaskThreads(THREADS).run(tasks(), lambda _: callers.append(get_ident()))
    assert set(callers) == {get_ident()}
    results: list[int] = []
    TaskThreads(THREADS).run([get_ident], results.append)
    assert results == [get_ident()]


def test_a_bounded_number_of_tasks_is_taken_ahead() -> None:
    taken, done = 0, 0

    def tasks() -> Iterator[Callable[[], int]]:
        nonlocal taken
        for number in range(50):
            taken += 1
            assert taken - done <= 2 * THREADS + 1
            yield partial(int, number)

    def on_done(_: int) -> None:
        nonlocal done
        done += 1

    TaskThreads(THREADS).run(tasks(), on_done)
    assert done == 50


@pytest.mark.parametrize("runner", BOTH)
@pytest.mark.parametrize("where", ["tasks", "task", "on_done"])
def test_after_a_failure_nothing_begins_and_nothing_runs_on(runner: TaskRunner, where: str) -> None:
    begun: list[int] = []
    ended: list[int] = []

    def fail() -> None:
        raise ValueError(where)

    def work(number: int) -> int:
        begun.append(number)
        if where == "task" and number == 10:
            fail()
        ended.append(number)
        return number

    def tasks() -> Iterator[Callable[[], int]]:
        for number in range(1000):
            if where == "tasks" and number == 10:
                fail()
            yield partial(work, number)

    def on_done(number: int) -> None:
        if where == "on_done" and number == 10:
            fail()

    with pytest.raises(ValueError, match=where):
        runner.run(tasks(), on_done)
    assert len(begun) <= 11 + 2 * THREADS
    assert set(begun) - set(ended) <= {10}


def test_a_failure_waits_for_what_runs() -> None:
    began, ended = Event(), Event()

    def slow() -> None:
        began.set()
        ended.wait(60)

    def fail() -> None:
        began.wait(60)
        ended.set()
        raise ValueError("planned")

    with pytest.raises(ValueError, match="planned"):
        TaskThreads(2).run([fail, slow], lambda _: None)
    assert ended.is_set()


@pytest.mark.parametrize("runner", BOTH)
def test_all_calls_are_made_although_some_fail(runner: TaskRunner) -> None:
    made = []

    def call(number: int) -> None:
        made.append(number)
        if number % 3 == 0:
            raise DeviceFailed(f"{number}")

    calls = [partial(call, number) for number in range(10)]
    failed = run_all(runner, calls, DeviceFailed)
    assert [error and error.what for error in failed] == [
        None if number % 3 else str(number) for number in range(10)
    ]
    assert sorted(made) == list(range(10))
    with pytest.raises(DeviceFailed):
        run_all(runner, calls, BadUse)
