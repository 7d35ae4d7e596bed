"""PostgreSQL under load is whole in each snapshot of the volume that it writes to.

Its data are on ext4, on a loop device over nbdfuse, on a volume that a host exports. Each snapshot
is what a secondary holds that was read from it. It is mounted as after a power cut, and PostgreSQL
recovers on it. All of this needs root, and no Kafka.
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
from served_volume import ServedVolume, native_libraries

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.range_locks import pieces
from mirrorlog.processes.dies_with_parent import dies_with_parent
from mirrorlog.producers.nbd.native import NativeLibraries
from mirrorlog.settings import load_settings


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

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.skipif(BIN is None, reason="PostgreSQL isn't installed: apt install postgresql"),
    pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)}"),
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="there is no /dev/fuse"),
]

SIZE: Final = 192 << 20
POSITIONS: Final = 20
USER: Final = "nobody"
SETTINGS: Final = ("listen_addresses=", "shared_buffers=8MB", "max_connections=5")


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
def on_volume(uri: str, folder: Path) -> Iterator[Path]:
    """Mount the file system of an NBD export."""
    at = folder / "fuse"
    at.mkdir()
    fuse = subprocess.Popen(dies_with_parent(["nbdfuse", str(at), uri]))
    try:
        wait_until((at / "nbd").exists, lambda: _check(fuse.poll() is None, "nbdfuse"))
        with loop_mounted(at / "nbd", folder / "mounted") as mounted:
            yield mounted
    finally:
        call("umount", at)
        fuse.wait(DEADLINE_S)


def prepare(image: Path, folder: Path) -> None:
    """Make a file system with an empty database in a file."""
    with image.open("wb") as file:
        file.truncate(SIZE)
    call("mkfs.ext4", "-q", "-F", image)
    assert BIN is not None
    with loop_mounted(image, folder / "prepared") as mounted:
        data = mounted / "data"
        data.mkdir()
        shutil.chown(data, USER, "nogroup")
        options = ("--wal-segsize=1", "--no-sync", "--auth=trust", f"--username={USER}")
        call(*as_user(BIN / "initdb", "-D", data, *options))


def recovered(image: Path, folder: Path) -> tuple[int, int]:
    """Let PostgreSQL recover on a copy of an image. Return the highest number, and how many."""
    copy = folder / "copy.img"
    call("cp", "--sparse=always", image, copy)
    with loop_mounted(copy, folder / "recovered") as mounted, ExitStack() as stack:
        (mounted / "data" / "postmaster.pid").unlink(missing_ok=True)  # its process is elsewhere
        stack.enter_context(postgres(mounted / "data", folder / "sockets-2"))
        answer = asked(folder / "sockets-2", "SELECT max(number), count(*) FROM ledger")
        assert answer is not None
        highest, count = answer.split("|")
        return int(highest), int(count)


@pytest.fixture(scope="module")
def native() -> NativeLibraries:
    return native_libraries(load_settings(None, {}).cache_dir)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may enter, too."""
    with tempfile.TemporaryDirectory(prefix="mirrorlog-pg-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def fill(served: ServedVolume, image: Path) -> None:
    """Write what an image holds to a volume."""
    with FileDevice(image, writable=False) as source, served.connect(writable=True) as target:
        for start, length in source.allocated():
            for offset, size in pieces(offset=start, length=length, most_bytes=1 << 20):
                target.pwrite(offset, source.pread(offset=offset, length=size))
        target.flush()


def copy_of(device: NbdDevice, path: Path) -> Path:
    """Write what a device holds to a file, its zeros as holes."""
    path.unlink(missing_ok=True)
    with FileDevice.create(path, SIZE) as target:
        for offset in range(0, SIZE, 1 << 20):
            if any(data := device.pread(offset=offset, length=1 << 20)):
                target.pwrite(offset, data)
    return path


def test_postgres_recovers_in_each_snapshot_of_its_volume(
    native: NativeLibraries, folder: Path
) -> None:
    """A secondary at a consistent position holds what such a snapshot holds."""
    prepare(folder / "base.img", folder)
    kept = (1 << 20, 512 << 20)
    positions = []
    with ExitStack() as stack:
        served = stack.enter_context(ServedVolume(native, folder, SIZE, kept=kept))
        fill(served, folder / "base.img")
        sockets = folder / "sockets"
        mounted = stack.enter_context(on_volume(f"nbd+unix:///?socket={folder / 's'}", folder))
        stack.enter_context(postgres(mounted / "data", sockets))
        assert asked(sockets, "CREATE TABLE ledger (number int PRIMARY KEY, filling text)") == ""
        inserts = Inserts(sockets)
        stack.callback(inserts.end)
        for number in range(POSITIONS):
            inserts.wait_for(20 * (number + 1))
            first = inserts.acknowledged
            snapshot, _ = served.snapshot(f"s{number}")
            last = inserts.begun
            with snapshot:
                image = copy_of(snapshot, folder / f"snapshot-{min(number, 2)}.img")
            highest, count = recovered(image, folder)
            assert first <= highest <= last and count == highest, (first, highest, last, count)
            positions.append(highest)
    assert positions == sorted(positions) and len(set(positions)) > POSITIONS // 2
    torn = read_in_two_moments(folder / "snapshot-1.img", image, folder / "torn.img")
    assert not is_whole(torn, folder, at_least=positions[-1])


def read_in_two_moments(first: Path, second: Path, path: Path) -> Path:
    """Write the even MiB of one image and the odd ones of another to a file."""
    images = [first.read_bytes(), second.read_bytes()]
    with path.open("wb") as file:
        for number in range(SIZE >> 20):
            file.write(images[number % 2][number << 20 : number + 1 << 20])
    return path


def is_whole(image: Path, folder: Path, *, at_least: int) -> bool:
    """Return whether PostgreSQL recovers on an image, with all numbers through `at_least`."""
    try:
        highest, count = recovered(image, folder)
    except AssertionError:
        return False
    return count == highest >= at_least
