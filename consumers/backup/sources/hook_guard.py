"""The process that freezes and thaws: it thaws whatever becomes of the backup.

It is started as a program of its own, by its path, and imports nothing of mirrorlog: it must be
ready at once, and go on when the backup's process was killed. `hooks.py` speaks with it.

    python3 -I hook_guard.py TIMEOUT_S BEFORE AFTER     commands for the shell, or empty

1. Run BEFORE.
2. Print a line of JSON: its exit code and its output.
3. Wait for a line on standard input, for its end (the backup's process is gone), or until TIMEOUT_S
   seconds have passed since step 1 began.
4. Run AFTER, also if BEFORE failed, because it may have frozen a part. A BEFORE that still runs at
   the end of the input, or of the time, is killed first, with all that it started: it must not
   freeze anything behind the thaw.
5. Print a line of JSON: why it thawed ("asked", "gone", "late"), and of AFTER the exit code and the
   output.

SIGINT, SIGTERM and SIGHUP don't end it: a service manager sends them to every process at once.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import IO, Final

_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK_S: Final = 0.01
_MOST_OUTPUT: Final = 2000
_NOT_STARTED: Final = 127


def main(timeout_s: float, before: str, after: str) -> None:
    """Do as the top of this file says."""
    for number in _IGNORED:
        signal.signal(number, lambda *_: None)  # a command, after exec, heeds it as usual
    until_s = time.monotonic() + timeout_s
    why = _run_before(before, until_s) or _await_end(until_s)
    with tempfile.TemporaryFile() as output:
        code = 0
        if after:
            process = _start(after, output)
            code = _NOT_STARTED if process is None else process.wait()
        _say({"why": why, "code": code, "output": _text(output)})


def _run_before(command: str, until_s: float) -> str | None:
    """Run the command; return why the thaw follows at once; None if it doesn't."""
    why: str | None = None
    with tempfile.TemporaryFile() as output:
        code: int | None = 0
        process = _start(command, output) if command else None
        if command and process is None:
            code = _NOT_STARTED
        while process is not None and (code := process.poll()) is None:
            why = "gone" if _is_gone(_LOOK_S) else "late" if time.monotonic() > until_s else None
            if why is not None:
                _kill(process)
                break
        _say({"code": code, "output": _text(output)})
    return why


def _await_end(until_s: float) -> str:
    while True:
        ready, _, _ = select.select([0], [], [], max(0.0, until_s - time.monotonic()))
        if not ready:
            return "late"
        return "asked" if os.read(0, 1) else "gone"


def _is_gone(timeout_s: float) -> bool:
    """Return whether the input ended. A line that was sent too early stands for its end."""
    ready, _, _ = select.select([0], [], [], timeout_s)
    return bool(ready)


def _start(command: str, output: IO[bytes]) -> subprocess.Popen[bytes] | None:
    try:
        return subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError:
        return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _text(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read(_MOST_OUTPUT).decode("utf-8", "replace").strip()


def _say(line: dict[str, object]) -> None:
    with suppress(OSError):  # the backup's process is gone
        os.write(1, json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2], sys.argv[3])
