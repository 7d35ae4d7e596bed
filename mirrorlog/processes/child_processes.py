"""Processes of a run: they die with this process, report JSON lines, and are stopped in order."""

from __future__ import annotations

import json
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
from mirrorlog.processes.dies_with_parent import dies_with_parent

_STOP_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class ChildMessage:
    """One JSON line that a part printed."""

    part: str
    message_type: str
    fields: Mapping[str, Any]


class ChildProcess:
    """One `mirrorlog …` process: its JSON lines arrive in a queue, what it writes to stderr goes to a file."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log_file: Path,
        messages: queue.SimpleQueue[ChildMessage],
    ) -> None:
        self.name, self.log_file = name, log_file
        self._arguments, self._environment, self._messages = (
            list(arguments),
            dict(environment),
            messages,
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: threading.Thread | None = None
        self._last_error: Mapping[str, Any] = {}

    def start(self) -> None:
        """Starts it, or starts it again. Call it from a thread that lives as long as the part should (dies_with_parent.py)."""
        command = dies_with_parent([sys.executable, "-m", "mirrorlog", "--json", *self._arguments])
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs, or before it was started."""
        return None if self._process is None else self._process.poll()

    def check(self, *, may_end: bool = False) -> None:
        """PartFailed where it ended by itself; ending well is no failure where it `may_end`."""
        code = self.exit_code
        if code is None or (code == 0 and may_end):
            return
        self._join()
        told = self._last_error
        reason = f": {told['what']}" if told else ""
        raise PartFailed(
            f"{self.name} ended with exit code {code}{reason}",
            where=str(told.get("where") or self.log_file),
            next=str(told.get("next") or f"Its last lines: {self._last_lines()}"),
        )

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to it, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self, deadline_s: float = _STOP_S) -> None:
        """Waits for its end; at the deadline it is killed."""
        if self._process is None:
            return
        try:
            self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._join()

    def _join(self) -> None:
        if self._listener is not None:
            self._listener.join(5)

    def kill(self) -> None:
        """kill -9, and waits for the end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                try:
                    fields = json.loads(line)
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


def stop_all(parts: Sequence[ChildProcess]) -> None:
    """SIGTERM to all at once, then waits for each; at the deadline SIGKILL."""
    for part in parts:
        part.signal(signal.SIGTERM)
    for part in parts:
        part.wait()
