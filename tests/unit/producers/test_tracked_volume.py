"""What a host publishes, refuses and remembers, with a broker, a folder and devices in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Barrier, Thread
from uuid import UUID

import notation
import pytest
from notation import SHORT_KINDS

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.extents import ExtentKind
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DeviceFailed, KafkaFailed
from mirrorlog.producers.durable.activity_log import FILE_NAME, read_previous_log
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryPublisher
from mirrorlog.simulation.memory_devices import MemoryDevices, failing
from mirrorlog.simulation.memory_folder import MemoryFolder

SIZE = 100_000
SETTINGS = Settings(
    region_bytes=10_000,
    hot_regions=3,
    host_batch_extents=4,
    host_linger_s=0.1,
    host_heartbeat_s=1.0,
)
KINDS = {ExtentKind.WRITE: "", ExtentKind.ZERO: "z", ExtentKind.DISCARD: "d"}


@dataclass
class Rig:
    """A host's world. host() starts a session."""

    broker: MemoryBroker = field(default_factory=MemoryBroker)
    folder: MemoryFolder = field(default_factory=MemoryFolder)
    devices: MemoryDevices = field(default_factory=MemoryDevices)
    clock: ManualClock = field(default_factory=ManualClock)
    volumes: dict[str, Volume] = field(default_factory=dict)
    reports: list[str] = field(default_factory=list)
    sessions: int = 0
    seen: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.broker.create(SETTINGS.topics.specs(single_copy=True), 2)
        for name, partition in (("a", 0), ("b", 0), ("c", 1)):
            self.devices.create(f"memory://{name}", SIZE)
            self.volumes[name] = Volume(
                volume=name,
                generation="g",
                size_bytes=SIZE,
                block_size=4096,
                partition=partition,
                origin_position=-1,
                initially_zeroed=True,
                primary=f"memory://{name}",
            )

    def host(self, publisher: MemoryPublisher | None = None, **more: object) -> Host:
        self.sessions += 1
        ports = HostPorts(
            self.folder, publisher or self.broker.publisher(), self.clock, self.devices
        )
        session = str(UUID(int=self.sessions))
        return Host(
            "h",
            ports,
            SETTINGS,
            self.volumes,
            new_session=lambda: session,
            report=self.reports.append,
            **more,
        )  # type: ignore[arg-type]

    def open(self, host: Host, name: str, newly_created: bool = True) -> TrackedVolume:
        device = self.devices(f"memory://{name}", writable=True)
        return host.open(self.volumes[name], device, newly_created)

    def crash(self, host: Host) -> None:
        host.abandon()
        self.folder.kill()

    def published(self) -> str:
        """Return the commands since the last call, by partition: volume, session, kind, extents."""
        messages = self.broker.messages(SETTINGS.topics.commands)
        new = [
            message
            for message in messages
            if (message.partition, message.position) not in self.seen
        ]
        self.seen.update((message.partition, message.position) for message in new)
        return " · ".join(
            _notation(decode(message.value or b"", TrackingCommand)) for message in new
        )


def _notation(command: TrackingCommand) -> str:
    extents = [f"{KINDS[extent.kind]}{extent.offset}+{extent.length}" for extent in command.extents]
    return " ".join(
        [
            command.volume or "*",
            f"s{UUID(command.session).int}",
            SHORT_KINDS[command.kind],
            *extents,
        ]
    )


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_session_from_its_opening_to_its_close(rig: Rig) -> None:
    host = rig.host()
    with rig.open(host, "a") as volume:
        assert rig.published() == "a s1 open"
        volume.pwrite(b"x" * 10, 5)
        volume.zero(20, 9_990)
        volume.trim(30, 70)
        assert rig.published() == ""
        rig.clock.now_s = 0.1
        host.tick(0.1)
        assert rig.published() == "a s1 writes 5+10 z9990+20 d70+30"
        for offset in range(4):
            volume.pwrite(b"y", offset)
        host.tick(0.1)
        assert rig.published() == "a s1 writes 0+1 1+1 2+1 3+1"
        rig.clock.now_s = 1.0
        host.tick(1.0)
        assert rig.published() == "* s1 beat"
        volume.pwrite(b"z", 50)
        assert bytes(volume.pread(4, 48)) == bytes(2) + b"z" + bytes(1)
    assert rig.published() == "a s1 writes 50+1 · a s1 close · * s1 close"
    host.close()
    leftover = read_previous_log(rig.folder)
    assert (leftover.exists, leftover.damaged, leftover.volumes) == (True, False, frozenset())


def test_after_a_crash_hot_regions_are_dirty_and_both_sessions_end(rig: Rig) -> None:
    host = rig.host()
    rig.open(host, "a").pwrite(b"x" * 20_000, 85_000 - 10_000)
    rig.open(host, "b")
    rig.crash(host)
    assert read_previous_log(rig.folder).regions == {"a": {7, 8, 9}}
    assert rig.published() == "a s1 open · b s1 open"
    rig.host()
    assert rig.published().split(" · ") == [
        "a s2 dirty 70000+30000",
        "a s1 close",
        "a s2 close",
        "b s1 close",
        "b s2 close",
        "* s1 close",
    ]
    assert read_previous_log(rig.folder).volumes == frozenset()


def test_a_volume_that_the_log_cannot_vouch_for_is_dirty_as_a_whole_once(rig: Rig) -> None:
    host = rig.host()
    rig.open(host, "a", newly_created=False)
    assert rig.published() == f"a s1 open · a s1 dirty 0+{SIZE}"
    host.close()
    rig.published()
    rig.open(rig.host(), "a", newly_created=False)
    assert rig.published() == "a s2 open"
    assert [report.split()[1] for report in rig.reports] == ["a"]


def test_a_damaged_log_makes_every_old_volume_dirty_and_closes_its_session(rig: Rig) -> None:
    host = rig.host()
    rig.open(host, "a")
    host.close()
    rig.published()
    rig.folder.damage(FILE_NAME, lambda log: log[:-1])
    host = rig.host()
    assert "damaged" in rig.reports[0]
    rig.open(host, "b", newly_created=True)
    assert rig.published() == f"a s2 dirty 0+{SIZE} · a s1 close · a s2 close · b s2 open"
    rig.open(host, "c", newly_created=False)
    assert rig.published() == f"c s2 open · c s2 dirty 0+{SIZE} · c s1 close"


def test_what_an_unknown_volume_owes_is_reported_and_kept(rig: Rig) -> None:
    host = rig.host()
    rig.open(host, "a").pwrite(b"x", 0)
    rig.crash(host)
    rig.published()
    known = rig.volumes.pop("a")
    for _ in range(2):
        rig.host().close()
    assert (rig.published(), len(rig.reports)) == ("", 2)
    rig.volumes["a"] = known
    rig.host()
    assert rig.published() == "a s4 dirty 0+10000 · a s1 close · a s4 close · * s1 close"


def test_what_a_volume_without_primary_owes_is_kept_until_it_is_opened(rig: Rig) -> None:
    host = rig.host()
    rig.open(host, "a").pwrite(b"x", 0)
    rig.crash(host)
    rig.published()
    gone = rig.devices.devices.pop("memory://a")
    host = rig.host()
    assert (rig.published(), "no such device" in rig.reports[0]) == ("", True)
    rig.devices.devices["memory://a"] = gone
    rig.open(host, "a", newly_created=False)
    assert rig.published() == "a s2 open · a s2 dirty 0+10000 · a s1 close · * s1 close"


def test_many_volumes_are_opened_with_one_wait(rig: Rig) -> None:
    waits: list[float] = []
    publisher = rig.broker.publisher()
    poll = publisher.poll
    host = rig.host(publisher)

    def counted_poll(timeout_s: float) -> None:
        waits.append(timeout_s)
        poll(timeout_s)

    publisher.poll = counted_poll  # type: ignore[method-assign]
    host.open_all(
        OpenRequest(v, rig.devices(v.primary, writable=True), True) for v in rig.volumes.values()
    )
    assert (len(waits), rig.published()) == (1, "a s1 open · b s1 open · c s1 open")


def test_a_range_larger_than_the_activity_log_is_written_in_parts_that_fit(rig: Rig) -> None:
    volume = rig.open(rig.host(), "a")
    volume.zero(SIZE - 1, 1)
    assert len(read_previous_log(rig.folder).regions["a"]) <= 3
    volume.close()
    assert rig.published() == (
        "a s1 open · a s1 writes z1+29999 · a s1 writes z30000+30000 · a s1 writes z60000+30000"
        " · a s1 writes z90000+10000 · a s1 close · * s1 close"
    )


@pytest.mark.parametrize("offset", [-1, SIZE - 1])
def test_a_range_outside_is_refused_before_anything_is_touched(rig: Rig, offset: int) -> None:
    volume = rig.open(rig.host(), "a")
    with pytest.raises(DeviceFailed, match="volume a, offset"):
        volume.pwrite(b"xy", offset)
    assert not read_previous_log(rig.folder).regions
    assert bytes(volume.pread(SIZE, 0)) == bytes(SIZE)


def test_a_failed_write_is_named(rig: Rig) -> None:
    volume = rig.open(rig.host(), "a")
    rig.devices.devices["memory://a"].hook = failing(1, "pwrite")
    with pytest.raises(DeviceFailed, match="planned"):
        volume.pwrite(b"x", 7)
    volume.close()
    assert "a s1 writes 7+1" in rig.published()


def test_a_primary_that_cannot_be_flushed_stays_in_the_log_and_harms_no_other(rig: Rig) -> None:
    host = rig.host()
    bad, good = rig.open(host, "a"), rig.open(host, "b")
    rig.devices.devices["memory://a"].hook = failing(1, "flush")
    bad.pwrite(b"x", 0)
    host.drain()
    for number in range(9):
        good.pwrite(b"y", number * 10_000)
    assert set(read_previous_log(rig.folder).regions) == {"a", "b"}
    with pytest.raises(DeviceFailed, match="planned"):
        bad.pwrite(b"x", 0)
    with pytest.raises(DeviceFailed, match="planned"):
        host.close()
    assert read_previous_log(rig.folder).regions == {"a": {0}}
    assert "a s1 close" not in rig.published()


def test_a_failed_flush_is_reported_each_time(rig: Rig) -> None:
    volume = rig.open(rig.host(), "a")
    rig.devices.devices["memory://a"].hook = failing(1, "flush")
    for operation in (volume.flush, volume.flush, lambda: volume.pwrite(b"x", 0)):
        with pytest.raises(DeviceFailed, match="planned"):
            operation()


def test_no_write_begins_once_the_broker_refused_a_command(rig: Rig) -> None:
    host = rig.host()
    volume = rig.open(host, "a")
    rig.broker.refused_topics.add(SETTINGS.topics.commands)
    volume.pwrite(b"x", 0)
    rig.clock.now_s = 0.2
    with pytest.raises(KafkaFailed):
        host.tick(0.2)
    with pytest.raises(KafkaFailed):
        volume.pwrite(b"y", 20_000)
    assert bytes(volume.pread(1, 20_000)) == b"\0"
    with pytest.raises(KafkaFailed):
        host.close()
    assert read_previous_log(rig.folder).regions == {"a": {0}}


def test_no_write_begins_that_the_activity_log_cannot_remember(rig: Rig) -> None:
    host = rig.host()
    volume = rig.open(host, "a")
    volume.pwrite(b"x", 0)
    rig.folder.hook = _broken
    for _ in range(2):
        with pytest.raises(DeviceFailed):
            volume.pwrite(b"y", 20_000)
        rig.folder.hook = lambda _: None
    volume.pwrite(b"z", 1)
    assert bytes(volume.pread(2, 0) + volume.pread(1, 20_000)) == b"xz\0"


def _broken(operation: str) -> None:
    raise DeviceFailed("planned", where=operation)


BAD_USE: dict[str, Callable[[Rig, Host, TrackedVolume], object]] = {
    "is open already": lambda rig, host, volume: rig.open(host, "a"),
    "has 100000 bytes, the volume 100001": lambda rig, host, volume: host.open(
        notation.volume("d", SIZE + 1, generation="g", primary=""),
        rig.devices("memory://c", writable=True),
        True,
    ),
    "is closed": lambda rig, host, volume: (volume.close(), volume.pwrite(b"x", 0)),
    "another process": lambda rig, host, volume: rig.host(),
}


@pytest.mark.parametrize("message", BAD_USE)
def test_bad_use(rig: Rig, message: str) -> None:
    host = rig.host()
    volume = rig.open(host, "a")
    with pytest.raises(BadUse, match=message):
        BAD_USE[message](rig, host, volume)


def test_threads_share_a_host(rig: Rig) -> None:
    """Every write is named at least once, and nothing is unpublished at the end.

    Meanwhile regions become hot and leave all the time.
    """
    publisher = rig.broker.publisher()
    poll = publisher.poll

    def polled(timeout_s: float) -> None:
        with (
            host._tracker.lock
        ):  # a publisher in memory is for one thread; the host publishes with the lock held
            poll(timeout_s)

    host = rig.host(publisher)
    publisher.poll = polled  # type: ignore[method-assign]
    volumes = [rig.open(host, name) for name in ("a", "b", "c")]
    together = Barrier(4)

    def write(thread: int) -> None:
        together.wait(10)
        for number in range(40):
            volumes[number % 3].pwrite(
                bytes([thread + 1]) * 10, (number * 7 % 10) * 10_000 + thread * 10
            )

    threads = [Thread(target=write, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        rig.clock.now_s += 0.2
        host.tick(rig.clock.now_s)
        threads[0].join(0.001)
    host.close()
    named = {
        (command.volume, extent.offset)
        for message in rig.broker.messages(SETTINGS.topics.commands)
        for command in [decode(message.value or b"", TrackingCommand)]
        for extent in command.extents
    }
    assert named == {
        ("abc"[n % 3], (n * 7 % 10) * 10_000 + thread * 10)
        for n in range(40)
        for thread in range(4)
    }
    assert read_previous_log(rig.folder).volumes == frozenset()
