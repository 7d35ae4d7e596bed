"""Suspending a process, as SIGSTOP does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from deadlines import wait_until


def suspend(pid: int) -> None:
    """Suspend a process. None of its threads runs any more when this returns.

    kill(2) returns before that: a server may answer one more request meanwhile.
    """
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(_is_suspended(task) for task in Path(f"/proc/{pid}/task").iterdir()))


def _is_suspended(task: Path) -> bool:
    """Return whether a thread is stopped by a signal: the state behind its name (proc(5))."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"
