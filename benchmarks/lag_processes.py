"""The processes of bench_lag.py that write: a writer, and `mirrorlog host serve`."""

from __future__ import annotations

import queue
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import IO, Final

from pinned import ProgramFailed

from mirrorlog.cli.demo.run import Run
from mirrorlog.processes.dies_with_parent import dies_with_parent

START_S: Final = 60.0


class Writer:
    """The process that writes (lag_writer.py), while the context lasts."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                dies_with_parent([sys.executable, str(Path(__file__).parent / "lag_writer.py")])
                + list(command),
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._log: Final = log
        self._lines: Final[queue.SimpleQueue[str]] = queue.SimpleQueue()
        assert self._process.stdout is not None and self._process.stdin is not None
        self._stdin: Final[IO[str]] = self._process.stdin
        Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stdin.close()
        try:
            self._process.wait(START_S)
        finally:
            self._process.kill()

    def wait_ready(self) -> None:
        """Wait until the volume is open."""
        until = time.monotonic() + START_S
        while not self.has_printed("ready"):
            if time.monotonic() > until:
                raise ProgramFailed("the writer didn't open the volume")
            time.sleep(0.05)

    def begin(self, number: int) -> None:
        """Let it make the writes of a pass."""
        self._stdin.write(f"{number}\n")
        self._stdin.flush()

    def has_printed(self, line: str) -> bool:
        """Return whether the next line is there. Raise ProgramFailed if it is another one."""
        if self._process.poll() is not None:
            text = self._log.read_text("utf-8").splitlines()[-1:]
            raise ProgramFailed(f"the writer ended with {self._process.returncode}: {text}")
        try:
            printed = self._lines.get_nowait()
        except queue.Empty:
            return False
        if printed.strip() != line:
            raise ProgramFailed(f"the writer printed {printed!r}")
        return True

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            self._lines.put(line)


def end_part(run: Run, name: str) -> None:
    """Kill a part of the run, which goes on without it."""
    run.parts.pop(name).kill()


@contextmanager
def served(run: Run, name: str) -> Iterator[str]:
    """Serve a volume by `mirrorlog host serve`; give the URI of its export."""
    command = ["host", "serve", name, "--socket", str(run.folder / f"{name}.sock")]
    part = run.start_part(f"host-{name}", command)
    ready = run.wait_for(
        lambda message: message.part == part.name and message.message_type == "ready", START_S
    )
    try:
        yield str(ready["uri"])
    finally:
        end_part(run, part.name)
