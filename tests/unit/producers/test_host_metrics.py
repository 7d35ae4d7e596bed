"""The metrics of a host, while Kafka answers and while it doesn't."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from notation import volume
from scraping import exported_names, scrape

from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.metric_samples import ExportingRole, MetricSamples
from mirrorlog.metrics import METRICS
from mirrorlog.producers.forks.fork_states import ForkState
from mirrorlog.producers.host_metrics import export_samples, host_samples
from mirrorlog.producers.nbd.export import KeptForSnapshots
from mirrorlog.producers.session.figures import HostFigures, VolumeFigures
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryPublisher
from mirrorlog.simulation.memory_devices import MemoryDevices
from mirrorlog.simulation.memory_folder import MemoryFolder

SIZE, REGION = 1 << 20, 1 << 16
SETTINGS = Settings(
    region_bytes=REGION, hot_regions=4, host_batch_extents=1, host_away_s=2.0, host_queue_bytes=1
)


class SilentPublisher(MemoryPublisher):
    """A publisher that can be told to acknowledge nothing."""

    is_silent = False

    def poll(self, timeout_s: float) -> None:
        if not self.is_silent:
            super().poll(timeout_s)


@dataclass
class Rig:
    """A host with the open volume v."""

    clock: ManualClock = field(default_factory=ManualClock)
    described: Volume = field(default_factory=lambda: volume("v", SIZE, primary="memory://v"))

    def __post_init__(self) -> None:
        broker, devices = MemoryBroker(), MemoryDevices()
        broker.create(SETTINGS.topics.specs(single_copy=True), 1)
        self.disk = devices.create("memory://v", SIZE)
        self.publisher = SilentPublisher(broker)
        ports = HostPorts(MemoryFolder(), self.publisher, self.clock, devices)
        self.host = Host("h", ports, SETTINGS, {"v": self.described})
        device = devices("memory://v", writable=True)
        self.volume: TrackedVolume = self.host.open(self.described, device, newly_created=True)

    def tick(self, after_s: float = 0.0) -> None:
        self.clock.now_s += after_s
        self.host.tick(self.clock.now_s)

    def page(self) -> dict[str, dict[tuple[str, ...], float]]:
        return scrape(ExportingRole.HOST, lambda: host_samples(self.host.figures))


class KeepingExport:
    """An export that keeps a block for its snapshots."""

    def kept_for_snapshots(self) -> KeptForSnapshots:
        return KeptForSnapshots(disk_bytes=4096, disk_limit_bytes=8192)


@pytest.fixture
def rig() -> Iterator[Rig]:
    yield Rig()


def problems(page: dict[str, dict[tuple[str, ...], float]]) -> dict[str, float]:
    """Return the metrics that aren't 0 although that is a problem."""
    names = [metric.name for metric in METRICS if metric.is_problem and metric.name in page]
    assert len(names) > 3
    return {name: value for name in names for value in page[name].values() if value}


def test_every_metric_of_a_host_is_exported(rig: Rig) -> None:
    figures = rig.host.figures()
    forked = replace(figures.volumes[0], forks=(("a", ForkState.IN), ("b", ForkState.OUT)))
    figures = replace(figures, volumes=(forked,))

    def samples() -> MetricSamples:
        yield from host_samples(lambda: figures)
        yield from export_samples("v", KeepingExport())

    page = scrape(ExportingRole.HOST, samples)
    assert page["mirrorlog_host_snapshot_disk_bytes"] == {("v",): 4096}
    assert page["mirrorlog_host_snapshot_disk_limit_bytes"] == {("v",): 8192}
    roles = (ExportingRole.HOST, ExportingRole.EVERY)
    assert exported_names(page) == {metric.name for metric in METRICS if metric.role in roles}
    states = page["mirrorlog_host_fork_state"]
    assert {labels for labels, value in states.items() if value} == {
        ("v", "a", "IN"),
        ("v", "b", "OUT"),
    }


def test_writes_are_counted_when_their_commands_are_queued(rig: Rig) -> None:
    for number in range(3):
        rig.volume.pwrite(bytes(4096), number * REGION)
    rig.volume.trim(8192, 0)
    for _ in range(5):
        rig.tick()
    page = rig.page()
    assert page["mirrorlog_host_writes_total"] == {("v",): 4}
    assert page["mirrorlog_host_written_bytes_total"] == {("v",): 3 * 4096 + 8192}
    assert page["mirrorlog_host_hot_regions"] == {("v",): 3}
    assert page["mirrorlog_host_hot_regions_limit"] == {(): 4}
    assert page["mirrorlog_host_acknowledgement_duration_seconds_count"][()] >= 4
    assert problems(page) == {}


def test_kafka_is_away_and_comes_back(rig: Rig) -> None:
    rig.publisher.is_silent = True
    for number in range(3):
        rig.volume.pwrite(bytes(4096), number * REGION)
    rig.tick(1.0)
    assert "mirrorlog_host_kafka_away_seconds" not in problems(rig.page())
    rig.tick(2.0)
    page = rig.page()
    assert page["mirrorlog_host_kafka_away_seconds"] == {(): 3}
    assert page["mirrorlog_host_queued_bytes"][()] > 0
    assert page["mirrorlog_host_spool_bytes"][()] > 0
    rig.publisher.is_silent = False
    for _ in range(5):
        rig.tick()
    page = rig.page()
    assert problems(page) == {}
    assert page["mirrorlog_host_queued_bytes"] == {(): 0}
    # The first command waited for three seconds.
    assert page["mirrorlog_host_acknowledgement_duration_seconds_sum"][()] >= 3


def test_a_volume_whose_primary_fails_shows_it(rig: Rig) -> None:
    def fail(operation: str, _: int, __: int) -> None:
        if operation == "flush":
            raise DeviceFailed("flushing failed: Input/output error")

    rig.volume.pwrite(bytes(4096), 0)
    rig.disk.hook = fail
    with pytest.raises(DeviceFailed):
        rig.volume.flush()
    assert rig.page()["mirrorlog_host_volume_failed"] == {("v",): 1}


def test_figures_of_a_closed_host_can_be_read(rig: Rig) -> None:
    rig.volume.close()
    figures = rig.host.figures()
    assert isinstance(figures, HostFigures)
    assert figures.volumes == ()
    assert VolumeFigures.__doc__
