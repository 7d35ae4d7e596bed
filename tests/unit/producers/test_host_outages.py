"""Kafka goes away and comes back: what a host then writes down, what it widens, and what it publishes in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from clocks import HandClock
from notation import SHORT_KINDS

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.extents import ExtentKind
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed, KafkaFailed
from mirrorlog.producers.durable.activity_log import FILE_NAME, read_previous_log
from mirrorlog.producers.session.host import Host, HostPorts
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.producers.writes.write_tracker import OpenVolume
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryPublisher
from mirrorlog.simulation.memory_devices import MemoryDevices
from mirrorlog.simulation.memory_folder import MemoryFolder

SIZE, REGION = 100_000, 10_000
SETTINGS = Settings(
    region_bytes=REGION,
    hot_regions=3,
    host_batch_extents=1,
    host_heartbeat_s=1.0,
    host_away_s=2.0,
    host_queue_bytes=1,
)


class Publisher(MemoryPublisher):
    """Delivers nothing while it is away; then whoever waits sees time pass."""

    def __init__(self, broker: MemoryBroker, clock: HandClock) -> None:
        super().__init__(broker)
        self.clock, self.is_away = clock, False

    def poll(self, timeout_s: float) -> None:
        if self.is_away:
            self.clock.now_s += timeout_s
        else:
            super().poll(timeout_s)

    def deliver(self, count: int) -> None:
        """All the same, so many."""
        self._queue, rest = self._queue[:count], self._queue[count:]
        super().poll(0)
        self._queue += rest


@dataclass
class Rig:
    """A host with the volumes a and b; told() is what it published since it was asked last."""

    settings: Settings = SETTINGS
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    folder: MemoryFolder = field(default_factory=MemoryFolder)
    devices: MemoryDevices = field(default_factory=MemoryDevices)
    clock: HandClock = field(default_factory=HandClock)
    reports: list[str] = field(default_factory=list)
    sessions: int = 0
    seen: int = 0

    def __post_init__(self) -> None:
        self.broker.create(SETTINGS.topics.specs(single_copy=True), 1)
        self.volumes = {
            name: Volume(name, "g", SIZE, 4096, 0, -1, True, f"memory://{name}") for name in "ab"
        }
        for volume in self.volumes.values():
            self.devices.create(volume.primary, SIZE)
        self.start()

    def start(self) -> None:
        self.sessions += 1
        session = str(UUID(int=self.sessions))
        self.publisher = Publisher(self.broker, self.clock)
        ports = HostPorts(self.folder, self.publisher, self.clock, self.devices)
        self.host = Host(
            "h",
            ports,
            self.settings,
            self.volumes,
            new_session=lambda: session,
            report=self.reports.append,
        )

    def open(self, name: str = "a") -> TrackedVolume:
        volume = self.host.open(
            self.volumes[name], self.devices(f"memory://{name}", writable=True), newly_created=True
        )
        self.told()
        return volume

    def meanwhile(self, operation: str, do: Callable[[], object], name: str = "a") -> None:
        """Once, while the primary is at that operation, with no lock held: as another thread."""
        disk = self.devices.devices[f"memory://{name}"]

        def hook(found: str, _: int, __: int) -> None:
            if found == operation and disk.hook is not None:
                disk.hook = None
                do()

        disk.hook = hook

    def opened(self, name: str = "a") -> OpenVolume:
        return self.host._tracker.volumes[name]

    def write(self, volume: TrackedVolume, regions: Iterable[int]) -> None:
        """Ten bytes in each of these regions: one command each."""
        for number in regions:
            volume.pwrite(bytes([number + 1]) * 10, number * REGION)

    def tick(self, after_s: float = 0.0) -> None:
        self.clock.now_s += after_s
        self.host.tick(self.clock.now_s)

    def back(self) -> None:
        self.publisher.is_away = False
        for _ in range(20):
            self.tick()

    def crash(self) -> None:
        self.publisher.close()
        self.host.abandon()
        self.folder.kill()
        self.start()

    def told(self) -> str:
        messages = self.broker.messages(SETTINGS.topics.commands)
        new, self.seen = messages[self.seen :], len(messages)
        return " · ".join(_told(decode(message.value or b"", TrackingCommand)) for message in new)

    def sequences(self) -> list[int]:
        commands = [
            decode(m.value or b"", TrackingCommand)
            for m in self.broker.messages(SETTINGS.topics.commands)
        ]
        return [command.sequence for command in commands if command.volume == "a"]


def _told(command: TrackingCommand) -> str:
    extents = [f"{extent.offset}+{extent.length}" for extent in command.extents]
    return " ".join(
        [
            command.volume or "*",
            f"s{UUID(command.session).int}",
            SHORT_KINDS[command.kind],
            *extents,
        ]
    )


def writes(*regions: int) -> str:
    return " · ".join(f"a s1 writes {number * REGION}+10" for number in regions)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def away(rig: Rig, **settings: object) -> TrackedVolume:
    """Volume a, open, and Kafka away."""
    rig.host.close()
    rig.settings = SETTINGS.model_copy(update=settings)
    rig.sessions = 0
    rig.start()
    volume = rig.open()
    rig.publisher.is_away = True
    return volume


def test_what_was_spooled_is_published_in_order_once_kafka_is_back(rig: Rig) -> None:
    volume = away(rig)
    rig.write(volume, range(10))
    assert rig.told() == ""
    assert rig.host._outbox._queue.waiting > 5
    rig.publisher.is_away = False
    rig.write(volume, [3])
    rig.back()
    assert rig.told().startswith(writes(*range(10), 3))
    assert rig.sequences() == list(range(12))
    assert not any("spool" in name for name in rig.folder.names())
    assert rig.reports == []


def test_after_a_crash_the_spool_tells_exactly_what_had_left_the_activity_log(rig: Rig) -> None:
    volume = away(rig)
    volume.flush()
    for number in range(8):
        rig.write(volume, [number])
        volume.flush()
    hot = read_previous_log(rig.folder).regions["a"]
    assert len(hot) <= 3
    rig.crash()
    dirty = f"a s2 dirty {min(hot) * REGION}+{len(hot) * REGION}"
    assert rig.told() == f"{writes(*range(8))} · {dirty} · a s1 close · a s2 close · * s1 close"
    assert not any("spool" in name for name in rig.folder.names())


def test_a_writer_waits_for_kafka_once_and_no_other_does(rig: Rig) -> None:
    volume = away(rig)
    rig.write(volume, range(4))
    waited_s = rig.clock.now_s
    assert 2.0 <= waited_s < 3.0
    rig.write(volume, range(10))
    assert rig.clock.now_s == waited_s


def test_where_the_spool_is_full_only_regions_are_kept(rig: Rig) -> None:
    volume = away(rig, host_spool_bytes=0)
    rig.write(volume, [0, 1, 1, 2, 2, 2])
    assert read_previous_log(rig.folder).regions["a"] == {0, 1, 2}
    assert rig.reports == []
    rig.tick(5.0)
    assert rig.told() == ""
    rig.back()
    assert rig.told() == f"{writes(0)} · a s1 dirty 10000+20000 · * s1 beat"
    rig.write(volume, [2])
    rig.back()
    assert rig.told() == writes(2)
    volume.close()
    assert rig.sequences() == list(range(5))
    assert not read_previous_log(rig.folder).volumes


def test_where_nothing_has_room_the_volume_is_dirty_as_a_whole_until_that_is_published(
    rig: Rig,
) -> None:
    volume = away(rig, host_spool_bytes=0)
    rig.write(volume, range(10))
    state = read_previous_log(rig.folder).state.volumes["a"]
    assert (state.whole_volume, state.regions) == (True, set())
    assert [report.split(":")[0] for report in rig.reports] == [
        "volume a counts as dirty as a whole"
    ]
    rig.back()
    assert rig.told() == f"{writes(0)} · a s1 dirty 0+{SIZE} · * s1 beat"
    assert (
        read_previous_log(rig.folder).state.volumes["a"].whole_volume
    )  # the primary wasn't flushed: a power cut could take it back
    rig.write(volume, [4])
    volume.flush()
    rig.back()
    state = read_previous_log(rig.folder).state.volumes["a"]
    assert (state.whole_volume, state.regions) == (False, {4})
    assert rig.told().startswith(writes(4))


@pytest.mark.parametrize("flushed", [False, True])
def test_after_a_crash_a_volume_that_was_widened_is_dirty_as_a_whole(
    rig: Rig, flushed: bool
) -> None:
    volume = away(rig, host_spool_bytes=0)
    rig.write(volume, range(10))
    if flushed:
        volume.flush()
    rig.crash()
    assert f"a s2 dirty 0+{SIZE}" in rig.told()
    assert not read_previous_log(rig.folder).volumes


def test_it_is_the_volume_with_most_regions_that_is_widened(rig: Rig) -> None:
    big = rig.open("a")
    small = rig.open("b")
    rig.host._tracker._settings = SETTINGS.model_copy(update={"host_when_full": "widen"})
    rig.host._outbox._queue._spool._failed = True
    rig.publisher.is_away = True
    rig.write(big, [0, 1])
    rig.write(small, [0])
    rig.write(small, [1])
    assert read_previous_log(rig.folder).state.volumes["a"].whole_volume
    assert read_previous_log(rig.folder).state.volumes["b"].regions == {0, 1}


def test_where_it_is_asked_for_a_write_fails_instead(rig: Rig) -> None:
    volume = away(rig, host_spool_bytes=0, host_when_full="fail")
    with pytest.raises(KafkaFailed, match="weren't acknowledged within 60 s"):
        rig.write(volume, range(10))
    assert rig.reports == []
    rig.back()
    told = rig.told()
    assert told.startswith(writes(0))
    assert f"a s1 dirty 0+{SIZE}" not in told
    rig.write(volume, [5])
    volume.close()
    assert not read_previous_log(rig.folder).volumes


def test_no_heartbeat_promises_what_found_no_room(rig: Rig) -> None:
    volume = away(
        rig,
        host_spool_bytes=0,
        host_when_full="fail",
        host_batch_extents=1000,
        host_queue_bytes=1500,
        host_away_s=9.0,
    )
    rig.write(volume, [0])
    rig.tick(
        0.2
    )  # it is on its way; what follows is too large to go beside it, and a heartbeat isn't
    for number in range(100):
        volume.pwrite(b"x", 2 * number)
    rig.tick(1.0)
    rig.publisher.deliver(2)
    assert rig.told() == writes(0)
    rig.back()
    assert rig.told().startswith("a s1 writes 0+1 2+1")


def test_no_heartbeat_promises_what_waits(rig: Rig) -> None:
    volume = away(rig, host_spool_bytes=0, host_queue_bytes=300)
    rig.write(volume, [0, 1, 2] * 3)
    for _ in range(5):
        rig.tick(1.0)
    flight = rig.host._tracker.begin(rig.opened(), ExtentKind.WRITE, 0, 5)
    rig.publisher.deliver(
        2
    )  # the third waits on, and names a region that is widened: it can't be marked yet
    rig.tick()
    rig.back()
    told = rig.told().split(" · ")
    marked = told.index("a s1 dirty 0+30000 0+5")  # a reader may have seen what is in flight, too
    assert told.index("* s1 beat") > marked
    rig.host._tracker.end(rig.opened(), flight)


@pytest.mark.parametrize("is_hot", [False, True], ids=["with the lock", "on the runway"])
def test_what_is_in_flight_while_a_volume_is_widened_keeps_its_region(
    rig: Rig, is_hot: bool
) -> None:
    """Its region is used again once the volume is narrow: it must be in the activity log then."""
    volume = away(rig, host_spool_bytes=0)
    rig.write(volume, [7] * is_hot)
    rig.meanwhile("pwrite", lambda: rig.write(volume, range(6)))
    rig.write(volume, [7])
    assert rig.opened().is_wide
    rig.back()
    volume.flush()
    rig.back()
    assert not read_previous_log(rig.folder).state.volumes["a"].whole_volume
    rig.publisher.is_away = True
    rig.write(volume, [7])
    rig.told()
    rig.crash()
    assert "a s2 dirty 70000+10000" in rig.told()


def test_a_spool_that_cannot_be_read_any_more_makes_its_volumes_dirty(rig: Rig) -> None:
    volume = away(rig)
    rig.write(volume, range(8))
    for file in rig.host._outbox._queue._spool._files:
        file.file.pwrite(file.read_end + 40, b"\xff" * 50)
    rig.back()
    volume.flush()
    assert f"a s1 dirty 0+{SIZE}" in rig.told()
    volume.close()
    assert not read_previous_log(rig.folder).volumes


def test_a_full_disk_under_the_spool_is_a_full_spool(rig: Rig) -> None:
    volume = away(rig)
    rig.folder.full = lambda name: "spool" in name
    rig.write(volume, range(10))
    assert read_previous_log(rig.folder).state.volumes["a"].whole_volume
    rig.folder.full = lambda _: False
    rig.back()
    assert f"a s1 dirty 0+{SIZE}" in rig.told()


def test_a_full_disk_under_the_activity_log_stops_only_writes_to_new_regions(rig: Rig) -> None:
    volume = rig.open()
    rig.write(volume, [0])
    rig.folder.full = lambda name: name == f"{FILE_NAME}.new"
    rig.host._log._capacity = rig.host._log._used  # the next addition has the log written anew
    with pytest.raises(DeviceFailed) as failed:
        rig.write(volume, [1])
    assert isinstance(failed.value.__cause__, OSError)
    rig.write(volume, [0])
    assert bytes(volume.pread(1, REGION)) == b"\0"
    rig.folder.full = lambda _: False
    rig.crash()
    assert "a s2 dirty 0+10000" in rig.told()


def test_no_volume_is_widened_that_the_activity_log_cannot_name(rig: Rig) -> None:
    volume = away(rig, host_spool_bytes=0)
    rig.write(volume, range(3))
    rig.folder.full = lambda name: name == f"{FILE_NAME}.new"
    rig.host._log._capacity = rig.host._log._used
    for _ in range(2):
        with pytest.raises(DeviceFailed):
            rig.write(volume, [5])
    rig.write(volume, range(3))
    assert bytes(volume.pread(1, 5 * REGION)) == b"\0"


def test_commands_keep_their_order_whoever_is_faster(rig: Rig) -> None:
    """An acknowledgement makes room with the client while others wait in the spool: what comes now is behind them."""
    volume = away(rig)
    rig.write(volume, range(6))
    rig.publisher.deliver(1)  # acknowledged; nobody has handed on what waits
    rig.write(volume, [5])
    rig.back()
    assert rig.told().startswith(writes(0, 1, 2, 3, 4, 5, 5))
    assert rig.sequences() == list(range(8))
