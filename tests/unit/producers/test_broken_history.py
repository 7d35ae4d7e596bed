"""A host whose positions go back: what Kafka acknowledged may be gone, so all counts as dirty."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from uuid import UUID

import notation
import pytest
from notation import SHORT_KINDS

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.errors import DeviceFailed
from mirrorlog.producers.publishing.confirmations import StatusPorts
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.reading.catalog import Catalog, publish_volume
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevices
from mirrorlog.simulation.memory_folder import MemoryFolder

SIZE, REGION = 100_000, 10_000
SETTINGS = Settings(region_bytes=REGION, host_batch_extents=1, host_heartbeat_s=1.0)
TOPIC = SETTINGS.topics.commands
WHOLE_VOLUME = f"dirty 0+{SIZE}"


@dataclass
class Rig:
    """A host with the volumes a and b, both in partition 0."""

    broker: MemoryBroker = field(default_factory=MemoryBroker)
    folder: MemoryFolder = field(default_factory=MemoryFolder)
    devices: MemoryDevices = field(default_factory=MemoryDevices)
    clock: ManualClock = field(default_factory=ManualClock)
    reports: list[str] = field(default_factory=list)
    settings: Settings = SETTINGS
    sessions: int = 0

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
        catalog = Catalog(self.broker.reader(), self.broker, SETTINGS.topics, self.clock)
        ports = HostPorts(
            self.folder,
            self.broker.publisher(),
            self.clock,
            self.devices,
            statuses=StatusPorts(self.broker.reader(), self.broker),
            descriptions=catalog,
        )
        self.host = Host(
            "h",
            ports,
            self.settings,
            self.volumes,
            new_session=lambda: session,
            report=self.reports.append,
        )

    def open(self, name: str = "a") -> TrackedVolume:
        return self.host.open(
            self.volumes[name], self.devices(f"memory://{name}", writable=True), newly_created=True
        )

    def write(self, volume: TrackedVolume, count: int) -> None:
        """Write ten bytes `count` times, each its own command, acknowledged."""
        for number in range(count):
            volume.pwrite(bytes([number + 1]) * 10, number * REGION % SIZE)
        self.tick()

    def tick(self) -> None:
        for _ in range(5):
            self.clock.now_s += 0.5
            self.host.tick(self.clock.now_s)

    def go_back_to(self, end: int) -> None:
        """The broker loses the commands from position `end` on."""
        self.broker.rewind(TOPIC, 0, end)

    def commands(self, after: int = -1) -> list[str]:
        return [
            _in_short(decode(message.value or b"", TrackingCommand))
            for message in self.broker.messages(TOPIC)
            if message.position > after
        ]

    def is_reported(self) -> bool:
        return any("the history of partition 0 broke" in line for line in self.reports)


def _in_short(command: TrackingCommand) -> str:
    extents = [f"{extent.offset}+{extent.length}" for extent in command.extents]
    return " ".join([command.volume or "*", SHORT_KINDS[command.kind], *extents])


@pytest.fixture
def rig() -> Rig:
    return Rig()


def write_more(rig: Rig, volume: TrackedVolume) -> None:
    rig.write(volume, 1)


def beat(rig: Rig, volume: TrackedVolume) -> None:
    rig.tick()


def drain(rig: Rig, volume: TrackedVolume) -> None:
    volume.pwrite(b"x", 0)
    rig.host.drain()


def close(rig: Rig, volume: TrackedVolume) -> None:
    volume.close()


@pytest.mark.parametrize("act", [write_more, beat, drain, close])
def test_an_open_volume_is_published_as_dirty_when_positions_go_back(
    rig: Rig, act: Callable[[Rig, TrackedVolume], None]
) -> None:
    volume = rig.open()
    rig.write(volume, 12)
    rig.go_back_to(4)
    act(rig, volume)
    rig.tick()
    assert f"a {WHOLE_VOLUME}" in rig.commands(after=3)
    assert rig.is_reported()


def test_after_a_close_that_finds_the_break_the_volume_is_dirty_before_it_is_closed(
    rig: Rig,
) -> None:
    volume = rig.open()
    rig.write(volume, 12)
    rig.go_back_to(4)
    volume.close()
    last = [line for line in rig.commands(after=3) if line.startswith("a ")][-2:]
    assert last == [f"a {WHOLE_VOLUME}", "a close"]


def test_no_heartbeat_before_the_dirty_volume_proves_anything(rig: Rig) -> None:
    """Those that were under way name a position above their own, which a reader can tell."""
    volume = rig.open()
    rig.write(volume, 12)
    rig.go_back_to(4)
    write_more(rig, volume)
    rig.tick()
    dirty_at = 4 + rig.commands(after=3).index(f"a {WHOLE_VOLUME}")
    beats = [
        (message.position, decode(message.value or b"", TrackingCommand).acknowledged_position)
        for message in rig.broker.messages(TOPIC)
        if not message.key and 4 <= message.position < dirty_at
    ]
    assert beats
    assert all(known is not None and known >= position for position, known in beats)


def test_a_volume_that_isnt_open_is_published_as_dirty_when_it_is_opened(rig: Rig) -> None:
    other = rig.open("b")
    rig.write(other, 3)
    other.close()
    volume = rig.open("a")
    rig.write(volume, 12)
    rig.go_back_to(4)
    write_more(rig, volume)
    before = rig.broker.end_position(TOPIC, 0) - 1
    rig.open("b")
    assert f"b {WHOLE_VOLUME}" in rig.commands(after=before)


def test_a_break_that_cant_be_noted_is_reported_when_it_can(rig: Rig) -> None:
    volume = rig.open()
    rig.write(volume, 12)
    rig.go_back_to(4)
    volume.pwrite(b"x", 0)
    rig.folder.hook = failing_sync
    for _ in range(5):
        with suppress(DeviceFailed):
            rig.tick()
    assert not rig.is_reported()


def failing_sync(operation: str) -> None:
    if operation == "sync":
        raise DeviceFailed("the disk is gone", where="activity.log")


def test_a_session_that_waits_for_statuses_finds_that_its_last_command_is_gone() -> None:
    """The node will never answer it. The dirty regions wait for it, and all writes for them."""
    small = {"host_confirm": "recorded", "hot_regions": 1}
    rig = Rig(settings=SETTINGS.model_copy(update=small))
    volume = rig.open()
    rig.write(volume, 1)
    rig.tick()
    volume.pwrite(b"x", 5 * REGION)
    rig.tick()
    position = rig.commands().index(f"a {WHOLE_VOLUME}")
    volume.pwrite(b"x", 6 * REGION)
    volume.pwrite(b"x", 7 * REGION)
    rig.go_back_to(position)
    for _ in range(4):
        rig.tick()
    assert rig.is_reported()
    assert f"a {WHOLE_VOLUME}" in rig.commands(after=position - 1)


def test_positions_that_rise_are_no_break(rig: Rig) -> None:
    volume = rig.open()
    rig.write(volume, 12)
    volume.close()
    assert not rig.is_reported()
    assert not any("dirty" in line for line in rig.commands())


RENEWED = "33333333-3333-4333-8333-333333333333"
HISTORY = "44444444-4444-4444-8444-444444444444"


def last_of(rig: Rig, key: bytes) -> TrackingCommand:
    messages = [message for message in rig.broker.messages(TOPIC) if message.key == key]
    return decode(messages[-1].value or b"", TrackingCommand)


def renew(rig: Rig, **changes: object) -> None:
    """Publish a description of volume a with another generation."""
    fields = {"generation": RENEWED, **changes}
    renewed = replace(rig.volumes["a"], **fields)  # type: ignore[arg-type]
    publisher = rig.broker.publisher()
    publish_volume(publisher, SETTINGS.topics, renewed)
    publisher.flush(0)


def test_an_open_volume_takes_over_the_generation_and_the_history_that_the_node_renewed(
    rig: Rig,
) -> None:
    volume = rig.open()
    rig.write(volume, 5)
    known = last_of(rig, b"").acknowledged_position
    assert known is not None and last_of(rig, b"").generation == ""
    renew(rig, epoch=2, history_id=HISTORY, topic_id="another")
    rig.tick()
    first = next(
        command
        for message in rig.broker.messages(TOPIC)
        if (command := decode(message.value or b"", TrackingCommand)).generation == HISTORY
    )
    assert first.acknowledged_position is None, "what was acknowledged before may be gone"
    rig.write(volume, 1)
    assert last_of(rig, b"a").generation == RENEWED
    assert (last_of(rig, b"").acknowledged_position or 0) > known
    assert any("its generation was renewed" in line for line in rig.reports)
    assert rig.host._tracker.volumes["a"].volume.topic_id == "another"


def test_a_generation_that_an_operator_renewed_keeps_what_is_acknowledged(rig: Rig) -> None:
    volume = rig.open()
    rig.write(volume, 5)
    renew(rig, described_position=7, size_bytes=SIZE * 2)
    rig.tick()
    rig.write(volume, 1)
    assert last_of(rig, b"a").generation == RENEWED
    assert last_of(rig, b"a").acknowledged_position is not None
    assert last_of(rig, b"").generation == ""
    assert volume.size_bytes == SIZE


def test_a_history_that_the_node_gives_a_new_volume_is_named_by_heartbeats(rig: Rig) -> None:
    volume = rig.open()
    rig.write(volume, 5)
    renew(rig, generation="g", epoch=2, history_id=HISTORY)
    rig.tick()
    assert last_of(rig, b"").generation == HISTORY
    assert not any("its generation was renewed" in line for line in rig.reports)


def test_an_older_description_changes_nothing(rig: Rig) -> None:
    rig.volumes["a"] = replace(rig.volumes["a"], described_position=9)
    volume = rig.open()
    renew(rig, described_position=3)
    rig.write(volume, 1)
    assert last_of(rig, b"a").generation == "g"


def describe(rig: Rig, name: str, **changes: object) -> None:
    """Publish a description of one of the volumes, or of another one."""
    described = replace(rig.volumes["a"], volume=name, **changes)  # type: ignore[arg-type]
    publisher = rig.broker.publisher()
    publish_volume(publisher, SETTINGS.topics, described)
    publisher.flush(0)


def test_descriptions_that_are_wrong_stop_no_write_and_hide_no_other(rig: Rig) -> None:
    """A description of another cluster, and bytes that are none: the one behind them counts."""
    volume = rig.open()
    describe(rig, "foreign", cluster="another")
    rig.broker.append(SETTINGS.topics.volumes, 0, b"broken", b"no description")
    renew(rig)
    rig.tick()
    rig.write(volume, 1)
    assert last_of(rig, b"a").generation == RENEWED
    failed, works = (line for line in rig.reports if "reading the descriptions" in line)
    assert "failed" in failed and "another" in failed
    assert "works again" in works


def test_descriptions_are_followed_again_after_their_topic_went_back_in_time(rig: Rig) -> None:
    describe(rig, "a")
    describe(rig, "b")
    volume = rig.open()
    rig.write(volume, 1)
    rig.broker.rewind(SETTINGS.topics.volumes, 0, 0)
    rig.write(volume, 1)
    renew(rig)
    rig.tick()
    rig.write(volume, 1)
    assert last_of(rig, b"a").generation == RENEWED
