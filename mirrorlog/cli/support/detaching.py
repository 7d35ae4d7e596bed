"""Parts that run in the background: the shell has its prompt back when the part is ready."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from select import select
from typing import Annotated, Final

import typer

from mirrorlog.cli.support.output import Output
from mirrorlog.errors import BadUse, ExitCode

DetachOption = Annotated[
    Path | None,
    typer.Option(
        "--detach",
        help="Run in the background, and return when it is ready. This file then holds the process "
        "id. The output goes to the file beside it whose name ends in .log.",
        metavar="PID_FILE",
    ),
]
_READY: Final = b"."
_LOOK_S: Final = 0.1


def detach(pid_file: Path | None, output: Output) -> Callable[[], None]:
    """Go on in a background process if `pid_file` is given. Return what tells that it is ready.

    The background process has a session of its own, as a daemon has, and appends its output to the
    log file. The calling process waits, and prints on stderr what comes there (on stdout what is
    JSON, under --json). It never returns from this call:

    - When the other one is ready, it writes the process id to `pid_file` and exits 0.
    - When the other one ends before, it exits with its code.
    - After Ctrl-C it ends the other one, and exits 130.

    Call it before the process has threads, sockets or locks: fork(2) copies the calling thread
    only. Raise BadUse if the log file can't be written.
    """
    if pid_file is None:
        return lambda: None
    log_file = pid_file.with_suffix(".log")
    try:
        written = log_file.open("ab", buffering=0)
        printed = log_file.open("rb")
    except OSError as error:
        raise BadUse(
            f"the output of the background process can't be written: {error.strerror}",
            where=str(log_file),
            next="Name a file in a folder that exists.",
        ) from error
    printed.seek(0, os.SEEK_END)
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        printed.close()
        _leave_terminal(written.fileno())
        return _ready_once(write_end)
    os.close(write_end)
    written.close()
    with printed:
        _print_until_ready(pid, read_end, printed, as_json=output.json)
    pid_file.write_text(f"{pid}\n")
    if not output.quiet:
        sys.stderr.write(f"process {pid} goes on in the background; its output: {log_file}\n")
    raise typer.Exit(ExitCode.OK)


def _leave_terminal(log: int) -> None:
    """Take a new session, read nothing, and write to the descriptor `log`."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, standard in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, standard)
    os.close(nothing)


def _ready_once(write_end: int) -> Callable[[], None]:
    """Return a function that says once, through a pipe, that this process is ready."""
    unsaid = [write_end]

    def tell() -> None:
        while unsaid:
            descriptor = unsaid.pop()
            with suppress(BrokenPipeError):  # the process that waited was killed
                os.write(descriptor, _READY)
            os.close(descriptor)

    return tell


def _print_until_ready(pid: int, read_end: int, log: BufferedReader, *, as_json: bool) -> None:
    """Print what the background process logs until it is ready. Exit if it has ended instead."""
    try:
        while not select([read_end], [], [], _LOOK_S)[0]:
            _print_new_lines(log, as_json=as_json)
    except KeyboardInterrupt:
        os.kill(pid, signal.SIGTERM)
        raise
    is_ready = os.read(read_end, 1) == _READY
    code = 0 if is_ready else _exit_code(pid)
    _print_new_lines(log, as_json=as_json)
    if not is_ready:
        raise typer.Exit(code)


def _exit_code(pid: int) -> int:
    """Return the code of an ended process, as a shell reports it: 128 + n for signal n."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def _print_new_lines(log: BufferedReader, *, as_json: bool) -> None:
    for line in log:
        text = line.decode("utf-8", "replace")
        (sys.stdout if as_json and text.startswith("{") else sys.stderr).write(text)
