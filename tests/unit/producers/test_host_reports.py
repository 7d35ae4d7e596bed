"""A host reports each open volume, and once more when it closes it. Nothing depends on that."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import volume

from mirrorlog.codec.events import decode
from mirrorlog.domain.reports import HostReport, HostState
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryPublisher
from mirrorlog.simulation.memory_devices import MemoryDevices
from mirrorlog.simulation.memory_folder import MemoryFolder

SIZE, REGION = 1 << 20, 1 << 16
SETTINGS = Settings(
    region_bytes=REGION,
    hot_regions=4,
    host_linger_s=0.1,
    host_region_idle_s=1000.0,
    report_s=2.0,
    report_idle_s=10.0,
)


class RecordingSink:
    """A ReportSink that keeps every report."""

    def __init__(self) -> None:
        self.reports: list[HostReport] = []
        self.is_closed = False

    def publish(self, key: bytes, value: bytes) -> None:
        report = decode(value, HostReport)
        assert key == report.key
        self.reports.append(report)

    def close(self) -> None:
        self.is_closed = True


class SilentPublisher(MemoryPublisher):
    """A publisher that can be told to acknowledge nothing."""

    is_silent = False

    def poll(self, timeout_s: float) -> None:
        if not self.is_silent:
            super().poll(timeout_s)


class Rig:
    """A host with the volume v, which is open."""

    def __init__(self) -> None:
        self.clock, self.sink = ManualClock(), RecordingSink()
        broker, devices = MemoryBroker(clock=self.clock), MemoryDevices()
        broker.create(SETTINGS.topics.specs(single_copy=True), 1)
        devices.create("memory://v", SIZE)
        self.publisher = SilentPublisher(broker)
        ports = HostPorts(MemoryFolder(), self.publisher, self.clock, devices, reports=self.sink)
        described = volume("v", SIZE, primary="memory://v")
        self.host = Host("h", ports, SETTINGS, {"v": described})
        self.device = devices("memory://v", writable=True)
        self.volume = self.host.open(described, self.device, newly_created=True)

    def tick(self, after_s: float = 0.0) -> None:
        self.clock.now_s += after_s
        self.host.tick(self.clock.now_s)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_an_open_volume_is_reported_at_once(rig: Rig) -> None:
    rig.tick()
    (report,) = rig.sink.reports
    assert report == HostReport(
        host="h",
        volume="v",
        session=rig.host.session,
        generation=volume().generation,
        state=HostState.OPEN,
        started_at_us=report.started_at_us,
        at_us=rig.clock.now_us(),
        hot_regions=0,
        hot_regions_limit=4,
        region_bytes=REGION,
        queued_bytes=0,
        spool_bytes=0,
        spool_limit_bytes=SETTINGS.host_spool_bytes,
        away_since_us=None,
        writes=0,
        bytes_written=0,
        acknowledged_position=0,
    )


def test_a_change_is_reported_soon_and_an_idle_volume_now_and_then(rig: Rig) -> None:
    rig.tick()
    rig.volume.pwrite(b"x" * 4096, 0)
    rig.tick(after_s=0.5)
    rig.tick(after_s=0.5)
    assert len(rig.sink.reports) == 1
    rig.tick(after_s=2.0)
    written = rig.sink.reports[-1]
    assert (written.writes, written.bytes_written, written.hot_regions) == (1, 4096, 1)
    assert written.acknowledged_position == 1
    for _ in range(3):
        rig.tick(after_s=3.0)
    assert len(rig.sink.reports) == 2
    rig.tick(after_s=3.0)
    assert rig.sink.reports[2:] == [replace(written, at_us=rig.clock.now_us())]


def test_a_host_says_since_when_kafka_is_away_and_that_it_is_back(rig: Rig) -> None:
    rig.tick()
    rig.publisher.is_silent = True
    rig.volume.pwrite(b"x" * 4096, 0)
    rig.tick(after_s=1.0)
    began_us = rig.clock.now_us()
    rig.tick(after_s=5.0)
    away = rig.sink.reports[-1]
    assert away.away_since_us == began_us
    assert away.queued_bytes > 0
    rig.tick(after_s=5.0)
    assert rig.sink.reports[-1].away_since_us == began_us
    rig.publisher.is_silent = False
    rig.tick(after_s=5.0)
    rig.tick(after_s=5.0)
    assert (rig.sink.reports[-1].away_since_us, rig.sink.reports[-1].queued_bytes) == (None, 0)


def test_a_closed_volume_is_reported_as_closed(rig: Rig) -> None:
    rig.tick()
    rig.volume.pwrite(b"x" * 4096, 0)
    rig.host.close()
    last = rig.sink.reports[-1]
    assert (last.state, last.writes, last.hot_regions) == (HostState.CLOSED, 1, 0)
    assert not rig.sink.is_closed


def test_a_host_that_dies_reports_nothing_more(rig: Rig) -> None:
    rig.tick()
    rig.host.abandon()
    assert [report.state for report in rig.sink.reports] == [HostState.OPEN]
