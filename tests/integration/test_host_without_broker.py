"""A real broker stops answering under load, and comes back."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import pytest
from deadlines import DEADLINE_S
from suspending import suspend

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.kafka import KafkaPublisher, KafkaReader
from mirrorlog.cli.demo.run import Run
from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers.durable.disk_folder import DiskFolder
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.reading.catalog import new_volume

pytestmark = pytest.mark.integration

BLOCK, SIZE = 4096, 32 << 20
SMALL = {
    "region_bytes": 64 << 10,
    "hot_regions": 64,
    "host_batch_extents": 50,
    "host_queue_bytes": 20_000,
}


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop the process for the block, without ending it."""
    suspend(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Writers:
    """Two threads that write random blocks until stop() is called, and one that calls tick()."""

    def __init__(self, host: Host, volume: TrackedVolume) -> None:
        self.written, self.errors = 0, list[Exception]()
        self._host, self._volume, self._stop = host, volume, threading.Event()
        jobs = [(self._tick, ()), (self._write, (1,)), (self._write, (2,))]
        self._threads = [threading.Thread(target=job, args=arguments) for job, arguments in jobs]
        for thread in self._threads:
            thread.start()

    def _write(self, seed: int) -> None:
        random = Random(seed)
        try:
            while not self._stop.is_set():
                self._volume.pwrite(
                    random.randbytes(BLOCK), random.randrange(SIZE // BLOCK) * BLOCK
                )
                self.written += 1
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.errors.append(error)

    def _tick(self) -> None:
        while not self._stop.wait(0.005):
            self._host.tick(time.monotonic())

    def wait_for(self, more: int) -> None:
        until, wanted = time.monotonic() + DEADLINE_S, self.written + more
        while self.written < wanted and not self.errors:
            assert time.monotonic() < until
            self._threads[0].join(0.01)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE_S)


def commands(run: Run, volume: Volume) -> list[TrackingCommand]:
    """Return all commands of the volume."""
    reader = KafkaReader(run.settings.kafka_client())
    reader.assign(run.settings.topics.commands, {volume.partition: None})
    sent, until = [], time.monotonic() + DEADLINE_S
    while not reader.at_end(run.settings.topics.commands, volume.partition):
        assert time.monotonic() < until
        sent += [decode(message.value or b"", TrackingCommand) for message in reader.poll(0.2)]
    reader.close()
    return [command for command in sent if command.volume == volume.volume]


@pytest.mark.own_broker
@pytest.mark.parametrize(
    ("spool_bytes", "crashes"), [(64 << 20, False), (64 << 20, True), (10_000, False), (0, True)]
)
def test_hosts_continue_to_write_while_the_broker_is_away(
    spool_bytes: int, crashes: bool, tmp_path: Path, run: Run
) -> None:
    settings = run.settings.model_copy(
        update=SMALL | {"host_spool_bytes": spool_bytes, "host_away_s": 0.5}
    )
    reports: list[str] = []
    path = tmp_path / "primary"
    volume = new_volume(
        "v",
        size_bytes=SIZE,
        block_size=BLOCK,
        primary=path.as_uri(),
        ends=[0] * settings.partitions,
        now_us=1,
    )
    folder = DiskFolder(tmp_path / "host")
    with ExitStack() as stack:
        device = stack.enter_context(FileDevice.create(path, SIZE))
        assert run.broker is not None

        def session() -> tuple[Host, KafkaPublisher]:
            publisher = KafkaPublisher(settings.kafka_client())
            stack.callback(publisher.close)
            ports = HostPorts(folder, publisher, SystemClock(), open_device)
            host = Host(
                "h",
                ports,
                settings,
                {"v": volume},
                report=reports.append,
                deadline_s=DEADLINE_S / 2,  # a broker that was stopped may take long to recover
            )
            return host, publisher

        host, publisher = session()
        writers = Writers(host, host.open(volume, device, newly_created=True))
        stack.callback(writers.stop)
        writers.wait_for(2000)
        with stopped(run.broker.pid):
            before = writers.written
            writers.wait_for(4000)
            assert writers.written >= before + 4000, writers.errors
            if crashes:
                writers.stop()
                publisher.close()
                host.abandon()
            is_spooled = any(
                file.name.startswith("spool") for file in (tmp_path / "host").iterdir()
            )
        if crashes:
            session()[0].close()
        else:
            writers.wait_for(2000)
            writers.stop()
            host.close()
    assert writers.errors == []
    assert is_spooled == (spool_bytes > 0)
    falls_back = [report for report in reports if "counts as dirty as a whole" in report]
    assert bool(falls_back) == (spool_bytes < 1 << 20), falls_back
    check(path, commands(run, volume), exact=spool_bytes > 1 << 20 and not crashes)


def check(path: Path, sent: list[TrackingCommand], *, exact: bool) -> None:
    """Check that every changed block is named, and that each session's commands are in order.

    No command of a session may be missing. exact: no other block may be named.
    """
    named = bytearray(SIZE // BLOCK)
    for command in sent:
        for extent in command.extents:
            first, last = extent.offset // BLOCK, (extent.end - 1) // BLOCK
            named[first : last + 1] = b"\1" * (last + 1 - first)
    content = path.read_bytes()
    changed = bytes(content.count(0, at, at + BLOCK) < BLOCK for at in range(0, SIZE, BLOCK))
    assert sum(changed) > 1000
    assert [number for number in range(len(changed)) if changed[number] and not named[number]] == []
    assert not exact or changed == bytes(named)
    for session in {command.session for command in sent}:
        sequences = [
            command.sequence
            for command in sent
            if command.session == session and command.sequence >= 0
        ]
        fresh = [n for at, n in enumerate(sequences) if n not in sequences[:at]]
        assert fresh == list(range(len(fresh)))
