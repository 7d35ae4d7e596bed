"""Several threads flush one primary, and the host flushes in the background."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, RLock, Thread
from typing import Any
from uuid import UUID

import notation
import pytest
from deadlines import DEADLINE_S, wait_until
from late_jobs import LateJobs

from mirrorlog.domain.extents import ExtentKind
from mirrorlog.errors import BadInput, DeviceFailed
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.writes.background_jobs import BackgroundJobs
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevices
from mirrorlog.simulation.memory_folder import MemoryFolder

REGION = 4096
REGIONS = 200
SETTINGS = Settings(region_bytes=REGION, hot_regions=32, host_linger_s=0.01, host_region_idle_s=5)
NAMES = ("v", "w")


@dataclass
class Rig:
    """A host with two open volumes. flushes: how often the primary of each was flushed."""

    jobs: BackgroundJobs
    flushes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))

    def __post_init__(self) -> None:
        size, broker, devices = REGION * REGIONS, MemoryBroker(), MemoryDevices()
        broker.create(SETTINGS.topics.specs(single_copy=True), 1)
        self.clock = ManualClock()
        described = {}
        for name in NAMES:
            described[name] = notation.volume(
                name, size, generation="g", primary="memory://" + name
            )
            devices.create("memory://" + name, size).hook = self.counter_of(name)
        self.host = Host(
            "h",
            HostPorts(MemoryFolder(), broker.publisher(), self.clock, devices, jobs=self.jobs),
            SETTINGS,
            described,
            new_session=lambda: str(UUID(int=1)),
            report=lambda _: None,
        )
        self.volumes = {
            name: self.host.open(volume, devices(volume.primary, writable=True), newly_created=True)
            for name, volume in described.items()
        }
        self.flushes.update(dict.fromkeys(NAMES, 0))

    def counter_of(self, name: str) -> Callable[[str, int, int], None]:
        def count(operation: str, _: int, __: int) -> None:
            self.flushes[name] += operation == "flush"

        return count

    def write_through(self, name: str) -> None:
        """Write to every region of a volume."""
        for number in range(REGIONS):
            self.volumes[name].pwrite(b"x", number * REGION)
            self.tick(0.02)

    def tick(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.host.tick(self.clock.now_s)

    def idle_until_flush(self, jobs: LateJobs) -> None:
        """Write to `v`, and wait until the host wants to flush it in the background."""
        self.volumes["v"].pwrite(b"x", 0)
        while not jobs.waiting:
            self.tick(0.1)


def test_a_flush_that_hangs_in_the_background_keeps_no_other_volume_waiting() -> None:
    jobs = LateJobs()
    rig = Rig(jobs)
    rig.idle_until_flush(jobs)  # it doesn't end
    tracker, opened = rig.volumes["v"].tracker_and_volume
    tracker.begin(opened, ExtentKind.WRITE, offset=0, length=1)  # nor does a write
    rig.write_through("w")
    assert rig.flushes["v"] == 0
    assert rig.flushes["w"] > 3


def test_where_no_thread_can_be_started_writes_flush_by_themselves() -> None:
    class NoThreads(LateJobs):
        def start(self, job: Callable[[], None]) -> None:
            del job
            raise RuntimeError("can't start new thread")

    rig = Rig(NoThreads())
    for name in NAMES:
        rig.write_through(name)
    assert min(rig.flushes.values()) > 3
    rig.host.close()


def test_a_volume_that_was_refused_meanwhile_isnt_flushed() -> None:
    jobs = LateJobs()
    rig = Rig(jobs)
    rig.idle_until_flush(jobs)
    rig.host._tracker.reject("v", BadInput("the node refused v"))
    jobs.run()
    assert rig.flushes["v"] == 0
    rig.write_through("w")


class SlowDevice:
    """A primary whose first flush goes on until a test lets it end, and may then fail.

    As the kernel does, it tells of the failure only once.
    """

    def __init__(self, *, fails: bool) -> None:
        self.fails, self.flushes = fails, 0
        self.began, self.goes_on = Event(), Event()

    def flush(self) -> None:
        self.flushes += 1
        if self.flushes == 1:
            self.began.set()
            assert self.goes_on.wait(DEADLINE_S)
            if self.fails:
                raise DeviceFailed("planned")


class NotedLock:
    """A lock that notes who comes to it."""

    def __init__(self) -> None:
        self.lock, self.came = RLock(), 0

    def __enter__(self) -> None:
        self.came += 1
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


@pytest.mark.parametrize("fails", [False, True])
def test_calls_that_wait_for_a_flush_share_the_next_one_and_hear_of_a_failure(fails: bool) -> None:
    rig, failed, device = Rig(LateJobs()), list[str](), SlowDevice(fails=fails)
    opened: Any = rig.host._tracker.volumes["v"]
    opened.device, opened.flush_lock = device, NotedLock()

    def flush() -> None:
        try:
            rig.host._tracker.flush(opened)
        except DeviceFailed as error:
            failed.append(str(error))

    threads = [Thread(target=flush, daemon=True) for _ in range(4)]
    threads[0].start()
    assert device.began.wait(DEADLINE_S)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: opened.flush_lock.came == 4 or not any(t.is_alive() for t in threads[1:]))
    device.goes_on.set()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert len(failed) == (4 if fails else 0)
    assert device.flushes == (1 if fails else 2)
    with suppress(DeviceFailed):
        rig.host.close()
