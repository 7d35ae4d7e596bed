"""With `host_confirm = "recorded"` a host waits for what the node has recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

import notation
import numpy as np
import pytest
from working_readers import WorkingReader

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.commands import (
    AcceptedBatch,
    CommandKind,
    CommandStatus,
    RejectReason,
    StatusCode,
    TrackingCommand,
)
from mirrorlog.domain.volumes import Volume, VolumeState
from mirrorlog.errors import BadInput, BadUse, KafkaFailed
from mirrorlog.producers.batches.hot_regions import HotRegion
from mirrorlog.producers.durable.activity_log import read_previous_log
from mirrorlog.producers.publishing.confirmations import Confirmations, StatusPorts
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryPublisher
from mirrorlog.simulation.memory_devices import MemoryDevices
from mirrorlog.simulation.memory_folder import MemoryFolder

SIZE, REGION = 100_000, 10_000
SETTINGS = Settings(
    region_bytes=REGION, hot_regions=3, host_confirm="recorded", host_when_full="fail"
)
COMMANDS, STATUS = SETTINGS.topics.commands, SETTINGS.topics.status


@dataclass
class NodeModel:
    """A node that answers the commands it hasn't answered yet, if it runs.

    refuses: the kinds of commands of volume 'a' that it refuses.
    """

    broker: MemoryBroker
    runs: bool = True
    answered: int = 0
    refuses: tuple[CommandKind, ...] = ()

    def __call__(self) -> None:
        for message in self.broker.messages(COMMANDS)[self.answered :] if self.runs else ():
            self.answered += 1
            command = decode(message.value or b"", TrackingCommand)
            refused = command.volume == "a" and command.kind in self.refuses
            self.answer(message.position, command, RejectReason.OUT_OF_RANGE if refused else None)

    def answer(
        self, position: int, command: TrackingCommand, reason: RejectReason | None = None
    ) -> None:
        volume, host, session = command.volume, command.host, command.session
        if reason is None and position % 2:
            positions = np.array([position], np.int64)
            sequences = np.array([command.sequence], np.int64)
            self.publish(
                AcceptedBatch(
                    partition=0,
                    at_us=7,
                    volume=volume,
                    host=host,
                    session=session,
                    positions=positions,
                    sequences=sequences,
                )
            )
        else:
            code = StatusCode.ACCEPTED if reason is None else StatusCode.REJECTED
            self.publish(
                CommandStatus(
                    partition=0,
                    position=position,
                    code=code,
                    reason=reason,
                    text="told so.",
                    at_us=7,
                    volume=volume,
                    host=host,
                    session=session,
                    sequence=command.sequence,
                )
            )

    def publish(self, event: object) -> None:
        self.broker.append(STATUS, 0, b"", event if isinstance(event, bytes) else encode(event))


@dataclass
class Rig:
    """A host with the volumes a and b, and a model of the node."""

    broker: MemoryBroker = field(default_factory=MemoryBroker)
    folder: MemoryFolder = field(default_factory=MemoryFolder)
    devices: MemoryDevices = field(default_factory=MemoryDevices)
    clock: ManualClock = field(default_factory=lambda: ManualClock(look_s=0.01))
    volumes: dict[str, Volume] = field(default_factory=dict)
    reports: list[str] = field(default_factory=list)
    sessions: int = 0

    def __post_init__(self) -> None:
        self.broker.create(SETTINGS.topics.specs(single_copy=True), 1)
        self.node = NodeModel(self.broker)
        for name in ("a", "b"):
            self.devices.create(f"memory://{name}", SIZE)
            self.volumes[name] = notation.volume(
                name, SIZE, generation="g", primary=f"memory://{name}"
            )

    def host(self, publisher: MemoryPublisher | None = None) -> Host:
        self.sessions += 1
        session = str(UUID(int=self.sessions))
        statuses = StatusPorts(WorkingReader(self.broker, self.node), self.broker)
        ports = HostPorts(
            self.folder, publisher or self.broker.publisher(), self.clock, self.devices, statuses
        )
        return Host(
            "h",
            ports,
            SETTINGS,
            self.volumes,
            new_session=lambda: session,
            report=self.reports.append,
        )

    def open(self, host: Host, name: str = "a") -> TrackedVolume:
        return host.open(self.volumes[name], self.devices(f"memory://{name}", writable=True), True)

    def hot(self, name: str = "a") -> set[int]:
        return set(read_previous_log(self.folder).regions.get(name, ()))

    def write(self, volume: TrackedVolume, *regions: int) -> None:
        for region in regions:
            volume.pwrite(b"x", region * REGION)

    def closed(self, name: str = "a") -> int:
        """Return the number of SESSION_CLOSE commands of the volume."""
        commands = [decode(m.value or b"", TrackingCommand) for m in self.broker.messages(COMMANDS)]
        return sum(c.volume == name and c.kind is CommandKind.SESSION_CLOSE for c in commands)

    def marked(self) -> list[str]:
        """Return the regions that MARK_DIRTY commands name, as 'volume first+count'."""
        commands = [decode(m.value or b"", TrackingCommand) for m in self.broker.messages(COMMANDS)]
        return [
            f"{c.volume} {extent.offset // REGION}+{extent.length // REGION}"
            for c in commands
            if c.kind is CommandKind.MARK_DIRTY
            for extent in c.extents
        ]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_region_leaves_when_the_node_has_recorded_its_writes(rig: Rig) -> None:
    host = rig.host()
    volume = rig.open(host)
    rig.write(volume, 0, 1, 2)
    volume.flush()
    rig.node.runs = False
    host.tick(rig.clock.monotonic_s() + 1)
    with pytest.raises(KafkaFailed, match="the node hasn't recorded them within 60 s"):
        rig.write(volume, 3)
    assert rig.hot() == {0, 1, 2}
    rig.node.runs = True
    rig.write(volume, 4)
    assert rig.hot() == {1, 2, 4}
    host.close()
    assert read_previous_log(rig.folder).volumes == frozenset()


def test_without_a_node_writes_go_on_and_the_next_session_publishes_what_was_not_recorded(
    rig: Rig,
) -> None:
    host = rig.host()
    volume = rig.open(host)
    rig.node.runs = False
    for number in range(50):
        rig.write(volume, number % 3)
        host.tick(rig.clock.monotonic_s() + 1)
    with pytest.raises(KafkaFailed, match="Is a node running"):
        host.close()
    assert rig.hot() == {0, 1, 2}
    with pytest.raises(KafkaFailed):
        rig.host()
    assert rig.hot() == {0, 1, 2}
    rig.node.runs = True
    rig.host()
    assert rig.marked() == ["a 0+3", "a 0+3"]
    assert rig.hot() == set()


def test_a_settled_volume_opens_without_a_node(rig: Rig) -> None:
    rig.node.runs = False
    rig.write(rig.open(rig.host()), 0)
    assert rig.hot() == {0}


def test_a_refusal_names_position_and_reason_keeps_the_region_and_spares_other_volumes(
    rig: Rig,
) -> None:
    host = rig.host()
    bad, good = rig.open(host, "a"), rig.open(host, "b")
    rig.node.refuses = (CommandKind.WRITES,)
    rig.write(bad, 0)
    with pytest.raises(
        BadInput, match=r"REJECTED \(OUT_OF_RANGE\): told so \(volume a, partition 0, position 2\)"
    ):
        host.drain()
    for operation in (lambda: rig.write(bad, 5), bad.flush):
        with pytest.raises(BadInput, match="OUT_OF_RANGE"):
            operation()
    rig.write(good, *range(9))
    with pytest.raises(BadInput, match="OUT_OF_RANGE"):
        host.close()
    assert (rig.hot("a"), rig.hot("b")) == ({0}, set())
    assert (len(rig.reports), rig.closed()) == (1, 0)
    rig.node.refuses = ()
    rig.host()
    assert (rig.marked(), rig.hot("a")) == (["a 0+1"], set())


def test_a_session_stays_open_on_a_volume_if_its_last_write_is_refused(
    rig: Rig,
) -> None:
    host = rig.host()
    rig.write(rig.open(host, "a"), 0)
    rig.write(rig.open(host, "b"), 0)
    rig.node.refuses = (CommandKind.WRITES,)
    with pytest.raises(BadInput, match="OUT_OF_RANGE"):
        host.close()
    assert (rig.hot("a"), rig.closed("a"), rig.closed("b")) == ({0}, 0, 1)


def test_writes_wait_while_too_many_commands_wait(rig: Rig) -> None:
    host = rig.host()
    volume = rig.open(host)
    assert host._outbox._statuses is not None
    host._outbox._statuses._confirmations._max_waiting = 2
    host.drain()
    rig.node.runs = False
    for _ in range(2):
        rig.write(volume, 0)
        host.tick(rig.clock.monotonic_s() + 1)
    with pytest.raises(KafkaFailed, match="Is a node running"):
        rig.write(volume, 0)
    rig.node.runs = True
    rig.write(volume, 0)


@pytest.mark.parametrize("kind", [CommandKind.MARK_DIRTY, CommandKind.SESSION_CLOSE])
def test_a_volume_stays_unsettled_if_the_node_refuses_its_commands(
    rig: Rig, kind: CommandKind
) -> None:
    host = rig.host()
    rig.write(rig.open(host, "a"), 0)
    rig.write(rig.open(host, "b"), 1)
    host.abandon()
    rig.folder.kill()
    rig.node.refuses = (kind,)
    host = rig.host()
    refused = [line for line in rig.reports if "docs/statuses.md" in line]
    assert (rig.hot("a"), rig.hot("b"), len(refused)) == ({0}, set(), 1)
    assert (rig.closed("a") > 0) is (kind is CommandKind.SESSION_CLOSE)
    with pytest.raises(BadInput, match="OUT_OF_RANGE"):
        rig.open(host, "a")
    rig.open(host, "b")


def test_a_command_that_the_node_cannot_read_ends_all_writes(rig: Rig) -> None:
    host = rig.host()
    volume = rig.open(host)
    rig.node.runs = False
    rig.write(volume, 0)
    host.tick(rig.clock.monotonic_s() + 1)
    position = rig.broker.end_position(COMMANDS, 0) - 2  # a heartbeat follows
    rig.node.publish(
        CommandStatus(
            partition=0,
            position=position,
            code=StatusCode.REJECTED,
            reason="UNDECODABLE",
            text="schema unknown",
            at_us=7,
        )
    )
    host.tick(rig.clock.monotonic_s())
    with pytest.raises(BadInput, match="UNDECODABLE"):
        rig.write(volume, 1)
    assert rig.hot() == {0}


def test_only_statuses_of_this_hosts_commands_count(rig: Rig) -> None:
    host = rig.host()
    volume = rig.open(host)
    rig.node.runs = False
    rig.write(volume, 0)
    host.tick(rig.clock.monotonic_s() + 1)
    end = rig.broker.end_position(COMMANDS, 0)
    numbers = np.arange(end, dtype=np.int64)
    rig.node.publish(
        AcceptedBatch(
            partition=0,
            at_us=7,
            volume="a",
            host="another",
            session="s",
            positions=numbers,
            sequences=numbers,
        )
    )
    rig.node.publish(b"no status at all")
    for position in range(end + 5):
        rig.node.publish(
            CommandStatus(
                partition=0,
                position=position,
                code=StatusCode.ACCEPTED,
                reason=None,
                text="",
                at_us=7,
                volume="a",
                host="another",
                session="s",
                sequence=0,
            )
        )
        rig.node.publish(
            CommandStatus(
                partition=0,
                position=position + 100,
                code=StatusCode.REJECTED,
                reason="UNDECODABLE",
                text="",
                at_us=7,
            )
        )
    with pytest.raises(KafkaFailed, match="2 commands are published"):
        host.drain()
    rig.node.runs = True
    host.drain()
    # A node that was killed answers everything again.
    for message in rig.broker.messages(STATUS):
        rig.broker.append(STATUS, 0, b"", message.value)
    host.close()
    assert read_previous_log(rig.folder).volumes == frozenset()


def test_retired_volumes_are_not_opened(rig: Rig) -> None:
    rig.volumes["a"] = notation.volume(
        "a", SIZE, generation="g", primary="memory://a", state=VolumeState.RETIRED
    )
    with pytest.raises(BadUse, match="retired"):
        rig.open(rig.host())


# What happens to one partition, in order | the regions released at the end, and the refusals.
# p: a command is published; k5:x: its position, 5, is known, and region x waits for it; a5: the
# node accepts the command at position 5; r5: the node refuses it.
ORDERS = """
p k5:x a5                     | x
p k5:x                        |
p a5 k5:x                     | x
p p a5 a6 k5:x k6:y           | x y
p p k5:x a6 k6:y              |
p p k5:x a6 k6:y a5           | x y
p k5:x p k6:x a5              |
p k5:x p k6:x a6              |
p k5:x p k6:x a5 a6           | x
p k5:x a5 a5 p k7:x           |
p a3 k5:x                     |
p k5:x a5 p k7:y a5           | x
p k5:x p k6:y a5 p k7:z a6    | x y
p k5:x p k6:y p k7:z a6 a7 a5 | x y z
p k5:x r5                     | x 5
p r5 k5:x                     | x 5
p r4 k5:x                     |
"""


@pytest.mark.parametrize("case", ORDERS.strip().splitlines())
def test_statuses_in_any_order(case: str) -> None:
    events, expected = (part.split() for part in case.split("|"))
    broker = MemoryBroker()
    broker.create(SETTINGS.topics.specs(single_copy=True), 1)
    confirmations = Confirmations(StatusPorts(broker.reader(), broker), STATUS, "h")
    confirmations.watch(0)
    regions: dict[str, HotRegion] = {}
    refused: list[CommandStatus] = []
    for event in events:
        number, _, names = event[1:].partition(":")
        if event[0] == "p":
            confirmations.on_publishing(0)
        elif event[0] == "k":
            batch = [regions.setdefault(name, HotRegion("v", ord(name))) for name in names]
            for region in batch:
                region.unacknowledged += 1
            refused += confirmations.on_published(partition=0, position=int(number), regions=batch)
        else:
            code = StatusCode.ACCEPTED if event[0] == "a" else StatusCode.REJECTED
            NodeModel(broker).publish(
                CommandStatus(
                    partition=0,
                    position=int(number),
                    code=code,
                    reason=None,
                    text="",
                    at_us=7,
                    volume="v",
                    host="h",
                    session="s",
                    sequence=0,
                )
            )
            refused += confirmations.handle(confirmations.read(0))
    released = sorted(name for name, region in regions.items() if region.unacknowledged == 0)
    assert [*released, *(str(status.position) for status in refused)] == expected
    assert all(region.unacknowledged >= 0 for region in regions.values())


def test_memory_is_bounded_however_long_the_node_is_away() -> None:
    broker = MemoryBroker()
    broker.create(SETTINGS.topics.specs(single_copy=True), 1)
    confirmations = Confirmations(
        StatusPorts(broker.reader(), broker), STATUS, "h", max_waiting=5000
    )
    confirmations.watch(0)
    region = HotRegion("v", 0)
    for position in range(5000):
        assert not confirmations.is_full
        confirmations.on_publishing(0)
        region.unacknowledged += 1
        confirmations.on_published(partition=0, position=position, regions=(region,))
    assert confirmations.is_full
    assert region.unacknowledged == 1
    assert confirmations.count_waiting({0: 4999}) == 5000
    confirmations.on_publishing(0)
    for position in range(5000, 12_000):
        NodeModel(broker).publish(
            CommandStatus(
                partition=0,
                position=position,
                code=StatusCode.REJECTED,
                reason=None,
                text="",
                at_us=7,
            )
        )
    while messages := confirmations.read(0):
        confirmations.handle(messages)
    assert broker.end_position(STATUS, 0) == 7000  # the host reads the rest later
    confirmations.on_published(partition=0, position=20_000, regions=())
    assert confirmations.read(0)
