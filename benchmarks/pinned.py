"""Runs a program under test on one core, with the times of its JSON lines and its CPU time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import psutil

from mirrorlog.processes.dies_with_parent import dies_with_parent

_SAMPLE_S: Final = 0.02
_STOP_S: Final = 20.0


class ProgramFailed(Exception):
    """A program under test ended, or didn't do in time what it should."""


@dataclass(frozen=True, slots=True)
class JsonLine:
    """A JSON line of the program, and when it arrived."""

    at_s: float
    fields: Mapping[str, Any]


def split_cores() -> tuple[int, list[int]]:
    """Return the core for the program under test, and the cores for everything else."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise ProgramFailed(
            "the benchmark needs two cores: one for the program under test, and one for the broker"
        )
    return cores[-1], cores[:-1]


class PinnedProcess:
    """Runs `command` with all its threads on `core` until it is stopped.

    All times are of time.time().
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log_file: Path,
        core: int,
    ) -> None:
        self._name, self._log_file = name, log_file
        self.started_at_s = time.time()
        self._lines: list[JsonLine] = []
        self._line_arrived = threading.Condition()
        self._samples: list[tuple[float, float]] = []
        with log_file.open("ab") as log:
            self._process = psutil.Popen(
                dies_with_parent(["taskset", "--cpu-list", str(core), *command]),
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self._read_lines, self._sample)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Return the process id."""
        return int(self._process.pid)

    def check(self) -> None:
        """Raise ProgramFailed if the program has ended."""
        if (code := self._process.poll()) is not None:
            lines = self._log_file.read_text("utf-8", "replace").splitlines()
            raise ProgramFailed(
                f"{self._name} ended with exit code {code}; "
                f"its log ends with: {' | '.join(lines[-5:])}"
            )

    def wait_for_line(self, message_type: str, deadline_s: float) -> JsonLine:
        """Return the first line of that type. Raise ProgramFailed if there is none in time."""
        until = time.monotonic() + deadline_s
        seen = 0
        with self._line_arrived:
            while True:
                for line in self._lines[seen:]:
                    if line.fields.get("message_type") == message_type:
                        return line
                seen = len(self._lines)
                if time.monotonic() > until:
                    raise ProgramFailed(
                        f"{self._name} printed no line of type '{message_type}' "
                        f"within {deadline_s:g} s"
                    )
                if not self._line_arrived.wait(0.2) and seen == len(self._lines):
                    self.check()

    def cpu_s(self, at_s: float) -> float:
        """Return the CPU seconds that all threads had used at that time, in user and kernel mode.

        Between two samples the value is interpolated.
        """
        times = [at for at, _ in self._samples]
        index = min(max(bisect_left(times, at_s), 1), len(times) - 1)
        (before_s, before), (after_s, after) = self._samples[index - 1], self._samples[index]
        share = min(max((at_s - before_s) / (after_s - before_s), 0.0), 1.0)
        return before + share * (after - before)

    def resident_bytes(self) -> tuple[int, int]:
        """Return the resident memory now, and its maximum so far (proc(5), VmRSS and VmHWM)."""
        lines = Path(f"/proc/{self.pid}/status").read_text("utf-8").splitlines()
        sizes = {
            line.split()[0]: int(line.split()[1]) * 1024
            for line in lines
            if line.startswith(("VmRSS", "VmHWM"))
        }
        return sizes["VmRSS:"], sizes["VmHWM:"]

    def wait(self) -> None:
        """Wait until the program has ended by itself.

        Raise ProgramFailed if its exit code isn't 0.
        """
        if self._process.wait(_STOP_S) != 0:
            self.check()

    def stop(self) -> None:
        """Stop the program with SIGTERM, and with SIGKILL at the deadline.

        Do nothing if the program has ended.
        """
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except psutil.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join()

    def _read_lines(self) -> None:
        for line in self._process.stdout:
            at_s = time.time()
            try:
                fields = json.loads(line)
            except ValueError:
                continue
            with self._line_arrived:
                self._lines.append(JsonLine(at_s, fields))
                self._line_arrived.notify_all()

    def _sample(self) -> None:
        try:
            while self._process.is_running():
                used = self._process.cpu_times()
                self._samples.append((time.time(), used.user + used.system))
                time.sleep(_SAMPLE_S)
        except psutil.Error:
            return
