"""Real NBD clients write through `mirrorlog host serve`, and two sites end with the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Self

import psutil
import pytest
import trustme
from deadlines import DEADLINE_S, wait_until
from nbd_servers import Nbdkit, skip_without, write_certificates
from running import Outcome, wait_for_result
from shared_brokers import SharedBroker

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.waiting import wait_until_consistent
from mirrorlog.consumers.resync.state_changes import SecondaryChange
from mirrorlog.consumers.wiring import run_site
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.errors import DeviceFailed
from mirrorlog.processes.child_processes import ChildProcess
from mirrorlog.reading.catalog import new_volume, publish_volume
from mirrorlog.settings import inherited_environment, load_settings

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit isn't installed"),
]

MIB = 1 << 20
SIZE = 48 * MIB
SITES = ("site-a", "site-b")


@pytest.fixture(scope="module")
def run(shared_broker: SharedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Yield a run with a node and two sites for all tests.

    Few regions may be hot, so that they change often.
    """
    folder = tmp_path_factory.mktemp("nbd")
    given = {
        "state_dir": folder / "state",
        "topic_prefix": f"n{zlib.crc32(str(folder).encode()):08x}.",
        "bootstrap_servers": shared_broker.bootstrap_servers,
        "region_bytes": MIB,
        "hot_regions": 8,
    }
    with Run(folder / "run", load_settings(None, given), own_broker=False) as started:
        started.start_broker()
        started.start_node()
        for site in SITES:
            started.start_site(site)
        started.wait_ready("node", *SITES)
        yield started


class Served:
    """A new volume with an NBD export, which runs until it is stopped."""

    def __init__(self, run: Run, name: str, *options: str) -> None:
        self.run, self.name, self.options = run, name, options
        self.primary = run.folder / "primary" / f"{name}.img"
        self.socket = run.folder / f"{name}.sock"
        self.primary.parent.mkdir(exist_ok=True)
        FileDevice.create(self.primary, SIZE).close()
        admin, publisher = (
            KafkaAdmin(run.settings.kafka_client()),
            KafkaPublisher(run.settings.kafka_client()),
        )
        topic = run.settings.topics.commands
        ends = [admin.end_position(topic, number) for number in range(admin.partitions(topic))]
        publish_volume(
            publisher,
            run.settings.topics,
            new_volume(
                name,
                size_bytes=SIZE,
                block_size=4096,
                primary=self.primary.as_uri(),
                ends=ends,
                now_us=1,
            ),
        )
        publisher.flush(DEADLINE_S)
        publisher.close()
        admin.close()
        self.uri = self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.run.parts.pop("host", None) is not None:
            self.part.kill()

    def start(self) -> str:
        """Start the export, and return its URI when clients can connect."""
        arguments = ["host", "serve", self.name, "--socket", str(self.socket), *self.options]
        environment = {**inherited_environment(), **self.run.settings.as_environment()}
        self.part = ChildProcess(
            "host", arguments, environment, self.run.folder / f"{self.name}.log", self.run.messages
        )
        self.run.parts["host"] = self.part
        self.part.start()
        ready = self.run.wait_for(
            lambda m: m.part == "host" and m.message_type == "ready", DEADLINE_S
        )
        self.through = ready["through"]
        return str(ready["uri"])

    @property
    def nbdkit(self) -> psutil.Process:
        """Return nbdkit's process."""
        [nbdkit] = [
            child for child in psutil.Process(self.part.pid).children() if child.name() == "nbdkit"
        ]
        return nbdkit

    def kill(self, who: str) -> None:
        """Kill processes with SIGKILL. The others end by themselves."""
        victims = [self.nbdkit] if who == "nbdkit" else [psutil.Process(self.part.pid)]
        victims += [self.nbdkit] if who == "both" else []
        nbdkit = self.nbdkit
        for victim in victims:
            victim.kill()
        self.part.wait(DEADLINE_S)
        psutil.wait_procs([nbdkit], timeout=DEADLINE_S)
        assert not nbdkit.is_running()
        del self.run.parts["host"]

    def stop(self) -> dict[str, int]:
        """Stop the host in order, and return its last positions."""
        self.part.signal(signal.SIGTERM)
        positions = wait_for_result(self.run)["last_positions"]
        self.part.wait(DEADLINE_S)
        assert self.part.exit_code == 0
        del self.run.parts["host"]
        assert not self.socket.exists()
        return dict(positions)

    def check_sites(self) -> None:
        """Stop, and check that both sites become consistent and equal the primary."""
        positions = self.stop()
        outcome = Outcome(self.run)
        outcome.volumes = {self.name: outcome.volumes[self.name]}
        for site in SITES:
            outcome.wait_consistent(site, positions)
            assert outcome.identical(site)


def tool(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{name} isn't installed")
    return path


def call(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return an image of a disk with data, holes and zeros."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(SIZE)
        for start in range(0, SIZE, 5 * MIB):
            file.seek(start)
            file.write(os.urandom(MIB + 512 * (start // MIB)) + bytes(8192))
    return path


@contextmanager
def fused(uri: str, folder: Path) -> Iterator[Path]:
    """Give the export as a file."""
    nbdfuse = tool("nbdfuse")
    if not os.access("/dev/fuse", os.W_OK) or os.geteuid() != 0:
        pytest.skip("no /dev/fuse for this user")
    (folder / "mnt").mkdir()
    with subprocess.Popen([nbdfuse, folder / "mnt", uri]) as process:
        file = folder / "mnt" / "nbd"
        try:
            wait_until(file.exists)
            yield file
        finally:
            call("umount", folder / "mnt")
            process.wait(30)


@contextmanager
def mounted(file: Path, folder: Path) -> Iterator[Path]:
    """Mount the ext4 of the file."""
    (folder / "fs").mkdir()
    done = call("mount", "-o", "loop", file, folder / "fs", check=False)
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield folder / "fs"
    finally:
        call("umount", folder / "fs")


@pytest.mark.parametrize("through", ["filter", "plugin"])
def test_nbdcopy(run: Run, image: Path, tmp_path: Path, through: str) -> None:
    nbdcopy, nbdinfo = tool("nbdcopy"), tool("nbdinfo")
    with Served(run, f"copy-{through}", "--through", through) as served:
        features = call(nbdinfo, served.uri).stdout
        for feature in ("flush", "fua", "trim", "zero", "multi_conn"):
            assert f"can_{feature}: true" in features
        assert "base:allocation" in features
        call(nbdcopy, image, served.uri)
        call(nbdcopy, served.uri, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == image.read_bytes()
        holes = [
            line
            for line in call(nbdinfo, "--map", served.uri).stdout.splitlines()
            if "hole,zero" in line
        ]
        assert len(holes) > 3
        served.check_sites()


def test_qemu_img_and_qemu_io(run: Run, image: Path) -> None:
    qemu_img, qemu_io = tool("qemu-img"), tool("qemu-io")
    with Served(run, "qemu") as served:
        call(qemu_img, "convert", "-n", "-f", "raw", "-O", "raw", image, served.uri)
        commands = [
            "write -P 7 4k 1M",
            "write -f -P 9 10M 100k",
            "write -z 20M 3M",
            "write -z -u 30M 3M",
            "discard 8M 5M",
        ]
        commands += [
            "aio_write -P 3 40M 64k",
            "aio_write -P 4 40M 512",
            "aio_flush",
            "flush",
            "read -P 7 4k 1M",
        ]
        done = call(
            qemu_io, "-f", "raw", *(word for line in commands for word in ("-c", line)), served.uri
        )
        assert "verification failed" not in done.stdout
        assert (
            "identical"
            in call(
                qemu_img, "compare", "-f", "raw", "-F", "raw", served.uri, served.primary
            ).stdout
        )
        served.check_sites()


def test_fio_verifies_what_it_wrote(run: Run) -> None:
    fio = tool("fio")
    if "nbd" not in call(fio, "--enghelp").stdout.split():
        pytest.skip("this fio has no nbd engine")
    with Served(run, "fio") as served:
        call(fio, *fio_job(served.uri, "16m"))
        served.check_sites()


def fio_job(uri: str, size: str) -> list[str]:
    kind = [
        "--name=job",
        "--ioengine=nbd",
        "--rw=randrw",
        "--rwmixwrite=80",
        "--bsrange=512-64k",
        "--iodepth=16",
    ]
    # fio would leave the state of its check in the folder of the tests.
    verify = ["--verify=crc32c", "--verify_backlog=64", "--verify_state_save=0"]
    rest = ["--fsync=100", "--allow_file_create=0"]
    return [*kind, *verify, *rest, f"--size={size}", f"--uri={uri}"]


def test_a_file_system_with_a_database(run: Run, tmp_path: Path) -> None:
    mke2fs, debugfs = tool("mke2fs"), tool("debugfs")
    with Served(run, "fs") as served:
        with fused(served.uri, tmp_path) as file:
            call(mke2fs, "-q", "-F", "-t", "ext4", file)
            (tmp_path / "word").write_text("a word\n" * 5000)
            call(debugfs, "-w", "-R", f"write {tmp_path / 'word'} word", file)
            with mounted(file, tmp_path) as folder:
                with sqlite3.connect(folder / "base.db", isolation_level=None) as base:
                    base.execute("PRAGMA journal_mode = WAL")
                    base.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)")
                    for number in range(60):
                        base.execute(
                            "INSERT INTO t (v) VALUES (?)", (os.urandom(1000 + 200 * number),)
                        )
                    base.execute("DELETE FROM t WHERE k % 3 = 0")
                    base.execute("VACUUM")
                base.close()
                (folder / "word").unlink()
                call("fstrim", folder, check=False)
        served.check_sites()
        for site in SITES:
            copy = tmp_path / f"{site}.db"
            call(debugfs, "-R", f"dump base.db {copy}", run.folder / site / "fs.img")
            with sqlite3.connect(copy) as base:
                assert base.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                assert base.execute("SELECT count(*) FROM t").fetchone() == (40,)
            base.close()


@pytest.mark.parametrize("who", ["nbdkit", "host", "both"])
def test_killed_in_the_middle_and_served_again(run: Run, who: str) -> None:
    qemu_img = tool("qemu-img")
    with Served(run, f"killed-{who}") as served:
        bench = [
            qemu_img,
            "bench",
            "-w",
            "-d",
            "16",
            "-s",
            "16384",
            "-c",
            "200000",
            "-t",
            "none",
            "-f",
            "raw",
            served.uri,
        ]
        with subprocess.Popen(
            bench, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as client:
            wait_until(lambda: served.nbdkit.io_counters().write_chars > 60 * MIB)
            snapshot = open_device(
                served.uri.replace(":///", ":///mirrorlog-snapshot/t"), writable=False
            )
            held = snapshot.pread(offset=0, length=8 * MIB)
            assert snapshot.pread(offset=0, length=8 * MIB) == held
            served.kill(who)
            assert client.wait(30) != 0
        with snapshot, pytest.raises(DeviceFailed):
            snapshot.pread(offset=0, length=4096)
        served.start()
        call(tool("qemu-io"), "-f", "raw", "-c", "write -P 5 1M 1M", "-c", "flush", served.uri)
        served.check_sites()


def test_neither_a_read_only_client_nor_a_second_host_can_write(run: Run) -> None:
    qemu_io, nbdinfo = tool("qemu-io"), tool("nbdinfo")
    with Served(run, "calm", "--read-only") as served:
        assert "is_read_only: true" in call(nbdinfo, served.uri).stdout
        assert (
            call(qemu_io, "-f", "raw", "-c", "write 0 4k", served.uri, check=False).returncode != 0
        )
        second = [
            sys.executable,
            "-m",
            "mirrorlog",
            "--json",
            "host",
            "serve",
            "calm",
            "--socket",
            str(served.socket),
        ]
        environment = {**os.environ, **run.settings.as_environment()}
        done = subprocess.run(
            second, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        assert done.returncode == 2
        assert "another process on this machine writes to the primary" in done.stdout
        served.check_sites()


def test_tls_with_nbdkits_own_options(run: Run, tmp_path: Path) -> None:
    nbdinfo = tool("nbdinfo")
    keys = tmp_path / "keys"
    keys.write_text(f"alice:{os.urandom(32).hex()}\n")
    with Served(run, "secret", "--tls", "require", "--tls-psk", str(keys)) as served:
        assert served.uri.startswith("nbds+unix://")
        assert call(nbdinfo, served.uri.replace("nbds", "nbd"), check=False).returncode != 0
        info = call(nbdinfo, f"{served.uri.replace('://', '://alice@')}&tls-psk-file={keys}")
        assert "with TLS" in info.stdout
        served.check_sites()


def test_a_site_reads_its_primary_from_the_host_over_tls(run: Run, tmp_path: Path) -> None:
    """The site's secondary is an export, too. Both sides show their certificates."""
    image_server = Nbdkit(tmp_path)
    skip_without(image_server)
    FileDevice.create(image_server.image, SIZE).close()
    image_server.start()
    authority = trustme.CA()
    server = write_certificates(tmp_path / "server", authority, "server", "localhost")
    client = write_certificates(tmp_path / "client", authority, "client", "site.example")
    tls = ("--tls", "require", "--tls-certificates", str(server), "--tls-verify-peer")
    with Served(run, "afar", *tls) as served:
        address = f"{served.uri}&tls-certificates={client}"
        options = ["--primary", f"afar={address}", "--secondary", f"afar={image_server.uri}"]
        site = run.start_part(
            "afar", ["site", "run", "afar", "--dir", str(tmp_path / "a"), *options]
        )
        try:
            with open_device(address, writable=True) as device:
                for offset in (0, 5 * MIB, SIZE - 512):
                    device.pwrite(offset, os.urandom(512))
                device.zero(offset=6 * MIB, length=MIB)
                device.flush()
            wait_until(lambda: served.primary.read_bytes() == image_server.image.read_bytes())
            reports = wait_until_consistent(run.settings, "afar", DEADLINE_S)
            assert {report.site for report in reports} >= {"afar"}
        finally:
            site.kill()
            del run.parts["afar"]
            image_server.kill()


def test_a_volume_that_is_never_quiet_has_consistent_positions(run: Run, tmp_path: Path) -> None:
    """At each, the secondary holds the first writes of the only writer, and none of the later."""
    stopped, positions = threading.Event(), list[int | None]()
    blocks: list[int] = []

    def write_without_a_pause() -> None:
        random = Random(1)
        with open_device(served.uri, writable=True) as device:
            while not stopped.is_set():
                for _ in range(20):  # 2,000 a second
                    blocks.append(random.randrange(2048))
                    device.pwrite(blocks[-1] * 4096, len(blocks).to_bytes(8, "big") * 512)
                stopped.wait(0.01)

    def on_change(change: SecondaryChange) -> None:
        if change.state is SiteState.CONSISTENT and (change.position or -1) >= 0:
            positions.append(change.position)

    with Served(run, "busy", "--through", "filter") as served:
        settings = run.settings.model_copy(
            update={
                "site_primaries": {"busy": served.uri},
                "site_volumes": ("busy",),
                "site_snapshot_s": 0.2,
            }
        )
        writer = threading.Thread(target=write_without_a_pause)
        writer.start()
        until_s = time.monotonic() + DEADLINE_S
        try:
            run_site(
                "never-quiet",
                tmp_path / "site",
                settings,
                stopped=lambda: len(set(positions)) == 3 or time.monotonic() > until_s,
                on_change=on_change,
            )
        finally:
            stopped.set()
            writer.join()
    assert len(set(positions)) == 3
    data = (tmp_path / "site" / "busy.img").read_bytes()
    held = [int.from_bytes(data[block * 4096 : block * 4096 + 8], "big") for block in range(2048)]
    last = {}
    for number, block in enumerate(blocks[: max(held)], 1):
        last[block] = number
    assert held == [last.get(block, 0) for block in range(2048)]


def test_without_nbdkit_the_error_says_what_to_install(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mirrorlog", "host", "serve", "v"]
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 2
    assert "apt install nbdkit" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
