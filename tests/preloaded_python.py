"""A Python that has imported mirrorlog, and that forks a process for each program that it is asked
to run.

A command of mirrorlog takes 0.6 s of a processor to import what it needs, and the tests run
hundreds of them. A process that is forked from this one has done that already. Except for that it
is a process like any other: it has its own arguments, environment, working directory, files,
session, signals and memory, it is a child of the process that asked, and it ends as Python ends.

Linux makes it a child of that process: a second fork lets go of it, and while a process is a
"child subreaper" (prctl(2)), it gets such orphans.

preloaded_processes.py is what asks.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import importlib
import inspect
import json
import os
import pkgutil
import random
import runpy
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from preloaded_processes import Forker, fork_from

from mirrorlog.codec.events import newest_contract
from mirrorlog.domain.commands import TrackingCommand

REQUEST_BYTES: Final = 1 << 20
MODULES: Final = (
    "asyncio",
    "faust.app",
    "faust.worker",
    "psutil",
    "mirrorlog.producers.wiring",
    "mirrorlog.consumers.wiring",
    "mirrorlog.streams.wiring",
    "mirrorlog.streams.faust_worker.faust_engine",
)
PACKAGES: Final = ("mirrorlog.cli.commands", "mirrorlog.cli.support", "mirrorlog.cli.demo")


def import_modules() -> None:
    """Import what the programs need, and make them keep what each would work out at its start.

    None of it may start a thread: a fork would lose it.
    """
    for name in MODULES:
        importlib.import_module(name)
    for package in map(importlib.import_module, PACKAGES):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    newest_contract(TrackingCommand)  # it reads and keeps all contracts
    inspect.getmodule(sys._getframe())  # it keeps which file is whose; Faust's agents look it up
    threads = os.listdir("/proc/self/task")  # noqa: PTH208
    assert len(threads) == 1, f"an import started {len(threads) - 1} threads"


def serve(channel: socket.socket) -> list[str]:
    """Answer requests until the other side is gone.

    Return the arguments of a Python command line, in the process that is to run them.
    """
    while True:
        fds = array.array("i")
        message, ancillary, _, _ = channel.recvmsg(REQUEST_BYTES, socket.CMSG_SPACE(64))
        if not message:
            os._exit(0)
        for _, _, data in ancillary:
            fds.frombytes(data)
        between = os.fork()
        if between:
            for fd in fds:
                os.close(fd)
            os.waitpid(between, 0)
            continue
        request = json.loads(message)
        child = os.fork()
        if child:
            os._exit(0)
        become(request, fds, channel)
        arguments: list[str] = request["arguments"]
        return arguments


def become(request: dict[str, Any], fds: Sequence[int], channel: socket.socket) -> None:
    """Make this process the one that is asked for, and tell its id."""
    while os.getppid() != request["parent"]:
        time.sleep(0)
    if request["new_session"]:
        os.setsid()
    if request["death_signal"]:
        import ctypes

        ctypes.CDLL(None).prctl(1, int(request["death_signal"]), 0, 0, 0)  # PR_SET_PDEATHSIG
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
    for fd in fds:
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tempfile.tempdir = None
    random.seed()
    channel.send(str(os.getpid()).encode())
    channel.close()


def run(arguments: list[str]) -> None:
    """Run the arguments of a Python command line: `-m MODULE …` or `FILE …`."""
    sys.orig_argv = [sys.executable, *arguments]
    if arguments[0] == "-m":
        sys.argv, sys.path[0] = arguments[1:], os.getcwd()  # noqa: PTH109
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = arguments, os.path.dirname(arguments[0])  # noqa: PTH120
        runpy.run_path(arguments[0], run_name="__main__")


def end(code: int) -> None:
    """End as Python does, except that what was imported isn't freed: that takes 70 ms.

    Return if the output can't be written. Python knows what to do then.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return
    atexit._run_exitfuncs()
    gc.collect()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code & 0xFF)


def served(channel: socket.socket) -> list[str]:
    """Serve. In the process of a demo, fork the demo's parts as well, from a copy of this one."""
    arguments = serve(channel)
    if "demo" not in arguments:
        return arguments
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = dict(os.environ)
    if os.fork() == 0:
        ours.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for standard in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), standard)
        return serve(theirs)
    theirs.close()
    fork_from(Forker(ours, environment))
    return arguments


def main() -> None:
    """Serve the Unix socket of the given number."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    # Ctrl-C in a terminal goes to all processes there. This one ends when the other side is gone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    del sys.argv[1:]  # Faust reads them
    import_modules()
    gc.collect()
    gc.freeze()
    arguments = served(channel)
    code = 0
    try:
        run(arguments)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            raise
        code = int(ended.code or 0)
    end(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
