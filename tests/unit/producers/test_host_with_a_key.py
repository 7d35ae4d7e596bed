"""A host with a key writes only once the node believes it, and one without a key not at all.

The node is a whole one, in memory. It works when the host waits for a status.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from keyed_node import EAST, SESSION, THEIRS, TOPICS, WEST, KeyedCluster
from notation import command, volume
from working_readers import WorkingReader

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import CommandKind, StatusCode, TrackingCommand
from mirrorlog.domain.host_keys import HostKey, is_session_of
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, BadUse, KafkaFailed
from mirrorlog.producers.durable.activity_log import read_previous_log
from mirrorlog.producers.publishing.confirmations import StatusPorts
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.reading.open_sessions import SessionPorts, read_sessions
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_devices import MemoryDevices
from mirrorlog.simulation.memory_folder import MemoryFolder

SIZE = 1 << 20
MISTYPED = HostKey(EAST.id, bytes(32))


@dataclass
class Rig:
    """A host of "db", and a node."""

    cluster: KeyedCluster = field(default_factory=KeyedCluster)
    folder: MemoryFolder = field(default_factory=MemoryFolder)
    devices: MemoryDevices = field(default_factory=MemoryDevices)
    reports: list[str] = field(default_factory=list)
    has_node: bool = True
    folded: int = 0

    def __post_init__(self) -> None:
        self.devices.create("memory://primary", SIZE)
        self.volume: Volume = volume("db", SIZE, primary="memory://primary", authenticated_after=-1)

    def _work(self) -> None:
        """Let the node fold the commands that are new, if it runs."""
        if self.has_node and self.cluster.end > self.folded:
            self.folded = self.cluster.end
            self.cluster.fold()

    def host(self, key: HostKey | None) -> Host:
        settings = Settings(host_key="" if key is None else key.as_text())
        broker = self.cluster.broker
        ports = HostPorts(
            self.folder,
            broker.publisher(settings.signer),
            ManualClock(look_s=0.01),
            self.devices,
            StatusPorts(WorkingReader(broker, self._work), broker),
            sessions=SessionPorts(broker.reader, broker),
        )
        return Host(
            "h",
            ports,
            settings,
            {"db": self.volume},
            new_session=settings.new_session,
            report=self.reports.append,
        )

    def open(self, host: Host) -> TrackedVolume:
        return host.open(self.volume, self.devices("memory://primary", writable=True), True)

    def commands(self) -> list[TrackingCommand]:
        messages = self.cluster.broker.messages(TOPICS.commands)
        return [decode(message.value or b"", TrackingCommand) for message in messages]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_each_of_its_commands_is_believed_and_names_an_acknowledged_position(rig: Rig) -> None:
    barrier = command("", "db", kind=CommandKind.BARRIER, sequence=-1, note="x")
    rig.cluster.send(barrier, EAST)  # the topic isn't empty
    host = rig.host(EAST)
    opened = rig.open(host)
    opened.pwrite(b"x", 0)
    host.close()
    rig.cluster.fold()
    codes = [status.code for status in rig.cluster.statuses().values()]
    assert codes == [StatusCode.ACCEPTED] * rig.cluster.end
    of_host = rig.commands()[1:]
    assert all(is_session_of(sent.session, "east") for sent in of_host)
    assert of_host[0].kind is CommandKind.SESSION_OPEN
    assert of_host[0].acknowledged_position == 0
    assert None not in {sent.acknowledged_position for sent in of_host}


def test_a_host_with_a_wrong_key_hears_it_before_its_first_write(rig: Rig) -> None:
    host = rig.host(MISTYPED)
    with pytest.raises(BadInput, match="another secret"):
        rig.open(host)
    assert CommandKind.WRITES not in {sent.kind for sent in rig.commands()}
    host.abandon()
    opened = rig.open(rig.host(EAST))
    opened.pwrite(b"x", 0)


def test_without_a_node_it_does_not_open_a_volume(rig: Rig) -> None:
    rig.has_node = False
    with pytest.raises(KafkaFailed, match="Is a node running"):
        rig.open(rig.host(EAST))


def test_a_host_without_a_key_opens_no_authenticated_volume(rig: Rig) -> None:
    with pytest.raises(BadUse, match="this host has no key"):
        rig.open(rig.host(None))
    assert rig.commands() == []


def test_what_a_host_with_a_key_left_stays_there_until_one_with_a_key_starts(rig: Rig) -> None:
    host = rig.host(EAST)
    rig.open(host).pwrite(b"x", 0)
    host.abandon()
    sent = rig.cluster.end
    rig.host(None).abandon()
    assert rig.cluster.end == sent
    assert "this host has no key" in rig.reports[-1]
    assert set(read_previous_log(rig.folder).regions["db"]) == {0}
    rig.host(EAST)
    assert "db" not in read_previous_log(rig.folder).volumes
    assert not [head for head in rig.cluster.believed()[0] if head.is_open]  # type: ignore[attr-defined]


def test_a_key_that_is_taken_away_stops_the_host_and_its_session_stays_open(rig: Rig) -> None:
    host = rig.host(EAST)
    opened = rig.open(host)
    rig.cluster.keys.keys = replace(rig.cluster.keys.keys, keys={})
    end = rig.cluster.end
    opened.pwrite(b"x", 8192)
    with pytest.raises(BadInput, match="NOT_AUTHENTIC"):
        host.drain()
    with pytest.raises(BadInput, match="NOT_AUTHENTIC"):
        opened.pwrite(b"x", 0)
    assert rig.cluster.blocks(after=end - 1) == ({2}, set())
    assert [head.is_open for head in rig.cluster.believed()[0]] == [True]  # type: ignore[attr-defined]


def test_who_has_the_volume_open_is_what_the_node_recorded(rig: Rig) -> None:
    """Commands behind the log may be anybody's: the node hasn't judged them yet."""
    cluster = rig.cluster
    cluster.east(CommandKind.SESSION_OPEN)
    cluster.fold()
    for kind, session in ((CommandKind.SESSION_CLOSE, SESSION), (CommandKind.SESSION_OPEN, THEIRS)):
        made = command("", "db", kind=kind, session=session, sequence=7, acknowledged_position=0)
        cluster.send(made, WEST)
    known = read_sessions(
        {"db": rig.volume},
        SessionPorts(cluster.broker.reader, cluster.broker),
        TOPICS,
        ManualClock(),
    )
    open_sessions = known.open_before({"db": cluster.end})
    assert [open_session.session for open_session in open_sessions] == [SESSION]
