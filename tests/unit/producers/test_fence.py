"""Two hosts and one volume: who may write to it, decided by the order of the commands in its partition."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from notation import SHORT_KINDS

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DeviceFailed, ExitCode, KafkaFailed, OutOfRetention
from mirrorlog.producers.durable.activity_log import read_previous_log
from mirrorlog.producers.session.host import Host, HostPorts
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.reading.open_sessions import SessionPorts
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevices
from mirrorlog.simulation.memory_folder import MemoryFolder
from mirrorlog.tracking_log.heads import SessionHead, VolumeHead, Watermark
from mirrorlog.tracking_log.keys import head_key, watermark_key

SIZE = 100_000
SETTINGS = Settings(region_bytes=10_000, hot_regions=3)
TOPICS = SETTINGS.topics


class Clock:
    now_s = 0.0

    def now_us(self) -> int:
        return 1_000_000

    def monotonic_s(self) -> float:
        self.now_s += 1.0
        return self.now_s


@dataclass
class Rig:
    """One volume; each host has a state folder under its name. ask: runs each time that somebody asks who is there."""

    shared: bool = False
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    devices: MemoryDevices = field(default_factory=MemoryDevices)
    folders: dict[str, MemoryFolder] = field(default_factory=dict)
    ask: Callable[[], object] = lambda: None
    seen: int = 0

    def __post_init__(self) -> None:
        self.broker.create(TOPICS.specs(single_copy=True), 1)
        self.volume = Volume("v", "g", SIZE, 4096, 0, -1, True, "memory://v", shared=self.shared)
        self.devices.create("memory://v", SIZE)

    def host(self, name: str, session: int, folder: str = "") -> Host:
        ports = HostPorts(
            self.folders.setdefault(folder or name, MemoryFolder()),
            *(self.broker.publisher(), Clock(), self.devices, None),
            SessionPorts(self.broker.reader, self),  # type: ignore[arg-type],
        )
        return Host(
            name, ports, SETTINGS, {"v": self.volume}, new_session=lambda: str(UUID(int=session))
        )

    def end_position(self, topic: str, partition: int) -> int:
        ask, self.ask = self.ask, lambda: None
        ask()
        return self.broker.end_position(topic, partition)

    def open(self, host: Host, take_over: Collection[int] = ()) -> TrackedVolume:
        device = self.devices("memory://v", writable=True)
        named = [str(UUID(int=each)) for each in take_over]
        return host.open_all(
            [OpenRequest(self.volume, device, newly_created=True, take_over=named)]
        )["v"]

    def write(self, volume: TrackedVolume) -> None:
        volume.pwrite(b"x", 5)

    def told(self) -> str:
        """What was published since this was asked last."""
        messages = self.broker.partition(TOPICS.commands, 0).messages
        new, self.seen = [m for m in messages if m.position >= self.seen], messages[-1].position + 1
        commands = [decode(message.value or b"", TrackingCommand) for message in new]
        return " · ".join(_told(command) for command in commands if command.volume)

    def log(self, *rows: tuple[bytes, VolumeHead | Watermark]) -> None:
        for key, row in rows:
            self.broker.append(TOPICS.changelog, 0, key, encode(row))


def _told(command: TrackingCommand) -> str:
    extents = [f"{extent.offset}+{extent.length}" for extent in command.extents]
    return " ".join([f"s{UUID(command.session).int}", SHORT_KINDS[command.kind], *extents])


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_the_second_host_is_refused_before_its_first_write(rig: Rig) -> None:
    first, second = rig.host("one", 1), rig.host("two", 2)
    rig.write(rig.open(first))
    with pytest.raises(BadUse) as refused:
        rig.open(second)
    text = str(refused.value)
    assert refused.value.exit_code is ExitCode.BAD_USE
    assert (
        f"host 'one', session {UUID(int=1)}, since position 0, last heard of at 1970-01-01T00:00:01Z"
        in text
    )
    assert f"--take-over {UUID(int=1)}" in text and "volume v" in text
    assert rig.told() == "s1 open · s2 open · s2 close"
    assert not read_previous_log(rig.folders["two"]).volumes
    first.close()
    rig.told()
    rig.write(rig.open(second))
    second.close()
    assert rig.told() == "s2 open · s2 writes 5+1 · s2 close"


def test_of_two_that_open_at_once_the_earlier_one_has_it(rig: Rig) -> None:
    """The second opens, and asks, while the first has asked nobody yet."""
    first, second = rig.host("one", 1), rig.host("two", 2)

    def meanwhile() -> None:
        with pytest.raises(BadUse, match="'one'"):
            rig.open(second)

    rig.ask = meanwhile
    rig.write(rig.open(first))
    assert rig.told() == "s1 open · s2 open · s2 close"


def test_who_comes_later_is_not_in_the_way(rig: Rig) -> None:
    """It has opened, and hasn't asked yet: it will meet the earlier one."""
    first = rig.host("one", 1)
    command = TrackingCommand(
        *("v", "g", "two", str(UUID(int=2)), 0, CommandKind.SESSION_OPEN),
        *(ExtentColumns.of(()), 1, 1),
    )
    rig.ask = lambda: rig.broker.append(TOPICS.commands, 0, b"v", encode(command))
    rig.write(rig.open(first))
    assert rig.told() == "s1 open · s2 open"


def test_who_closes_while_it_is_asked_about_is_gone(rig: Rig) -> None:
    first, second = rig.host("one", 1), rig.host("two", 2)
    rig.open(first)
    rig.ask = first.close
    rig.open(second)


def test_the_own_dead_session_is_recovered_and_another_machines_host_of_that_name_is_not(
    rig: Rig,
) -> None:
    dead = rig.host("one", 1)
    rig.write(rig.open(dead))
    dead.abandon()
    with pytest.raises(BadUse, match=str(UUID(int=1))):
        rig.open(rig.host("one", 2, folder="elsewhere"))
    again = rig.host("one", 3)
    rig.write(rig.open(again))
    again.close()
    assert "s3 dirty 0+10000 · s1 close" in rig.told()


def test_its_own_session_that_the_activity_log_still_names_is_no_other(rig: Rig) -> None:
    """The primary couldn't be flushed at the start: what is owed is published when the volume is opened."""
    dead = rig.host("one", 1)
    rig.write(rig.open(dead))
    dead.abandon()
    device = rig.devices.devices.pop("memory://v")
    again = rig.host("one", 2)
    rig.devices.devices["memory://v"] = device
    rig.told()
    rig.write(rig.open(again))
    again.close()
    assert rig.told() == "s2 open · s2 dirty 0+10000 · s1 close · s2 writes 5+1 · s2 close"


@pytest.mark.parametrize(("shared", "name"), [(True, "one"), (False, "import:fio:x")])
def test_who_does_not_stand_in_the_way(shared: bool, name: str) -> None:
    rig = Rig(shared)
    rig.open(rig.host(name, 1))
    rig.open(rig.host("two", 2))


def test_taking_over_makes_all_dirty_and_closes_the_sessions_that_were_named(rig: Rig) -> None:
    """Only the other host's activity log knew what it hadn't published."""
    rig.write(rig.open(rig.host("one", 1)))
    rig.told()
    second = rig.host("two", 2)
    with pytest.raises(BadUse, match=str(UUID(int=1))):
        rig.open(second, take_over=[7])
    assert rig.told() == "s2 open · s2 close"
    rig.write(rig.open(second, take_over=[1]))
    assert rig.told() == f"s2 open · s2 dirty 0+{SIZE} · s1 close"
    third = rig.host("three", 3)
    with pytest.raises(BadUse, match=str(UUID(int=2))):  # two can't take over from the same one
        rig.open(third, take_over=[1])


def test_a_take_over_needs_a_primary_that_can_be_flushed(rig: Rig) -> None:
    rig.open(rig.host("one", 1))
    rig.told()

    def fail(operation: str, *_: object) -> None:
        if operation == "flush":
            raise OSError

    rig.devices.devices["memory://v"].hook = fail
    with pytest.raises((OSError, DeviceFailed)):
        rig.open(rig.host("two", 2), take_over=[1])
    assert "s1 close" not in rig.told()


# rows of the log from position 0 on (h: a head with session 1, opened and closed at these positions, or open; -: one
# without; w: the watermark), commands kept from, whether session 1 is in the way
CASES = """
h0:      w9   | 10 | yes
h0:5     w9   | 10 | no
h0:   -  w9   | 10 | no
h0:7  h0: w9  | 10 | no     # a worker that lost the partition sends its old head
h0:           | 0  | yes
w9            | 10 | no
h0:      w3   | 10 | gone
"""


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_what_only_the_log_holds(rig: Rig, case: str) -> None:
    rows, kept_from, expected = case.split("#", maxsplit=1)[0].split("|")
    for number in range(10):
        rig.broker.append(TOPICS.commands, 0, b"other", b"unreadable" if number else b"")
    rig.broker.trim(TOPICS.commands, 0, int(kept_from))
    later = SessionHead("later", "l", 8, 8, 9)
    for row in rows.split():
        opened, _, closed = row[1:].partition(":")
        if row[0] == "w":
            rig.log((watermark_key(0), Watermark(0, int(opened), 0)))
        else:
            one = (
                SessionHead(str(UUID(int=1)), "one", 0, 6, int(closed or -1), 4)
                if row != "-"
                else None
            )
            rig.log((head_key("v"), VolumeHead("v", "g", 3, (one,) if one else (later,))))
    rig.seen = 10
    expectation = {"yes": BadUse, "gone": OutOfRetention}.get(expected.strip())
    if expectation is None:
        rig.open(rig.host("two", 2))
    else:
        with pytest.raises(expectation):
            rig.open(rig.host("two", 2))
        assert rig.told() == "s2 open · s2 close"


def test_who_cannot_ask_does_not_open(rig: Rig) -> None:
    def away() -> None:
        raise KafkaFailed("planned")

    rig.ask = away
    with pytest.raises(KafkaFailed, match="planned"):
        rig.open(rig.host("one", 1))
    assert rig.told() == "s1 open · s1 close"
