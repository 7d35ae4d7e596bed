"""Processes of a run: they die with this process, report JSON lines, and are stopped in order."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mirrorlog.errors import PartFailed
from mirrorlog.json_text import parse_json
from mirrorlog.processes.dies_with_parent import dies_with_parent

_STOP_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class ChildMessage:
    """One JSON object that a child process printed.

    part: the name of the process.
    """

    part: str
    message_type: str
    fields: Mapping[str, Any]


class ChildProcess:
    """One `mirrorlog --json …` process. Its messages go to a queue, its stderr to a file."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log_file: Path,
        messages: queue.SimpleQueue[ChildMessage],
    ) -> None:
        """Describe the process; start() starts it.

        name: for messages and errors. arguments: of `mirrorlog`. messages: receives what it prints.
        """
        self.name, self.log_file = name, log_file
        self._arguments, self._environment = list(arguments), dict(environment)
        self._messages = messages
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._last_error: Mapping[str, Any] = {}

    def start(self) -> None:
        """Start the process, or start it again.

        Call it from a thread that lives as long as the process should (dies_with_parent.py).
        """
        command = dies_with_parent([sys.executable, "-m", "mirrorlog", "--json", *self._arguments])
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._reader = threading.Thread(
            target=self._read_messages, args=(self._process,), daemon=True
        )
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id. Call start() first."""
        assert self._process is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while the process runs, and before its start."""
        return None if self._process is None else self._process.poll()

    def check(self, *, may_end: bool = False) -> None:
        """Raise PartFailed if the process has ended.

        may_end: exit code 0 is no failure.
        """
        code = self.exit_code
        if code is None or (code == 0 and may_end):
            return
        self._join()
        error = self._last_error
        reason = f": {error['what']}" if error else ""
        raise PartFailed(
            f"{self.name} ended with exit code {code}{reason}",
            where=str(error.get("where") or self.log_file),
            next=str(error.get("next") or f"Its last lines: {self._last_lines()}"),
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self, deadline_s: float = _STOP_S) -> None:
        """Wait for the end of the process. Kill it at the deadline."""
        if self._process is None:
            return
        try:
            self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._join()

    def _join(self) -> None:
        if self._reader is not None:
            self._reader.join(5)

    def kill(self) -> None:
        """Kill the process with SIGKILL and wait for its end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def _read_messages(self, process: subprocess.Popen[bytes]) -> None:
        """Put each JSON object of stdout into the queue. Runs in a thread of its own."""
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                try:
                    fields = parse_json(line)
                    message = ChildMessage(self.name, str(fields.pop("message_type", "")), fields)
                except (ValueError, AttributeError):
                    continue
                if message.message_type == "error":
                    self._last_error = message.fields
                self._messages.put(message)

    def _last_lines(self) -> str:
        try:
            lines = self.log_file.read_text("utf-8", "replace").splitlines()
        except OSError:
            return "none"
        return " | ".join(line.strip() for line in lines[-5:]) or "none"


def stop_all(processes: Sequence[ChildProcess], deadline_s: float = _STOP_S) -> None:
    """Send SIGTERM to all processes, then wait for each. Kill those that miss the deadline."""
    for process in processes:
        process.signal(signal.SIGTERM)
    for process in processes:
        process.wait(deadline_s)
