"""PostgreSQL on ext4 on a volume: its load, its power cut, and its recovery. All needs root.

A volume is mounted by a loop device over nbdfuse. The write-ahead log may be on a volume of its
own: the folder `wal` of that volume, to which a link in the data leads.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Final

import pytest
from deadlines import DEADLINE_S, wait_until

from mirrorlog.processes.dies_with_parent import dies_with_parent


def _postgres_bin() -> Path | None:
    """Return the folder of PostgreSQL's programs; None if it isn't installed."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if programs:
        return programs[-1].parent
    path = shutil.which("initdb")
    return None if path is None else Path(path).resolve().parent


BIN: Final = _postgres_bin()
_TOOLS: Final = ("nbdkit", "nbdfuse", "losetup", "mkfs.ext4", "mount", "umount", "setpriv")
_MISSING: Final = [tool for tool in _TOOLS if shutil.which(tool) is None]

MARKS: Final = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.skipif(BIN is None, reason="PostgreSQL isn't installed: apt install postgresql"),
    pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)}"),
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="there is no /dev/fuse"),
]

SIZE: Final = 192 << 20
USER: Final = "nobody"
SETTINGS: Final = (
    "listen_addresses=",
    "shared_buffers=8MB",
    "max_connections=5",
    "max_wal_size=16MB",
)


@contextmanager
def open_folder() -> Iterator[Path]:
    """Yield a folder that other users may enter, too. It is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="mirrorlog-pg-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def call(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def as_user(*command: str | Path) -> list[str]:
    """Return a command line that runs as a user, because PostgreSQL refuses to run as root."""
    user = ("setpriv", f"--reuid={USER}", "--regid=nogroup", "--clear-groups", "--")
    return [*user, *map(str, command)]


@contextmanager
def loop_mounted(file: Path, at: Path) -> Iterator[Path]:
    """Mount the file system in a file."""
    at.mkdir(exist_ok=True)
    device = call("losetup", "--find", "--show", file).strip()
    try:
        call("mount", "-t", "ext4", device, at)
        try:
            yield at
        finally:
            call("umount", at)
    finally:
        call("losetup", "--detach", device)


@contextmanager
def postgres(data: Path, sockets: Path) -> Iterator[None]:
    """Run PostgreSQL until the block ends; then kill it."""
    sockets.mkdir(exist_ok=True)
    shutil.chown(sockets, USER)
    assert BIN is not None
    log, settings = sockets / "log", [f"--{setting}" for setting in SETTINGS]
    with log.open("wb") as output:
        server = subprocess.Popen(
            dies_with_parent(as_user(BIN / "postgres", "-D", data, "-k", sockets, *settings)),
            stdout=output,
            stderr=output,
            cwd="/",
        )
    try:
        wait_until(
            lambda: asked(sockets, "SELECT 1") == "1",
            lambda: _check(server.poll() is None, log.read_text()),
            every_s=0.05,
        )
        yield
    finally:
        server.send_signal(signal.SIGQUIT)  # immediate: it writes nothing more
        server.wait(DEADLINE_S)


def _check(is_so: bool, why: str) -> None:
    assert is_so, why


def asked(sockets: Path, query: str) -> str | None:
    """Return what a query answers; None if it fails."""
    assert BIN is not None
    command = as_user(BIN / "psql", "-h", sockets, "-U", USER, "-Atqc", query, "postgres")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd="/")
    return done.stdout.strip() if done.returncode == 0 else None


class Inserts:
    """Inserts 1, 2, 3 and so on, each in a transaction of its own.

    begun, acknowledged: the last number that was sent, and that was committed.
    """

    def __init__(self, sockets: Path) -> None:
        assert BIN is not None
        command = as_user(BIN / "psql", "-h", sockets, "-U", USER, "-Atq", "postgres")
        self.begun = self.acknowledged = 0
        self._stop = Event()
        self._client = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
        )
        self._thread = Thread(target=self._insert)
        self._thread.start()

    def _insert(self) -> None:
        assert self._client.stdin is not None and self._client.stdout is not None
        while not self._stop.is_set():
            self.begun += 1
            query = f"INSERT INTO ledger VALUES ({self.begun}, repeat('x', 200)) RETURNING number;"
            self._client.stdin.write(query + "\n")
            self._client.stdin.flush()
            if self._client.stdout.readline().strip() != str(self.begun):
                return
            self.acknowledged = self.begun

    def check(self) -> None:
        """Fail if the client has ended."""
        assert self._thread.is_alive()

    def wait_for(self, number: int) -> None:
        """Wait until a number is committed."""
        wait_until(lambda: self.acknowledged >= number, self.check)

    def end(self) -> None:
        """End the client."""
        self._stop.set()
        self._thread.join(DEADLINE_S)
        self._client.communicate()


@contextmanager
def on_volume(uri: str, at: Path) -> Iterator[Path]:
    """Mount the file system of an NBD export. at: a folder that isn't there yet."""
    at.mkdir()
    fuse = subprocess.Popen(dies_with_parent(["nbdfuse", str(at), uri]))
    try:
        wait_until((at / "nbd").exists, lambda: _check(fuse.poll() is None, "nbdfuse"))
        with loop_mounted(at / "nbd", at.with_name(f"{at.name}-mounted")) as mounted:
            yield mounted
    finally:
        call("umount", at)
        fuse.wait(DEADLINE_S)


def prepare(image: Path, folder: Path, wal: Path | None = None) -> None:
    """Make a file system with an empty database in a file. wal: the file for its log, if any."""
    assert BIN is not None
    with ExitStack() as stack:
        mounted = stack.enter_context(_made(image, folder / "prepared"))
        data = mounted / "data"
        options = ["--wal-segsize=1", "--no-sync", "--auth=trust", f"--username={USER}"]
        if wal is not None:
            at = stack.enter_context(_made(wal, folder / "prepared-wal"))
            options.append(f"--waldir={at / 'data'}")
        call(*as_user(BIN / "initdb", "-D", data, *options))


@contextmanager
def _made(image: Path, at: Path) -> Iterator[Path]:
    """Make a file system in a file, with a folder `data` for the database's user. Mount it."""
    with image.open("wb") as file:
        file.truncate(SIZE)
    call("mkfs.ext4", "-q", "-F", image)
    with loop_mounted(image, at) as mounted:
        (mounted / "data").mkdir()
        shutil.chown(mounted / "data", USER, "nogroup")
        yield mounted


def link_wal(mounted: Path, wal: Path) -> None:
    """Let the data of a database lead to its log, where that is mounted now."""
    link = mounted / "data" / "pg_wal"
    link.unlink()
    link.symlink_to(wal / "data")


def recovered(image: Path, folder: Path, wal: Path | None = None) -> tuple[int, int]:
    """Let PostgreSQL recover on a copy of an image. Return the highest number, and how many.

    wal: the image of its log, if that is apart.
    """
    copies = [folder / "copy.img"] + ([folder / "copy-wal.img"] if wal else [])
    for source, copy in zip([image] + ([wal] if wal else []), copies, strict=True):
        call("cp", "--sparse=always", source, copy)
    with ExitStack() as stack:
        mounted, *of_wal = [
            stack.enter_context(loop_mounted(copy, folder / f"recovered-{number}"))
            for number, copy in enumerate(copies)
        ]
        if of_wal:
            link_wal(mounted, of_wal[0])
        (mounted / "data" / "postmaster.pid").unlink(missing_ok=True)  # its process is elsewhere
        stack.enter_context(postgres(mounted / "data", folder / "sockets-2"))
        answer = asked(folder / "sockets-2", "SELECT max(number), count(*) FROM ledger")
        assert answer is not None
        highest, count = answer.split("|")
        return int(highest), int(count)


def read_in_two_moments(first: Path, second: Path, path: Path) -> Path:
    """Write the even MiB of one image and the odd ones of another to a file."""
    images = [first.read_bytes(), second.read_bytes()]
    with path.open("wb") as file:
        for number in range(SIZE >> 20):
            file.write(images[number % 2][number << 20 : number + 1 << 20])
    return path


def is_whole(image: Path, folder: Path, *, at_least: int, wal: Path | None = None) -> bool:
    """Return whether PostgreSQL recovers on an image, with all numbers through `at_least`."""
    try:
        highest, count = recovered(image, folder, wal)
    except AssertionError:
        return False
    return count == highest >= at_least
