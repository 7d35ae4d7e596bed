"""A volume that nbdkit serves under the filter, with a host of this process and Kafka in memory."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from threading import Event, RLock, Thread
from typing import Self
from urllib.parse import quote
from uuid import UUID

import pytest

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.nbd_client.libnbd import load_libnbd
from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.nbd_client.nbd_uri import parse_nbd_uri
from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.snapshots import SnapshotExport, parse_description, snapshot_export
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, MirrorlogError
from mirrorlog.ports.clock import SystemClock
from mirrorlog.processes.nbd_server import NbdAddress
from mirrorlog.producers.forks.fork_calls import ForkPorts
from mirrorlog.producers.forks.fork_plans import ForkPlan
from mirrorlog.producers.nbd.export import FilterExport
from mirrorlog.producers.nbd.native import NativeLibraries, build_libraries
from mirrorlog.producers.nbd.nbdkit_process import NbdkitProcess, TlsOptions
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_folder import MemoryFolder

GENERATION = str(UUID(int=7))


def native_libraries(cache_dir: Path) -> NativeLibraries:
    """Build the filter, or skip the test and say why."""
    if shutil.which("nbdkit") is None:
        pytest.skip("nbdkit isn't installed")
    try:
        load_libnbd()
        return build_libraries(cache_dir)
    except BadUse as error:
        pytest.skip(str(error))


class MemoryCommands:
    """A Publisher that acknowledges in poll(), from whichever thread, unless it is away.

    topic: the commands by position. published: called with each command and its position before it
    is acknowledged. publish_s: how long the client takes to take a command.
    """

    last_append = None

    def __init__(self) -> None:
        self.topic: list[TrackingCommand] = []
        self.is_away = False
        self.publish_s = 0.0
        self.published: Callable[[TrackingCommand, int], None] = lambda _command, _position: None
        self._queue: list[tuple[bytes, Callable[[int], None]]] = []
        self._lock = RLock()

    def publish(
        self,
        topic: str,
        partition: int,
        key: bytes,
        value: bytes,
        on_acknowledged: Callable[[int], None] | None = None,
    ) -> None:
        assert on_acknowledged is not None
        time.sleep(self.publish_s)
        with self._lock:
            self._queue.append((value, on_acknowledged))

    def poll(self, timeout_s: float) -> None:
        acknowledged: list[tuple[Callable[[int], None], int]] = []
        with self._lock:
            while self._queue and not self.is_away:
                value, on_acknowledged = self._queue.pop(0)
                command, position = decode(value, TrackingCommand), len(self.topic)
                self.topic.append(command)
                self.published(command, position)
                acknowledged.append((on_acknowledged, position))
        for call, position in acknowledged:
            call(position)
        if not acknowledged:
            Event().wait(min(timeout_s, 0.005))

    def flush(self, deadline_s: float) -> None:
        self.poll(0)

    def close(self) -> None:
        pass


class ServedVolume:
    """A new volume `name`, served until the `with` block ends.

    kept: the bytes that snapshots may keep in memory and in the file.
    is_slow: each write of nbdkit and each command take some milliseconds.
    forks: how the volume is forked, and through which ports.
    """

    def __init__(
        self,
        native: NativeLibraries,
        folder: Path,
        size_bytes: int,
        *,
        kept: tuple[int, int] = (1 << 20, 64 << 20),
        is_slow: bool = False,
        name: str = "v",
        forks: tuple[ForkPlan, ForkPorts] | None = None,
        **settings: object,
    ) -> None:
        self.volume = Volume(
            volume=name,
            generation=GENERATION,
            size_bytes=size_bytes,
            block_size=4096,
            partition=0,
            origin_position=-1,
            initially_zeroed=True,
            primary=name,
        )
        self.commands = MemoryCommands()
        self.image = folder / "primary"
        self._folder, self._native = folder, native
        self._is_slow = is_slow
        self._plan, self._fork_ports = forks or (None, None)
        self._settings = Settings(
            host_linger_s=0.01,
            host_heartbeat_s=0.05,
            region_bytes=1 << 20,
            host_snapshot_memory_bytes=kept[0],
            host_snapshot_disk_bytes=kept[1],
        ).model_copy(update=settings)
        self._stop = Event()
        self._ticker = Thread(target=self._tick)

    def __enter__(self) -> Self:
        device = FileDevice.create(self.image, self.volume.size_bytes)
        ports = HostPorts(
            MemoryFolder(),
            self.commands,  # type: ignore[arg-type]
            SystemClock(),
            lambda _address, *, writable: FileDevice(self.image, writable=writable),
            forks=self._fork_ports,
        )
        self.host = Host("host", ports, self._settings, {self.volume.volume: self.volume})
        request = OpenRequest(self.volume, device, newly_created=True, forks=self._plan)
        self._tracked = self.host.open_all([request])[self.volume.volume]
        lock_fd = os.open(self._folder, os.O_RDONLY)
        self._export = FilterExport(
            self._native, self._tracked, self.image, lock_fd, self._folder, self._settings, print
        )
        arguments = list(self._export.nbdkit_arguments)
        if self._is_slow:
            self.commands.publish_s = 0.002
            arguments[1:1] = ["--filter=delay"]
            arguments += ["delay-write=8ms"]
        self.nbdkit = NbdkitProcess(
            arguments,
            NbdAddress(self._folder / "s"),
            TlsOptions(),
            self._folder / "pid",
            pass_fds=self._export.pass_fds,
        )
        os.close(lock_fd)
        self._export.after_start()
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.nbdkit.kill()
        self._export.close()
        self._stop.set()
        self._ticker.join()
        self.commands.is_away = False
        with suppress(MirrorlogError):
            self.host.close()

    def _tick(self) -> None:
        while not self._stop.is_set():
            self.host.pause(0.005)

    def connect(self, export: str = "", *, writable: bool = False) -> NbdDevice:
        """Connect to an export."""
        uri = f"nbd+unix:///{quote(export)}?socket={quote(str(self._folder / 's'))}"
        return NbdDevice(parse_nbd_uri(uri), writable=writable, reconnects=False)

    def snapshot(self, token: str) -> tuple[NbdDevice, SnapshotExport]:
        """Open a snapshot."""
        device = self.connect(snapshot_export(token))
        described = parse_description(device.description)
        assert isinstance(described, SnapshotExport)
        return device, described


def drawn_blocks(random: Random, blocks: range) -> Iterator[int]:
    """Yield blocks for ever, half of them from the first few."""
    while True:
        yield random.choice(blocks[: 1 + len(blocks) // 8] if random.random() < 0.5 else blocks)
