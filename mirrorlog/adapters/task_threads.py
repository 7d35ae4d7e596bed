"""A task runner with threads of this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import Final, TypeVar

from mirrorlog.ports.task_runner import OneAtATime

T = TypeVar("T")


class TaskThreads:
    """Runs tasks in up to `threads` threads, which live as long as one call of run().

    At most twice as many tasks as threads are taken ahead. A single task runs in the caller's
    thread.
    """

    def __init__(self, threads: int) -> None:
        self._threads: Final = threads

    def run(self, tasks: Iterable[Callable[[], T]], on_done: Callable[[T], None]) -> None:
        """Run all tasks as TaskRunner.run says."""
        rest = iter(tasks)
        first = list(islice(rest, 2))
        if len(first) < 2 or self._threads < 2:
            OneAtATime().run(chain(first, rest), on_done)
            return
        executor = ThreadPoolExecutor(self._threads, "mirrorlog-task")
        taken: deque[Future[T]] = deque()
        try:
            for task in chain(first, rest):
                taken.append(executor.submit(task))
                while taken and (len(taken) == 2 * self._threads or taken[0].done()):
                    on_done(taken.popleft().result())
            while taken:
                on_done(taken.popleft().result())
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
