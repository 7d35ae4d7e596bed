"""A volume and the host that it needs, in one: for programs that write to a volume themselves."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from threading import Event, Lock, Thread
from typing import Final, TypedDict, Unpack

from mirrorlog.adapters.file_device import open_device, open_primary
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.errors import BadUse, DeviceFailed, MirrorlogError
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers.durable.disk_folder import DiskFolder
from mirrorlog.producers.forks.fork_calls import ThreadWorkers
from mirrorlog.producers.forks.fork_plans import ForkNews, fork_plans
from mirrorlog.producers.forks.forked_volume import ForkPorts
from mirrorlog.producers.publishing.confirmations import StatusPorts
from mirrorlog.producers.session.host import Host, HostPorts, OpenRequest
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.open_sessions import SessionPorts
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.settings import Settings, load_settings

log = logging.getLogger("mirrorlog.host")
TICK_S: Final = 0.01
GROUND_S: Final = 5.0


class OpenOptions(TypedDict, total=False):
    """How open_volume() opens a volume.

    host: the name of the host, which keeps its state under it; one of a machine's own for the volume unless it is given.
    primary: where this machine reaches the primary, if not as described. direct: with O_DIRECT, past the page cache.
    take_over: sessions of other hosts that are gone for good; the whole volume is dirty then. report: what people should hear
    of; the log `mirrorlog.host` unless it is given.
    forks: secondaries that its writes go to, too, each SITE or SITE=URI; fork_mode: sync, async or 'quorum N'
    (docs/forked-writes.md).
    """

    host: str
    primary: str
    direct: bool
    take_over: Collection[str]
    report: Callable[[str], None]
    forks: Sequence[str]
    fork_mode: str


def host_name(volume: str) -> str:
    """The host on this machine that writes to the volume, whatever it is that writes: one activity log vouches for it."""
    return f"host-{volume}"


def kafka_fork_ports(
    settings: Settings, hear: Callable[[ForkNews], None], stack: ExitStack
) -> ForkPorts:
    """What a host with forked volumes needs, until the stack is closed."""
    client = settings.kafka_client()
    admin = KafkaAdmin(client)
    stack.callback(admin.close)
    reader = KafkaReader(client)
    stack.callback(reader.close)
    reports = SiteReports(reader, admin, settings.topics, SystemClock())
    return ForkPorts(open_device, ThreadWorkers(), reports, hear)


def open_volume(
    name: str, settings: Settings | None = None, **options: Unpack[OpenOptions]
) -> TrackedVolume:
    """The volume, open for writing until its close(), which ends everything that was begun for it.

    settings: read from the environment unless they are given.
    Errors: BadUse where there is no such volume, or another host has it open; those of Host and Host.open_all().
    """
    settings = load_settings() if settings is None else settings
    return _VolumeSession(name, settings, options).volume


class _VolumeSession:
    """One host for one volume, and the thread that ticks."""

    def __init__(self, name: str, settings: Settings, options: OpenOptions) -> None:
        """What comes up first goes down last:

        1. The volume's description is read.
        2. The primary is opened, and kept from others on this machine.
        3. The host publishes what its last session left behind, and opens the volume.
        4. The thread ticks: batches and heartbeats leave when they are due.
        """
        self._report: Final = options.get("report", log.warning)
        self._closing: Final = Lock()
        self._stop: Final = Event()
        self._ticker: Final = Thread(target=self._tick, name=f"mirrorlog-{name}", daemon=True)
        self._told = ""
        with ExitStack() as stack:
            client, clock = settings.kafka_client(), SystemClock()
            admin = KafkaAdmin(client)
            stack.callback(admin.close)
            volumes = Catalog(KafkaReader(client), admin, settings.topics, clock)
            stack.callback(volumes.close)
            volumes.refresh()  # 1
            if name not in volumes:
                raise BadUse(
                    f"there is no volume '{name[:220]}'",
                    next="`mirrorlog volume list` shows those there are.",
                )
            volume = volumes[name]
            address = options.get("primary", volume.primary)
            device = stack.enter_context(
                open_primary(
                    address, exclusive=not volume.shared, direct=options.get("direct", False)
                )
            )  # 2
            publisher = KafkaPublisher(client)
            stack.callback(publisher.close)
            statuses = None
            if settings.host_confirm == "recorded":
                reader = KafkaReader(client)
                stack.callback(reader.close)
                statuses = StatusPorts(reader, admin)
            forks = fork_plans(
                options.get("forks", ()), options.get("fork_mode", "async"), [volume]
            )
            host = options.get("host", host_name(name))
            ports = HostPorts(
                DiskFolder(settings.state_dir / "host" / host),
                *(publisher, clock, open_device),
                statuses=statuses,
                sessions=SessionPorts(lambda: KafkaReader(client), admin),
                forks=kafka_fork_ports(settings, lambda _: None, stack) if forks else None,
            )
            self._host: Final = Host(host, ports, settings, dict(volumes), report=self._report)
            stack.push(self._end)
            is_new = volume.initially_zeroed and next(device.allocated(), None) is None
            opening = OpenRequest(
                volume, device, is_new, options.get("take_over", ()), self.close, forks.get(name)
            )
            self.volume: Final = self._host.open_all([opening])[name]  # 3
            self._ticker.start()  # 4
            self._stack: Final = stack.pop_all()

    def close(self) -> None:
        """The host's clean end. Closing twice is harmless.

        An interruption (Ctrl-C) may have left a write between two of its steps, in flight for ever, and a clean end would wait
        for it. Then all is left as it is, and the state folder locked, until the process ends: as after a crash the next
        session publishes what was hot.
        """
        with self._closing:
            if self._stop.is_set():
                return
            if isinstance(sys.exception(), KeyboardInterrupt) and not self._grounded():
                self._report(
                    "a write was interrupted: what may not be published is dirty when the volume is opened again"
                )
                self._stop.set()
                return
            self._stack.close()

    def _end(self, *error: object) -> None:
        self._stop.set()
        if self._ticker.is_alive():
            self._ticker.join()
        if error[0] is not None:
            self._host.abandon()
        else:
            self._host.close()

    def _grounded(self) -> bool:
        """Whether every write has ended, in time."""
        tracker, opened = self.volume.books
        landing = Thread(target=tracker.ground, args=(opened,), daemon=True)
        landing.start()
        landing.join(GROUND_S)
        return not landing.is_alive()

    def _tick(self) -> None:
        """An error of Kafka or of the activity log is told once, and by whatever write it concerns."""
        while not self._stop.wait(TICK_S):
            try:
                self._host.tick(time.monotonic())
            except MirrorlogError as error:
                if str(error) != self._told:
                    self._told = str(error)
                    self._report(self._told)
            except Exception as error:
                tracker, opened = self.volume.books
                failure = DeviceFailed(
                    f"the host's own thread failed: {error!r}", where=f"volume {opened.name}"
                )
                tracker.fail(opened, failure)
                raise
