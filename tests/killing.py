"""Does something in a child process that is killed with -9 at its n-th call, for each n.

A test runs a script of its own with this, because a child of pytest would have its threads' locks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from deadlines import DEADLINE_S

Prepared = TypeVar("Prepared")


def run_script(script: str, *arguments: str) -> str:
    """Run a script that can import what tests can. Return what it printed."""
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def kill_everywhere(
    prepare: Callable[[int], Prepared], act: Callable[[Prepared], None], calls: Sequence[str]
) -> int:
    """Do act(prepare(n)) in a child that is killed at its n-th call, for n from 1 on.

    calls: the functions of `os` that count, by name. A pwrite that is killed writes half of its
    bytes first. End when a child isn't killed; return the number of those that were.
    """
    number = 0
    while True:
        number += 1
        prepared = prepare(number)
        child = os.fork()
        if not child:
            _arm(number, calls)
            act(prepared)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            assert not os.WEXITSTATUS(status), status
            return number - 1
        assert os.WTERMSIG(status) == signal.SIGKILL, status


def _arm(number: int, calls: Sequence[str]) -> None:
    """Let this process be killed at the call `number` of these functions."""
    left = number

    def killing(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def killed(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                if name == "pwrite":
                    descriptor, data, offset = arguments
                    call(descriptor, memoryview(data)[: len(data) // 2], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return killed

    for name in calls:
        setattr(os, name, killing(name, getattr(os, name)))
