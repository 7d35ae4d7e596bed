"""The port to work that several threads may share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol, TypeVar

T = TypeVar("T")
Error = TypeVar("Error", bound=Exception)


class TaskRunner(Protocol):
    """Runs tasks, possibly several at once."""

    def run(self, tasks: Iterable[Callable[[], T]], on_done: Callable[[T], None]) -> None:
        """Run all tasks, and give the result of each to `on_done`, in the order of the tasks.

        The caller's thread takes the tasks from the iterable, and it calls `on_done`. The tasks
        themselves may run in other threads. Only a fixed number of tasks is taken ahead of the
        results that `on_done` got. If the iterable, a task or `on_done` raises, no further task
        begins, those that run come to their end, and then that exception is raised.
        """
        ...


class OneAtATime:
    """Runs each task in the caller's thread, and its `on_done` before the next task is taken."""

    def run(self, tasks: Iterable[Callable[[], T]], on_done: Callable[[T], None]) -> None:
        """Run all tasks as TaskRunner.run says."""
        for task in tasks:
            on_done(task())


def run_all(
    runner: TaskRunner, calls: Iterable[Callable[[], object]], kind: type[Error]
) -> list[Error | None]:
    """Make all calls, although some fail. Return by call the error of `kind`; None for no error.

    Any other error ends the calls as TaskRunner.run says.
    """

    def noting(call: Callable[[], object]) -> Error | None:
        try:
            call()
        except kind as error:
            return error
        return None

    errors: list[Error | None] = []
    runner.run((partial(noting, call) for call in calls), errors.append)
    return errors
