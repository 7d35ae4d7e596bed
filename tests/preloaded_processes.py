"""`python -m mirrorlog …` and scripts of the tests, forked from a Python that is loaded already.

While `forking()` lasts, subprocess.Popen asks preloaded_python.py for each such process. What that
one can't give (a terminal, further files, an environment that an import would have read) is started
as ever.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

from deadlines import DEADLINE_S

from mirrorlog.processes import dies_with_parent

_TESTS: Final = Path(__file__).parent
_PR_SET_CHILD_SUBREAPER: Final = 36
"""The option of prctl(2), from linux/prctl.h."""
_MAY_DIFFER: Final = ("MIRRORLOG_", "PYTEST_", "HOME", "PATH", "PWD", "XDG_", "AWS_", "ARROW_")
"""Variables that programs read when they run, and no import reads."""
_OWN_VARIABLES: Final = {"OPENBLAS_NUM_THREADS": "1"}
"""So that importing numpy starts no thread."""
_PIPES: Final = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
_CHILDS_ENDS: Final = ("p2cread", "c2pwrite", "errwrite")
_UNUSED: Final = {
    "executable": (None,),
    "preexec_fn": (None,),
    "pass_fds": ((), []),
    "shell": (False,),
    "gid": (None,),
    "gids": (None,),
    "uid": (None,),
    "umask": (-1,),
    "process_group": (-1, None),
}
"""Arguments of Popen._execute_child, and what they are when nothing is asked for."""
_execute_child: Final = subprocess.Popen._execute_child  # type: ignore[attr-defined]
_parameters: Final = inspect.signature(_execute_child)


class Forker:
    """Asks a preloaded Python for processes.

    channel: the socket that it serves. environment: in which it made its imports.
    """

    def __init__(self, channel: socket.socket, environment: Mapping[str, str]) -> None:
        self._channel, self._environment = channel, environment
        self._lock = threading.Lock()
        channel.settimeout(DEADLINE_S)

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Return whether its imports would have read the same in this environment."""
        return not self.differing(environment)

    def differing(self, environment: Mapping[str, str]) -> list[str]:
        """Return the variables that imports may have read, and that differ in this environment."""
        given = self._environment.items() ^ environment.items()
        return sorted({name for name, _ in given if not name.startswith(_MAY_DIFFER)})

    def fork(self, request: Mapping[str, Any], fds: Sequence[int]) -> int:
        """Return the id of the new child of this process.

        fds: become its stdin, stdout and stderr.
        """
        prctl = ctypes.CDLL(None).prctl
        with self._lock:
            prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(self._channel, [json.dumps(request).encode()], list(fds))
                return int(self._channel.recv(64))
            finally:
                prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@contextmanager
def started_forker() -> Iterator[Forker]:
    """Yield what asks a preloaded Python, which runs as long."""
    environment = dict(os.environ)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        server = subprocess.Popen(
            [sys.executable, str(_TESTS / "preloaded_python.py"), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment | _OWN_VARIABLES,
        )
    with ours:
        yield Forker(ours, environment)
    server.wait(DEADLINE_S)


@contextmanager
def forking(forker: Forker, scripts: Path = _TESTS) -> Iterator[None]:
    """Let subprocess.Popen ask this forker for what it can give.

    scripts: the folder of the scripts that it may run.
    """
    with mock.patch.object(subprocess.Popen, "_execute_child", _execute_child):
        fork_from(forker, scripts)
        yield


def fork_from(forker: Forker, scripts: Path = _TESTS) -> None:
    """Let subprocess.Popen ask this forker."""

    def execute_child(process: subprocess.Popen[Any], *given: Any, **named: Any) -> None:
        call = _parameters.bind(process, *given, **named).arguments
        request = planned(call, forker.fits, scripts)
        if request is None:
            _execute_child(process, *given, **named)
            return
        process.pid = forker.fork(request, child_fds(call))
        process._child_created = True  # type: ignore[attr-defined]
        process._close_pipe_fds(*(call[name] for name in _PIPES))  # type: ignore[attr-defined]

    subprocess.Popen._execute_child = execute_child  # type: ignore[attr-defined]


def planned(
    call: Mapping[str, Any], fits: Callable[[Mapping[str, str]], bool], scripts: Path
) -> dict[str, Any] | None:
    """Return the request for what Popen is to start, or None if the server can't give it.

    call: the arguments of Popen._execute_child, by name.
    """
    if any(call[name] not in usual for name, usual in _UNUSED.items() if name in call):
        return None
    if isinstance(call["args"], (str, bytes, os.PathLike)):
        return None
    arguments, death_signal = _unwrapped([os.fspath(argument) for argument in call["args"]])
    environment = dict(os.environ if call["env"] is None else call["env"])
    folder = Path(call["cwd"] or Path.cwd())
    if not (_is_taken(arguments, scripts) and fits(environment) and folder.is_dir()):
        return None
    if any(os.isatty(fd) for fd in child_fds(call)):
        return None
    return {
        "arguments": arguments[1:],
        "environment": environment,
        "cwd": str(folder),
        "new_session": call["start_new_session"],
        "parent": os.getpid(),
        "death_signal": death_signal,
    }


def child_fds(call: Mapping[str, Any]) -> list[int]:
    """Return what is to be the child's stdin, stdout and stderr; -1 stands for those of here."""
    ends = [call[name] for name in _CHILDS_ENDS]
    return [number if end == -1 else end for number, end in enumerate(ends)]


def _unwrapped(arguments: list[str]) -> tuple[list[str], int]:
    """Return the command in one of dies_with_parent, and the signal; 0 if it is none."""
    for name, number in dies_with_parent.SIGNALS.items():
        start = dies_with_parent.dies_with_parent([], signal_name=name)  # type: ignore[arg-type]
        if arguments[: len(start)] == start:
            return arguments[len(start) :], int(number)
    return arguments, 0


def _is_taken(arguments: Sequence[str], scripts: Path) -> bool:
    if len(arguments) < 2 or arguments[0] != sys.executable:
        return False
    return arguments[1:3] == ["-m", "mirrorlog"] or Path(arguments[1]).parent == scripts
