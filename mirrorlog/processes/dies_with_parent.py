"""Runs a child process that dies with its parent, even when the parent is killed with -9.

It is a command:

    python -m mirrorlog.processes.dies_with_parent [--signal KILL|TERM] PARENT_PID COMMAND…

which works in three steps:

1. It asks Linux to send the signal when the parent dies (prctl(2), PR_SET_PDEATHSIG).
2. It checks that PARENT_PID still is the parent: the parent may have died before step 1.
3. It becomes COMMAND with exec. The process, its open files and the request of step 1 stay.

To Linux, the parent is the **thread** that started the child. Start such a child from a thread that
lives as long as the child should, for example the main thread.

On other systems COMMAND runs on when its parent dies. Stop it explicitly there.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Literal

PR_SET_PDEATHSIG = 1
"""The option of prctl(2), from linux/prctl.h."""

SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM}
USAGE = (
    "usage: python -m mirrorlog.processes.dies_with_parent [--signal KILL|TERM] PARENT_PID COMMAND…"
)


def dies_with_parent(
    command: Sequence[str], *, signal_name: Literal["KILL", "TERM"] = "KILL"
) -> list[str]:
    """Return the argv that runs `command` as a child that gets the signal when this process dies.

    KILL always ends the child. TERM lets the child shut down in order, but no process is left to
    check that it does.
    """
    # The file runs isolated and without site-packages: that takes 10 ms, and no module of mirrorlog
    # can shadow one of Python's.
    return [
        sys.executable,
        "-I",
        "-S",
        __file__,
        "--signal",
        signal_name,
        str(os.getpid()),
        *command,
    ]


def main(arguments: list[str]) -> None:
    """Become the command of `arguments`, or exit; never return.

    Exit codes: 1 where the parent is dead or prctl fails, 2 for wrong arguments, 127 where the
    command can't be run.
    """
    name = "KILL"
    if arguments[:1] == ["--signal"]:
        name, arguments = arguments[1] if len(arguments) > 1 else "", arguments[2:]
    if name not in SIGNALS or len(arguments) < 2 or not arguments[0].isdecimal():
        _exit(USAGE, status=2)
    parent_pid, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        _request_signal(parent_pid, SIGNALS[name])
    # Python ignores these two signals, and the command would inherit that through exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        _exit(f"{command[0]} can't be run: {error.strerror}", status=127)


def _request_signal(parent_pid: int, on_death: signal.Signals) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(on_death), 0, 0, 0) != 0:
        _exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}", status=1)
    if os.getppid() != parent_pid:
        _exit(f"process {parent_pid} is no longer the parent", status=1)


def _exit(message: str, *, status: int) -> None:
    sys.stderr.write(f"dies_with_parent: {message}\n")
    sys.exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
