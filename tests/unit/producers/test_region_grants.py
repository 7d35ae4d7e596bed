"""Which regions nbdkit may write to without asking, as it goes through a volume in order."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

import notation
import pytest

from mirrorlog.domain.extents import ExtentKind
from mirrorlog.producers.nbd.native import build_ring
from mirrorlog.producers.nbd.region_grants import RegionGrants
from mirrorlog.producers.nbd.ring import Ring, RingGeometry
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.writes.batch_sending import send_all_batches
from mirrorlog.settings import Settings, load_settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevices
from mirrorlog.simulation.memory_folder import MemoryFolder

REGION = 4096
REGIONS = 2000
SETTINGS = Settings(region_bytes=REGION, hot_regions=1024, host_linger_s=1000)

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))),
    reason="no C compiler to build the ring with",
)


@dataclass
class Rig:
    """A host with one volume, to which a client writes through the ring.

    asked: the regions for which a write waited. syncs: of the host's folder. ticks: the host ticks
    once in 32 writes.
    """

    asked: list[int] = field(default_factory=list)
    syncs: int = 0
    ticks: bool = True
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        size, broker, devices = REGION * REGIONS, MemoryBroker(), MemoryDevices()
        broker.create(SETTINGS.topics.specs(single_copy=True), 1)
        devices.create("memory://v", size)
        described = notation.volume("v", size, generation="g", primary="memory://v")
        folder, self.publisher = MemoryFolder(), broker.publisher()
        self.host = Host(
            "h",
            HostPorts(folder, self.publisher, self.clock, devices),
            SETTINGS,
            {"v": described},
            new_session=lambda: str(UUID(int=1)),
            report=lambda _: None,
        )
        volume = self.host.open(described, devices("memory://v", writable=True), newly_created=True)
        folder.hook = self.count_sync
        self.ring = Ring(
            build_ring(load_settings().cache_dir),
            RingGeometry(size, REGION, max_write_bytes=REGION, notify_every=1000, slots=256),
        )
        self.tracker, self.opened = volume.tracker_and_volume
        self.grants = RegionGrants(self.tracker, self.opened, self.ring, limit=768)

    def count_sync(self, operation: str) -> None:
        self.syncs += operation == "sync"

    def write(self, number: int, *, tells: bool = True) -> None:
        """Write to a region as filter.c does. tells: send ML_GRANT_AHEAD."""
        place = {"offset": number * REGION, "length": 512}
        position = self.ring.begin(ExtentKind.WRITE, **place, at_us=1)
        assert position is not None
        while not self.ring.may_write(**place):
            self.asked.append(number)
            self.grants.grant([(number * REGION, 512)])
        if self.ring.clear_markers(**place) and tells:
            self.grants.grant_behind(**place)
        self.ring.end(position, ExtentKind.WRITE)
        if number % 32 == 0:
            self.tracker.attached_writers.collect(self.opened)
            if self.ticks:
                self.host.tick(self.clock.now_s)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    poll = rig.publisher.poll
    yield rig
    rig.publisher.poll = poll  # type: ignore[method-assign]
    rig.grants.close()
    rig.ring.close()
    rig.host.close()


def test_a_client_in_order_waits_for_no_region_once_it_runs(rig: Rig) -> None:
    for number in range(REGIONS):
        rig.write(number)
    assert rig.asked == [0, 1]
    # Each sync makes up to 129 regions durable. The rest are those of the first, small windows.
    assert rig.syncs < 40


def test_a_client_whose_messages_are_lost_waits_at_the_end_of_each_window(rig: Rig) -> None:
    for number in range(REGIONS):
        rig.write(number, tells=False)
    assert 15 < len(rig.asked) < 30


def test_nothing_is_granted_ahead_of_need_while_kafka_takes_no_commands(rig: Rig) -> None:
    for number in range(10):
        rig.write(number)
    assert rig.asked == [0, 1]
    rig.publisher.poll = lambda _timeout_s: None  # type: ignore[method-assign]
    with rig.tracker.lock:
        rig.opened.collect_attached()
        send_all_batches(rig.tracker._state)
    rig.clock.now_s += SETTINGS.host_away_s
    number, syncs = 10, rig.syncs
    while rig.ring.may_write(offset=number * REGION, length=512):
        rig.write(number)
        number += 1
    assert number > 12
    assert rig.syncs == syncs


def test_room_that_needs_a_wait_is_made_for_a_write_that_waits_alone(rig: Rig) -> None:
    """Kafka acknowledges nothing, and doesn't count as away yet. Then a write asks."""
    poll, number, rig.ticks = rig.publisher.poll, 0, False
    rig.publisher.poll = lambda _timeout_s: None  # type: ignore[method-assign]
    while number < 2 or rig.ring.may_write(offset=number * REGION, length=512):
        rig.write(number)
        number += 1
    assert 512 < number <= 1024
    assert rig.asked == [0, 1]
    rig.publisher.poll = poll  # type: ignore[method-assign]
    rig.write(number)
    assert rig.asked == [0, 1, number]


def test_a_marker_is_gone_with_its_grant(rig: Rig) -> None:
    for number in range(3):
        rig.write(number)
    marked = {number for number in range(3, 8) if number in rig.grants._behind}
    assert marked
    with rig.tracker.lock:
        rig.grants._revoke(sorted(rig.grants._granted))
    assert not rig.grants._behind
    for number in marked:
        place = {"offset": number * REGION, "length": 512}
        assert not rig.ring.clear_markers(**place)
        rig.grants.grant_behind(**place)
        assert not rig.ring.may_write(**place)


def test_the_last_region_has_nothing_behind_it(rig: Rig) -> None:
    for number in range(REGIONS - 5, REGIONS):
        rig.write(number)
    assert rig.asked == [REGIONS - 5, REGIONS - 4]
    assert not rig.grants._behind
