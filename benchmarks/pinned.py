"""A program under test: a process on one core, its JSON lines with the time of their arrival, its CPU time as it goes on."""

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
    """A program under test ended, or didn't do what was waited for."""


@dataclass(frozen=True, slots=True)
class Said:
    """One JSON line."""

    at_s: float
    fields: Mapping[str, Any]


def split_cores() -> tuple[int, list[int]]:
    """The core of the programs under test, and those of the broker and of the bench."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise ProgramFailed(
            "the bench needs two cores: one for the program under test, one for the broker"
        )
    return cores[-1], cores[:-1]


class Pinned:
    """Runs `command` on `core`, with every thread of it, until it is stopped or killed. Times are of time.time()."""

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
        self._said: list[Said] = []
        self._heard = threading.Condition()
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
            threading.Thread(target=each, daemon=True) for each in (self._listen, self._sample)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self._process.pid)

    def check(self) -> None:
        """ProgramFailed where it has ended."""
        if (code := self._process.poll()) is not None:
            lines = self._log_file.read_text("utf-8", "replace").splitlines()
            raise ProgramFailed(
                f"{self._name} ended with exit code {code}; its last words: {' | '.join(lines[-5:])}"
            )

    def wait_said(self, message_type: str, deadline_s: float) -> Said:
        """The first line of that type."""
        until = time.monotonic() + deadline_s
        seen = 0
        with self._heard:
            while True:
                for said in self._said[seen:]:
                    if said.fields.get("message_type") == message_type:
                        return said
                seen = len(self._said)
                if time.monotonic() > until:
                    raise ProgramFailed(
                        f"{self._name} didn't say '{message_type}' within {deadline_s:g} s"
                    )
                if not self._heard.wait(0.2) and seen == len(self._said):
                    self.check()

    def cpu_s(self, at_s: float) -> float:
        """CPU seconds that all its threads had used at that time, in user and in kernel mode, between two samples in line."""
        times = [at for at, _ in self._samples]
        index = min(max(bisect_left(times, at_s), 1), len(times) - 1)
        (before_s, before), (after_s, after) = self._samples[index - 1], self._samples[index]
        share = min(max((at_s - before_s) / (after_s - before_s), 0.0), 1.0)
        return before + share * (after - before)

    def resident_bytes(self) -> tuple[int, int]:
        """Memory that is resident now, and the most that ever was (proc(5), VmRSS and VmHWM)."""
        lines = Path(f"/proc/{self.pid}/status").read_text("utf-8").splitlines()
        found = {
            line.split()[0]: int(line.split()[1]) * 1024
            for line in lines
            if line.startswith(("VmRSS", "VmHWM"))
        }
        return found["VmRSS:"], found["VmHWM:"]

    def wait(self) -> None:
        """Returns when it has ended by itself; ProgramFailed where it ended badly."""
        if self._process.wait(_STOP_S) != 0:
            self.check()

    def stop(self) -> None:
        """SIGTERM, and at the deadline SIGKILL. Nothing to do where it has ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except psutil.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join()

    def _listen(self) -> None:
        for line in self._process.stdout:
            at_s = time.time()
            try:
                fields = json.loads(line)
            except ValueError:
                continue
            with self._heard:
                self._said.append(Said(at_s, fields))
                self._heard.notify_all()

    def _sample(self) -> None:
        try:
            while self._process.is_running():
                used = self._process.cpu_times()
                self._samples.append((time.time(), used.user + used.system))
                time.sleep(_SAMPLE_S)
        except psutil.Error:
            return
