"""The process that grows the trees, as a child of a worker of the node."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from mirrorlog.processes.dies_with_parent import dies_with_parent
from mirrorlog.settings import Settings, inherited_environment

log = logging.getLogger("mirrorlog.chain")

_ARGUMENTS: Final = ("-m", "mirrorlog", "--quiet", "audit", "chain", "--wait-for-lock")
_RESTART_S: Final = 10.0
NICE: Final = 19
"""The lowest priority (setpriority(2)): 15 of 1,039 parts of a core that the fold uses fully."""


class BuilderProcess:
    """`mirrorlog audit chain` as a child, which is started again if it ends.

    The fold doesn't depend on it: a child that fails is logged, and the trees grow later. It dies
    with this process, however this one ends.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        command: Sequence[str] = (sys.executable, *_ARGUMENTS),
        restart_s: float = _RESTART_S,
    ) -> None:
        """command: what runs. restart_s: the pause before a child that ended is started again."""
        self._command, self._restart_s = list(command), restart_s
        self._environment = {**inherited_environment(), **settings.as_environment()}
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="chain builder", daemon=True)

    def start(self) -> None:
        """Start the child, and the thread that starts it again."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the child, and wait for its end."""
        self._stopping.set()
        if (child := self._child) is not None:
            child.terminate()
        self._thread.join()

    def _run(self) -> None:
        """Run the child again and again. Linux ends it with this thread, so they live alike."""
        while not self._stopping.is_set():
            command = dies_with_parent(self._command, signal_name="TERM")
            self._child = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            with suppress(OSError):  # before it imports anything: that would cost the fold most
                os.setpriority(os.PRIO_PROCESS, self._child.pid, NICE)
            if self._stopping.is_set():
                self._child.terminate()
            code = self._child.wait()
            if not self._stopping.is_set():
                log.warning(
                    "the process that grows the trees ended with exit code %d: it is started "
                    "again in %g s",
                    code,
                    self._restart_s,
                )
                self._stopping.wait(self._restart_s)
