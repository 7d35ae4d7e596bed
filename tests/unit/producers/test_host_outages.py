"""A host while Kafka is away, and after it is back: spool, activity log, published commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from uuid import UUID

import notation
import pytest
from notation import SHORT_KINDS

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.extents import ExtentKind
from mirrorlog.errors import DeviceFailed, KafkaFailed
from mirrorlog.producers.durable.activity_log import FILE_NAME, read_previous_log
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.producers.writes.write_tracker import OpenVolume
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
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
    """A publisher that delivers nothing while Kafka is away; waiting for it lets time pass."""

    def __init__(self, broker: MemoryBroker, clock: ManualClock) -> None:
        super().__init__(broker)
        self.clock, self.is_away = clock, False

    def poll(self, timeout_s: float) -> None:
        if self.is_away:
            self.clock.now_s += timeout_s
        else:
            super().poll(timeout_s)

    def deliver(self, count: int) -> None:
        """Deliver the first `count` messages, also while Kafka is away."""
        self._queue, rest = self._queue[:count], self._queue[count:]
        super().poll(0)
        self._queue += rest


@dataclass
class Rig:
    """A host with the volumes a and b. published() returns the new commands, in short."""

    settings: Settings = SETTINGS
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    folder: MemoryFolder = field(default_factory=MemoryFolder)
    devices: MemoryDevices = field(default_factory=MemoryDevices)
    clock: ManualClock = field(default_factory=ManualClock)
    reports: list[str] = field(default_factory=list)
    sessions: int = 0
    seen: int = 0

    def __post_init__(self) -> None:
        self.broker.create(SETTINGS.topics.specs(single_copy=True), 1)
        self.volumes = {
            name: notation.volume(name, SIZE, generation="g", primary=f"memory://{name}")
            for name in "ab"
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
        self.published()
        return volume

    def meanwhile(self, operation: str, do: Callable[[], object], name: str = "a") -> None:
        """Call `do` during the next such operation of the primary, as another thread would."""
        disk = self.devices.devices[f"memory://{name}"]

        def hook(current: str, _: int, __: int) -> None:
            if current == operation and disk.hook is not None:
                disk.hook = None
                do()

        disk.hook = hook

    def opened(self, name: str = "a") -> OpenVolume:
        return self.host._tracker.volumes[name]

    def write(self, volume: TrackedVolume, regions: Iterable[int]) -> None:
        """Write ten bytes to each of the regions; each write is one command."""
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

    def published(self) -> str:
        messages = self.broker.messages(SETTINGS.topics.commands)
        new, self.seen = messages[self.seen :], len(messages)
        return " · ".join(
            _in_short(decode(message.value or b"", TrackingCommand)) for message in new
        )

    def sequences(self) -> list[int]:
        commands = [
            decode(m.value or b"", TrackingCommand)
            for m in self.broker.messages(SETTINGS.topics.commands)
        ]
        return [command.sequence for command in commands if command.volume == "a"]


def _in_short(command: TrackingCommand) -> str:
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


def open_then_away(rig: Rig, **settings: object) -> TrackedVolume:
    """Open volume a with these settings; then Kafka is away."""
    rig.host.close()
    rig.settings = SETTINGS.model_copy(update=settings)
    rig.sessions = 0
    rig.start()
    volume = rig.open()
    rig.publisher.is_away = True
    return volume


def test_spooled_commands_are_published_in_order_when_kafka_is_back(rig: Rig) -> None:
    volume = open_then_away(rig)
    rig.write(volume, range(10))
    assert rig.published() == ""
    assert rig.host._outbox._queue.waiting > 5
    rig.publisher.is_away = False
    rig.write(volume, [3])
    rig.back()
    assert rig.published().startswith(writes(*range(10), 3))
    assert rig.sequences() == list(range(12))
    assert not any("spool" in name for name in rig.folder.names())
    assert rig.reports == []


def test_after_a_crash_the_spool_names_what_has_left_the_activity_log(rig: Rig) -> None:
    volume = open_then_away(rig)
    volume.flush()
    for number in range(8):
        rig.write(volume, [number])
        volume.flush()
    hot = read_previous_log(rig.folder).regions["a"]
    assert len(hot) <= 3
    rig.crash()
    dirty = f"a s2 dirty {min(hot) * REGION}+{len(hot) * REGION}"
    closes = "a s1 close · a s2 close · * s1 close"
    assert rig.published() == f"{writes(*range(8))} · {dirty} · {closes}"
    assert not any("spool" in name for name in rig.folder.names())


def test_only_the_first_writer_that_needs_room_waits_for_kafka(rig: Rig) -> None:
    volume = open_then_away(rig)
    rig.write(volume, range(4))
    waited_s = rig.clock.now_s
    assert 2.0 <= waited_s < 3.0
    rig.write(volume, range(10))
    assert rig.clock.now_s == waited_s


def test_what_no_command_names_yet_is_spooled_before_a_volume_is_dirty_as_a_whole(
    rig: Rig,
) -> None:
    """Each region has a command under way, and a later write that waits in the open batch."""
    volume = open_then_away(rig, host_batch_extents=100, host_queue_bytes=1 << 20)
    rig.write(volume, range(3))
    rig.tick(1.0)
    assert rig.host._outbox.first_in_flight is not None
    rig.write(volume, range(3))
    volume.flush()
    rig.write(volume, [3])
    assert rig.reports == []
    state = read_previous_log(rig.folder).state.volumes["a"]
    assert not state.whole_volume and 3 in state.regions


def test_with_a_full_spool_only_regions_are_kept(rig: Rig) -> None:
    volume = open_then_away(rig, host_spool_bytes=0)
    rig.write(volume, [0, 1, 1, 2, 2, 2])
    assert read_previous_log(rig.folder).regions["a"] == {0, 1, 2}
    assert rig.reports == []
    rig.tick(5.0)
    assert rig.published() == ""
    rig.back()
    assert rig.published() == f"{writes(0)} · a s1 dirty 10000+20000 · * s1 beat"
    rig.write(volume, [2])
    rig.back()
    assert rig.published() == writes(2)
    volume.close()
    assert rig.sequences() == list(range(5))
    assert not read_previous_log(rig.folder).volumes


def test_without_any_room_the_volume_is_dirty_as_a_whole_until_that_is_published(
    rig: Rig,
) -> None:
    volume = open_then_away(rig, host_spool_bytes=0)
    rig.write(volume, range(10))
    state = read_previous_log(rig.folder).state.volumes["a"]
    assert (state.whole_volume, state.regions) == (True, set())
    assert [report.split(":")[0] for report in rig.reports] == [
        "volume a counts as dirty as a whole"
    ]
    rig.back()
    assert rig.published() == f"{writes(0)} · a s1 dirty 0+{SIZE} · * s1 beat"
    # The primary wasn't flushed, so a power cut could take back what it holds.
    assert read_previous_log(rig.folder).state.volumes["a"].whole_volume
    rig.write(volume, [4])
    volume.flush()
    rig.back()
    state = read_previous_log(rig.folder).state.volumes["a"]
    assert (state.whole_volume, state.regions) == (False, {4})
    assert rig.published().startswith(writes(4))


@pytest.mark.parametrize("flushed", [False, True])
def test_a_volume_that_is_dirty_as_a_whole_is_so_after_a_crash(rig: Rig, flushed: bool) -> None:
    volume = open_then_away(rig, host_spool_bytes=0)
    rig.write(volume, range(10))
    if flushed:
        volume.flush()
    rig.crash()
    assert f"a s2 dirty 0+{SIZE}" in rig.published()
    assert not read_previous_log(rig.folder).volumes


def test_the_volume_with_the_most_regions_becomes_dirty_as_a_whole(rig: Rig) -> None:
    big = rig.open("a")
    small = rig.open("b")
    rig.host._tracker._state.settings = SETTINGS.model_copy(update={"host_when_full": "widen"})
    rig.host._outbox._queue._spool._failed = True
    rig.publisher.is_away = True
    rig.write(big, [0, 1])
    rig.write(small, [0])
    rig.write(small, [1])
    assert read_previous_log(rig.folder).state.volumes["a"].whole_volume
    assert read_previous_log(rig.folder).state.volumes["b"].regions == {0, 1}


def test_with_host_when_full_fail_a_write_fails_instead(rig: Rig) -> None:
    volume = open_then_away(rig, host_spool_bytes=0, host_when_full="fail")
    with pytest.raises(KafkaFailed, match="weren't acknowledged within 60 s"):
        rig.write(volume, range(10))
    assert rig.reports == []
    rig.back()
    published = rig.published()
    assert published.startswith(writes(0))
    assert f"a s1 dirty 0+{SIZE}" not in published
    rig.write(volume, [5])
    volume.close()
    assert not read_previous_log(rig.folder).volumes


def test_no_heartbeat_is_sent_for_a_batch_that_found_no_room(rig: Rig) -> None:
    volume = open_then_away(
        rig,
        host_spool_bytes=0,
        host_when_full="fail",
        host_batch_extents=1000,
        host_queue_bytes=1500,
        host_away_s=9.0,
    )
    rig.write(volume, [0])
    # This command is in flight. The next one is too large to be sent beside it, but a heartbeat
    # isn't.
    rig.tick(0.2)
    for number in range(100):
        volume.pwrite(b"x", 2 * number)
    rig.tick(1.0)
    rig.publisher.deliver(2)
    assert rig.published() == writes(0)
    rig.back()
    assert rig.published().startswith("a s1 writes 0+1 2+1")


def test_no_heartbeat_is_sent_before_the_waiting_regions_are_marked(rig: Rig) -> None:
    volume = open_then_away(rig, host_spool_bytes=0, host_queue_bytes=300)
    rig.write(volume, [0, 1, 2] * 3)
    for _ in range(5):
        rig.tick(1.0)
    write = rig.host._tracker.begin(rig.opened(), ExtentKind.WRITE, offset=0, length=5)
    # The third command still waits, and names a region that can't be marked before it.
    rig.publisher.deliver(2)
    rig.tick()
    rig.back()
    published = rig.published().split(" · ")
    marked = published.index("a s1 dirty 0+30000 0+5")  # with the write in flight
    assert published.index("* s1 beat") > marked
    rig.host._tracker.end(rig.opened(), write)


@pytest.mark.parametrize("is_hot", [False, True], ids=["with the lock", "without the lock"])
def test_a_write_in_flight_keeps_its_region_while_the_whole_volume_becomes_dirty(
    rig: Rig, is_hot: bool
) -> None:
    """The region is used again later, and must be in the activity log then."""
    volume = open_then_away(rig, host_spool_bytes=0)
    rig.write(volume, [7] * is_hot)
    rig.meanwhile("pwrite", lambda: rig.write(volume, range(6)))
    rig.write(volume, [7])
    assert rig.opened().tracks_whole_volume
    rig.back()
    volume.flush()
    rig.back()
    assert not read_previous_log(rig.folder).state.volumes["a"].whole_volume
    rig.publisher.is_away = True
    rig.write(volume, [7])
    rig.published()
    rig.crash()
    assert "a s2 dirty 70000+10000" in rig.published()


def test_a_spool_that_cannot_be_read_makes_its_volumes_dirty(rig: Rig) -> None:
    volume = open_then_away(rig)
    rig.write(volume, range(8))
    for file in rig.host._outbox._queue._spool._files:
        file.file.pwrite(file.read_end + 40, b"\xff" * 50)
    rig.back()
    volume.flush()
    assert f"a s1 dirty 0+{SIZE}" in rig.published()
    volume.close()
    assert not read_previous_log(rig.folder).volumes


def test_a_full_disk_counts_as_a_full_spool(rig: Rig) -> None:
    volume = open_then_away(rig)
    rig.folder.full = lambda name: "spool" in name
    rig.write(volume, range(10))
    assert read_previous_log(rig.folder).state.volumes["a"].whole_volume
    rig.folder.full = lambda _: False
    rig.back()
    assert f"a s1 dirty 0+{SIZE}" in rig.published()


def test_a_full_disk_under_the_activity_log_stops_only_writes_to_new_regions(rig: Rig) -> None:
    volume = rig.open()
    rig.write(volume, [0])
    rig.folder.full = lambda name: name == f"{FILE_NAME}.new"
    rig.host._log._capacity = rig.host._log._used  # the next append rewrites the log
    with pytest.raises(DeviceFailed) as failed:
        rig.write(volume, [1])
    assert isinstance(failed.value.__cause__, OSError)
    rig.write(volume, [0])
    assert bytes(volume.pread(1, REGION)) == b"\0"
    rig.folder.full = lambda _: False
    rig.crash()
    assert "a s2 dirty 0+10000" in rig.published()


def test_a_write_fails_if_the_activity_log_cannot_name_the_whole_volume(rig: Rig) -> None:
    volume = open_then_away(rig, host_spool_bytes=0)
    rig.write(volume, range(3))
    rig.folder.full = lambda name: name == f"{FILE_NAME}.new"
    rig.host._log._capacity = rig.host._log._used
    for _ in range(2):
        with pytest.raises(DeviceFailed):
            rig.write(volume, [5])
    rig.write(volume, range(3))
    assert bytes(volume.pread(1, 5 * REGION)) == b"\0"


def test_commands_keep_their_order_when_the_client_has_room_before_the_spool_is_empty(
    rig: Rig,
) -> None:
    """A new command is queued behind those that wait in the spool."""
    volume = open_then_away(rig)
    rig.write(volume, range(6))
    rig.publisher.deliver(1)  # the client has room now, and nobody has called feed()
    rig.write(volume, [5])
    rig.back()
    assert rig.published().startswith(writes(0, 1, 2, 3, 4, 5, 5))
    assert rig.sequences() == list(range(8))
