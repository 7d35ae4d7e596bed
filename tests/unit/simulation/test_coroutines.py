"""Coroutines in the event loop of a simulation end as in that of asyncio."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mirrorlog.simulation.coroutines import CoroutineRunner


class Killed(BaseException):
    """The process ends here."""


async def fail(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


def raise_(error: BaseException) -> None:
    raise error


def test_a_coroutine_gets_what_it_waits_for() -> None:
    async def waits() -> list[object]:
        done = asyncio.Event()
        task = asyncio.create_task(done.wait())
        await asyncio.sleep(0.001)
        done.set()
        in_a_thread = await asyncio.to_thread(threading.current_thread)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.001)
        return [await task, in_a_thread is threading.main_thread()]

    runner = CoroutineRunner()
    assert [runner.run(waits()) for _ in range(2)] == [[True, True]] * 2


@pytest.mark.parametrize("error", [ValueError("planned"), Killed()])
def test_an_error_reaches_the_caller_and_the_next_coroutine_runs(error: BaseException) -> None:
    runner = CoroutineRunner()
    with pytest.raises(type(error)):
        runner.run(fail(error))
    with pytest.raises(type(error)):
        runner.run(asyncio.to_thread(raise_, error))
    assert runner.run(asyncio.sleep(0, "the next")) == "the next"


def test_a_thread_wakes_it() -> None:
    async def waits() -> str:
        loop, answered = asyncio.get_running_loop(), asyncio.Event()
        threading.Thread(target=loop.call_soon_threadsafe, args=(answered.set,)).start()
        await answered.wait()
        return "woken"

    assert CoroutineRunner().run(waits()) == "woken"


def test_what_it_leaves_is_cancelled() -> None:
    ended: list[str] = []

    async def goes_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def leaves() -> asyncio.Task[None]:
        task = asyncio.create_task(goes_on())
        await asyncio.sleep(0)
        return task

    assert CoroutineRunner().run(leaves()).cancelled()
    assert ended == ["cancelled"]
