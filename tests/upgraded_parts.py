"""Parts of an earlier release and of this one on the same topics and folders."""

from __future__ import annotations

import io
import json
import os
import queue
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from deadlines import DEADLINE_S, wait_until

from mirrorlog.processes.child_processes import ChildMessage, ChildProcess

REPOSITORY: Final = Path(__file__).parents[1]


def has_commit(commit: str) -> bool:
    """Return whether this clone holds a commit: one of CI, or of a wheel's source, may not."""
    command = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False).returncode == 0


def install_release(commit: str, folder: Path) -> Path:
    """Build the wheel of a commit, and unpack it; return the folder for PYTHONPATH.

    Its dependencies are those of this environment, because both releases allow them.
    """
    source, target = folder / "source", folder / "installed"
    archived = subprocess.run(
        ["git", "archive", commit], cwd=REPOSITORY, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archived)) as files:
        files.extractall(source, filter="fully_trusted")
    _run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder)],
        source,
    )
    (wheel,) = folder.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile"]
    _run([*pip, "--target", str(target), str(wheel)], folder)
    return target


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Release:
    """One release: how its commands are run. folder: of install_release; None: this release.

    settings: variables MIRRORLOG_* that both releases know.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, str]) -> None:
        kept = {name: value for name, value in os.environ.items() if "MIRRORLOG_" not in name}
        self.environment: Final = {**kept, **settings, "PYTHONSAFEPATH": "1"}
        if folder is not None:
            self.environment["PYTHONPATH"] = str(folder)

    def run(self, *arguments: str) -> dict[str, Any]:
        """Run a command that must succeed; return the last object that it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "mirrorlog", "--json", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        lines = done.stdout.splitlines()
        return json.loads(lines[-1]) if lines else {}

    def code_folder(self) -> Path:
        """Return where Python finds the release."""
        code = "import mirrorlog; print(mirrorlog.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return Path(done.stdout.strip()).parent


class Part:
    """A role as a process, which is replaced by one of another release."""

    def __init__(self, name: str, arguments: Sequence[str], folder: Path) -> None:
        self.name, self._arguments, self._folder = name, arguments, folder
        self._messages: queue.SimpleQueue[ChildMessage] = queue.SimpleQueue()
        self._process: ChildProcess | None = None

    def start(self, release: Release) -> None:
        """Start it, and wait until it is ready."""
        log = self._folder / f"{self.name}.log"
        self._process = ChildProcess(
            self.name, self._arguments, release.environment, log, self._messages
        )
        self._process.start()
        wait_until(self._is_ready, self.check)

    def stop(self) -> None:
        """Stop it in good order."""
        assert self._process is not None
        self.check()
        self._process.signal(signal.SIGTERM)
        self._process.wait(DEADLINE_S)
        assert self._process.exit_code == 0, self._process.log_file.read_text()[-2000:]
        self._process = None

    def upgrade(self, release: Release) -> None:
        """Stop it, and start it as a process of the other release."""
        self.stop()
        self.start(release)

    def check(self) -> None:
        """Raise PartFailed if it has ended by itself."""
        assert self._process is not None
        self._process.check()

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self._process is not None:
            self._process.kill()

    def _is_ready(self) -> bool:
        try:
            return self._messages.get_nowait().message_type == "ready"
        except queue.Empty:
            return False


WRITER: Final = """
import json, signal, sys, time
from mirrorlog.producers import open_volume
from mirrorlog.settings import load_settings

name, journal, first, blocks = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
stops, pauses = [], []
signal.signal(signal.SIGTERM, lambda *_: stops.append(1))
signal.signal(signal.SIGUSR1, lambda *_: pauses.append(1))
signal.signal(signal.SIGUSR2, lambda *_: pauses.clear())
version = first
lines = open(journal, "a", buffering=1)
with open_volume(name, load_settings(), host="h") as volume:
    print(json.dumps({"message_type": "ready"}), flush=True)
    while not stops:
        time.sleep(0.05)
        if pauses:
            continue
        version, block = version + 1, (version + 1) * 7919 % blocks
        volume.pwrite(version.to_bytes(8, "little") * 512, block * 4096)
        print(block, version, file=lines)
"""
"""A host that writes blocks again and again, and notes each write once it is acknowledged.

It rests between SIGUSR1 and SIGUSR2: while it writes, a secondary is hardly ever consistent.
"""


class Writer(Part):
    """A Python program with a tracked volume. It writes all over `blocks` blocks of 4 KiB."""

    def __init__(self, volume: str, folder: Path, blocks: int) -> None:
        super().__init__("host", [], folder)
        self._volume, self._blocks = volume, blocks
        self._journal = folder / "writes"
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self, release: Release) -> None:
        """Start the program, and wait until it has the volume open."""
        last = max((version for _, version in self.writes()), default=0)
        words = [self._volume, str(self._journal), str(last), str(self._blocks)]
        self._popen = subprocess.Popen(
            [sys.executable, "-c", WRITER, *words],
            env=release.environment,
            stdout=subprocess.PIPE,
            stderr=(self._folder / "host.log").open("ab"),
        )
        assert self._popen.stdout is not None
        assert b"ready" in self._popen.stdout.readline(), self._log()

    def stop(self) -> None:
        """Stop it in good order."""
        self.check()
        assert self._popen is not None
        self._popen.send_signal(signal.SIGTERM)
        assert self._popen.wait(DEADLINE_S) == 0, self._log()
        self._popen = None

    def check(self) -> None:
        """Fail if it has ended by itself."""
        assert self._popen is not None
        assert self._popen.poll() is None, self._log()

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Let it write nothing meanwhile. It has the volume open."""
        self.check()
        assert self._popen is not None
        self._popen.send_signal(signal.SIGUSR1)
        try:
            yield
        finally:
            self._popen.send_signal(signal.SIGUSR2)

    def writes(self) -> list[tuple[int, int]]:
        """Return the acknowledged writes so far, as (block, version)."""
        if not self._journal.exists():
            return []
        lines = self._journal.read_text().split("\n")[:-1]
        return [(int(block), int(version)) for block, version in (line.split() for line in lines)]

    def wait_for_writes(self, count: int) -> None:
        """Return when so many more writes are acknowledged."""
        before = len(self.writes())
        wait_until(lambda: len(self.writes()) >= before + count, self.check)

    def _log(self) -> str:
        return (self._folder / "host.log").read_text()[-2000:]
