"""Two hosts open one volume: the order of commands in its partition decides which one writes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from uuid import UUID

import notation
import pytest
from notation import SHORT_KINDS

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.histories import History, anchor_of
from mirrorlog.domain.volume_states import apply
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import (
    BadInput,
    BadUse,
    DeviceFailed,
    ExitCode,
    KafkaFailed,
    OutOfRetention,
    WrongCluster,
)
from mirrorlog.producers.durable.activity_log import read_previous_log
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.reading.catalog import Catalog, publish_volume
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
    """A clock whose monotonic time goes on by a second with each look."""

    now_s = 0.0

    def __init__(self) -> None:
        self.on_look: Callable[[], object] = lambda: None

    def now_us(self) -> int:
        return 1_000_000

    def monotonic_s(self) -> float:
        self.now_s += 1.0
        on_look, self.on_look = self.on_look, lambda: None
        on_look()
        self.on_look = on_look
        return self.now_s


@dataclass
class Rig:
    """One volume. Each host has a state folder under its name.

    on_search: called once, the next time that a host looks for other sessions.
    """

    shared: bool = False
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    devices: MemoryDevices = field(default_factory=MemoryDevices)
    folders: dict[str, MemoryFolder] = field(default_factory=dict)
    on_search: Callable[[], object] = lambda: None
    clock: Clock = field(default_factory=Clock)
    reports: list[str] = field(default_factory=list)
    descriptions: Catalog | None = None
    seen: int = 0

    def __post_init__(self) -> None:
        self.broker.create(TOPICS.specs(single_copy=True), 1)
        self.volume = notation.volume(
            "v", SIZE, generation="g", primary="memory://v", shared=self.shared
        )
        self.devices.create("memory://v", SIZE)

    def host(self, name: str, session: int, folder: str = "") -> Host:
        ports = HostPorts(
            self.folders.setdefault(folder or name, MemoryFolder()),
            self.broker.publisher(),
            self.clock,
            self.devices,
            sessions=SessionPorts(self.broker.reader, self),  # type: ignore[arg-type]
            descriptions=self.descriptions,
        )
        return Host(
            name,
            ports,
            SETTINGS,
            {"v": self.volume},
            new_session=lambda: str(UUID(int=session)),
            report=self.reports.append,
        )

    def host_that_follows_descriptions(self, name: str, session: int) -> Host:
        self.descriptions = Catalog(self.broker.reader(), self.broker, TOPICS, self.clock)
        return self.host(name, session)

    def describe(self, volume: Volume, host: Host) -> None:
        """Publish a description of the volume, and let the host look for it."""
        publisher = self.broker.publisher()
        publish_volume(publisher, TOPICS, volume)
        publisher.flush(1)
        for now_s in (1e6, 1e6 + 10):
            host.tick(now_s)

    def end_position(self, topic: str, partition: int) -> int:
        on_search, self.on_search = self.on_search, lambda: None
        on_search()
        return self.broker.end_position(topic, partition)

    def first_position(self, topic: str, partition: int) -> int:
        return self.broker.first_position(topic, partition)

    def cluster_id(self) -> str:
        return self.broker.cluster_id()

    def identity(self, topic: str) -> str:
        return self.broker.identity(topic)

    def open(self, host: Host, take_over: Collection[int] = ()) -> TrackedVolume:
        device = self.devices("memory://v", writable=True)
        sessions = [str(UUID(int=number)) for number in take_over]
        return host.open_all(
            [OpenRequest(self.volume, device, newly_created=True, take_over=sessions)]
        )["v"]

    def write(self, volume: TrackedVolume) -> None:
        volume.pwrite(b"x", 5)

    def published(self) -> str:
        """Return the commands published since the last call, in short."""
        messages = self.broker.partition(TOPICS.commands, 0).messages
        new, self.seen = [m for m in messages if m.position >= self.seen], messages[-1].position + 1
        commands = [decode(message.value or b"", TrackingCommand) for message in new]
        return " · ".join(_in_short(command) for command in commands if command.volume)

    def log(self, *rows: tuple[bytes, VolumeHead | Watermark]) -> None:
        for key, row in rows:
            self.broker.append(TOPICS.changelog, 0, key, encode(row))


def _in_short(command: TrackingCommand) -> str:
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
    session = f"host 'one', session {UUID(int=1)}, since position 0"
    assert f"{session}, last heard of at 1970-01-01T00:00:01Z" in text
    assert f"--take-over {UUID(int=1)}" in text and "volume v" in text
    assert rig.published() == "s1 open · s2 open · s2 close"
    assert not read_previous_log(rig.folders["two"]).volumes
    first.close()
    rig.published()
    rig.write(rig.open(second))
    second.close()
    # It says that the primary is new. Kafka knows of a write, which a new primary lacks.
    assert rig.published() == "s2 open · s2 dirty 0+4096 · s2 writes 5+1 · s2 close"


def test_of_two_hosts_that_open_at_once_the_earlier_one_gets_the_volume(rig: Rig) -> None:
    """The second host opens the volume, and looks for others, before the first has looked."""
    first, second = rig.host("one", 1), rig.host("two", 2)

    def meanwhile() -> None:
        with pytest.raises(BadUse, match="'one'"):
            rig.open(second)

    rig.on_search = meanwhile
    rig.write(rig.open(first))
    assert rig.published() == "s1 open · s2 open · s2 close"


def test_a_later_host_does_not_block_an_earlier_one(rig: Rig) -> None:
    """The later host has opened the volume and hasn't looked yet: it will find the earlier one."""
    first = rig.host("one", 1)
    command = TrackingCommand(
        volume="v",
        generation="g",
        host="two",
        session=str(UUID(int=2)),
        sequence=0,
        kind=CommandKind.SESSION_OPEN,
        extents=ExtentColumns.of(()),
        first_at_us=1,
        last_at_us=1,
    )
    rig.on_search = lambda: rig.broker.append(TOPICS.commands, 0, b"v", encode(command))
    rig.write(rig.open(first))
    assert rig.published() == "s1 open · s2 open"


def test_a_host_that_closes_during_the_search_does_not_block(rig: Rig) -> None:
    first, second = rig.host("one", 1), rig.host("two", 2)
    rig.open(first)
    rig.on_search = first.close
    rig.open(second)


def test_a_dead_session_of_this_host_is_recovered_and_one_of_a_host_of_the_same_name_blocks(
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
    assert "s3 dirty 0+10000 · s1 close" in rig.published()


def test_an_old_session_that_the_activity_log_still_names_does_not_block(rig: Rig) -> None:
    """At the start the primary couldn't be flushed, so open() publishes what is unpublished."""
    dead = rig.host("one", 1)
    rig.write(rig.open(dead))
    dead.abandon()
    device = rig.devices.devices.pop("memory://v")
    again = rig.host("one", 2)
    rig.devices.devices["memory://v"] = device
    rig.published()
    rig.write(rig.open(again))
    again.close()
    assert rig.published() == "s2 open · s2 dirty 0+10000 · s1 close · s2 writes 5+1 · s2 close"


@pytest.mark.parametrize(("shared", "name"), [(True, "one"), (False, "import:fio:x")])
def test_shared_volumes_and_imports_do_not_block(shared: bool, name: str) -> None:
    rig = Rig(shared)
    rig.open(rig.host(name, 1))
    rig.open(rig.host("two", 2))


def test_taking_over_marks_the_whole_volume_dirty_and_closes_the_named_sessions(rig: Rig) -> None:
    """Only the other host's activity log knew what was unpublished."""
    rig.write(rig.open(rig.host("one", 1)))
    rig.published()
    second = rig.host("two", 2)
    with pytest.raises(BadUse, match=str(UUID(int=1))):
        rig.open(second, take_over=[7])
    assert rig.published() == "s2 open · s2 close"
    rig.write(rig.open(second, take_over=[1]))
    assert rig.published() == f"s2 open · s2 dirty 0+{SIZE} · s1 close"
    third = rig.host("three", 3)
    with pytest.raises(BadUse, match=str(UUID(int=2))):  # two can't take over from the same one
        rig.open(third, take_over=[1])


def test_taking_over_needs_a_primary_that_can_be_flushed(rig: Rig) -> None:
    rig.open(rig.host("one", 1))
    rig.published()

    def fail(operation: str, *_: object) -> None:
        if operation == "flush":
            raise OSError

    rig.devices.devices["memory://v"].hook = fail
    with pytest.raises((OSError, DeviceFailed)):
        rig.open(rig.host("two", 2), take_over=[1])
    assert "s1 close" not in rig.published()


def test_a_host_that_lives_is_told_that_its_volume_was_taken_over(rig: Rig) -> None:
    """`volume move` publishes which sessions it ended. What was written before is still named."""
    host = rig.host_that_follows_descriptions("one", 1)
    opened = rig.open(host)
    opened.pwrite(b"before", 20)
    moved = replace(rig.volume, ended_sessions=("another", str(UUID(int=1))))
    rig.describe(moved, host)
    with pytest.raises(BadInput, match="taken over from this session"):
        rig.write(opened)
    assert len([line for line in rig.reports if "taken over" in line]) == 1
    with pytest.raises(BadInput, match="taken over"):
        host.close()
    assert "s1 writes 20+6" in rig.published()
    assert rig.folders["one"].read("activity.log") is not None


def test_a_host_whose_copy_was_left_behind_by_a_promotion_writes_no_more(rig: Rig) -> None:
    """A renewal is followed, a promotion isn't. What was written is named by the old generation."""
    host = rig.host_that_follows_descriptions("one", 1)
    opened = rig.open(host)
    opened.pwrite(b"before", 20)
    promoted = apply(rig.volume, notation.promotion(generation="g"), 9)
    assert promoted.generation == notation.OTHER_GENERATION
    rig.describe(promoted, host)
    with pytest.raises(BadInput, match="secondary of site b is the primary since position 9"):
        rig.write(opened)
    with pytest.raises(BadInput, match="secondary of site b"):
        host.close()
    messages = rig.broker.partition(TOPICS.commands, 0).messages
    commands = [decode(message.value or b"", TrackingCommand) for message in messages]
    assert {command.generation for command in commands if command.volume} == {"g"}
    assert "s1 writes 20+6" in rig.published()


def test_a_host_that_hears_of_a_promotion_only_after_a_renewal_writes_no_more(rig: Rig) -> None:
    """A renewal forgets promotions. The mark of the new primary is named all the same."""
    host = rig.host_that_follows_descriptions("one", 1)
    opened = rig.open(host)
    promoted = apply(rig.volume, notation.promotion(generation="g"), 9)
    third = str(UUID(int=3))
    renewal = notation.command(
        kind=CommandKind.NEW_GENERATION,
        generation=notation.OTHER_GENERATION,
        new_generation=third,
        sequence=-1,
    )
    renewed = apply(promoted, renewal, 12)
    assert renewed.generation == third and not renewed.promotions
    rig.describe(renewed, host)
    with pytest.raises(BadInput, match="another copy is the primary now"):
        rig.write(opened)


def test_sessions_that_are_open_at_a_promotion_hold_up_no_host_of_the_new_primary(
    rig: Rig,
) -> None:
    rig.open(rig.host("one", 1))
    command = notation.promotion(generation="g", parted_position=-1)
    position = rig.broker.append(TOPICS.commands, 0, b"v", encode(command))
    rig.volume = replace(apply(rig.volume, command, position), primary_id=None)
    rig.open(rig.host("two", 2))
    late = rig.host("three", 3)  # it opens the volume by the description of before
    device = rig.devices("memory://v", writable=True)
    request = OpenRequest(replace(rig.volume, generation="g"), device, newly_created=True)
    with pytest.raises((BadUse, KafkaFailed)):
        late.open_all([request])


def clone_of(rig: Rig, name: str) -> MemoryFolder:
    """Return a copy of a host's state folder, on another machine."""
    folder = MemoryFolder()
    folder.restore(rig.folders[name].snapshot())
    folder.place = "another machine"
    return folder


def test_a_clone_beside_its_original_is_refused_and_publishes_nothing(rig: Rig) -> None:
    original = rig.host("one", 1)
    opened = rig.open(original)
    rig.write(opened)
    rig.folders["clone"] = clone_of(rig, "one")
    rig.published()
    rig.clock = Clock()
    rig.clock.on_look = lambda: original.tick(1e9 + rig.clock.now_s)
    with pytest.raises(BadUse, match=f"session {UUID(int=1)} of host 'one' lives.*a copy"):
        rig.host("one", 2, folder="clone")
    assert "s2" not in rig.published()
    rig.clock.on_look = lambda: None
    rig.write(opened)
    original.close()
    assert rig.published().endswith("s1 writes 5+1 · s1 close")


def test_a_copy_whose_original_is_gone_recovers_what_it_left(rig: Rig) -> None:
    original = rig.host("one", 1)
    rig.write(rig.open(original))
    original.abandon()
    rig.folders["clone"] = clone_of(rig, "one")
    rig.published()
    copied = rig.host("one", 2, folder="clone")
    rig.open(copied)
    assert rig.published() == "s2 dirty 0+10000 · s1 close · s2 close · s2 open"
    copied.abandon()
    assert len(rig.reports) == 2 and rig.reports[0].startswith("the state folder was last used")
    rig.host("one", 3, folder="clone")  # the folder is this machine's now
    assert len([report for report in rig.reports if "elsewhere" in report]) == 1


def test_a_clone_of_a_settled_folder_is_kept_off_by_the_fence(rig: Rig) -> None:
    original = rig.host("one", 1)
    rig.open(original)
    original.close()
    rig.folders["clone"] = clone_of(rig, "one")
    original = rig.host("one", 2)
    rig.open(original)
    with pytest.raises(BadUse, match=f"--take-over {UUID(int=2)}"):
        rig.open(rig.host("one", 3, folder="clone"))


# The rows of the log, from position 0 on | the first command that is kept | whether session 1
# blocks. h is a head with session 1, with the positions where it was opened and closed (open if
# there is no second one); - is a head without session 1; w is the watermark.
CASES = """
h0:      w9   | 10 | yes
h0:5     w9   | 10 | no
h0:   -  w9   | 10 | no
h0:7  h0: w9  | 10 | no     # a worker that lost the partition sends an old head
h0:           | 0  | yes
w9            | 10 | no
h0:      w3   | 10 | gone
"""


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_sessions_that_only_the_log_holds(rig: Rig, case: str) -> None:
    rows, kept_from, expected = case.split("#", maxsplit=1)[0].split("|")
    for number in range(10):
        rig.broker.append(TOPICS.commands, 0, b"other", b"unreadable" if number else b"")
    rig.broker.trim(TOPICS.commands, 0, int(kept_from))
    later = SessionHead("later", "l", opened_position=8, last_position=8, closed_position=9)
    for row in rows.split():
        opened, _, closed = row[1:].partition(":")
        if row[0] == "w":
            rig.log((watermark_key(0), Watermark(partition=0, through=int(opened), at_us=0)))
        else:
            one = SessionHead(
                str(UUID(int=1)),
                "one",
                opened_position=0,
                last_position=6,
                closed_position=int(closed or -1),
                acknowledged_position=4,
            )
            sessions = (later,) if row == "-" else (one,)
            rig.log((head_key("v"), VolumeHead("v", "g", through=3, sessions=sessions)))
    rig.seen = 10
    expectation = {"yes": BadUse, "gone": OutOfRetention}.get(expected.strip())
    if expectation is None:
        rig.open(rig.host("two", 2))
    else:
        with pytest.raises(expectation):
            rig.open(rig.host("two", 2))
        assert rig.published() == "s2 open · s2 close"


@pytest.mark.parametrize("log_end", [None, 3])
def test_a_host_is_told_which_commands_are_gone_and_that_the_node_repairs_it(
    rig: Rig, log_end: int | None
) -> None:
    for _ in range(10):
        rig.broker.append(TOPICS.commands, 0, b"other", b"unreadable")
    rig.broker.trim(TOPICS.commands, 0, 10)
    if log_end is not None:
        rig.log((watermark_key(0), Watermark(partition=0, through=log_end, at_us=0)))
    with pytest.raises(OutOfRetention) as raised:
        rig.open(rig.host("two", 2))
    error = raised.value
    ends = "the log is empty" if log_end is None else "the log ends at position 3"
    assert error.what.startswith(f"{ends}, and the commands are kept from position 10 on")
    assert error.where.startswith("volume v, topic mirrorlog.commands, partition 0, from position")
    assert "renews the history of the partition" in error.next


# What became of the commands topic, of which the log held the positions 0 to 9
BREAKS = ("created again", "went back", "went back, and used its positions again")


@pytest.mark.parametrize("what", BREAKS)
def test_a_session_of_an_earlier_history_blocks_whatever_its_position(rig: Rig, what: str) -> None:
    """The node hasn't renewed the history yet. Old positions say nothing of the new topic."""
    for number in range(10):
        rig.broker.append(TOPICS.commands, 0, b"other", b"old %d" % number)
    history = History(
        cluster="memory", topic=rig.broker.identity(TOPICS.commands), epoch=1, id=str(UUID(int=9))
    )
    anchor = anchor_of(b"other", b"old 9")
    watermark = Watermark(partition=0, through=9, at_us=0, history=history, anchor=anchor)
    one = SessionHead(str(UUID(int=1)), "one", opened_position=8, last_position=9)
    head = VolumeHead("v", "g", through=3, sessions=(one,))
    rig.log((head_key("v"), head), (watermark_key(0), watermark))
    if what == "created again":
        rig.broker.delete([TOPICS.commands])
        rig.broker.create(TOPICS.specs(single_copy=True), 1)
    else:
        rig.broker.rewind(TOPICS.commands, 0, 2)
        for number in range(10 if "used" in what else 0):
            rig.broker.append(TOPICS.commands, 0, b"other", b"new %d" % number)
    rig.seen = rig.broker.end_position(TOPICS.commands, 0)
    with pytest.raises(BadUse, match="since before the log's history was renewed"):
        rig.open(rig.host("two", 2))
    assert rig.published() == "s2 open · s2 close"


def test_a_host_on_a_mirror_of_the_log_is_refused(rig: Rig) -> None:
    history = History(cluster="source", topic=None, epoch=1, id=str(UUID(int=9)))
    rig.log((watermark_key(0), Watermark(partition=0, through=0, at_us=0, history=history)))
    with pytest.raises(WrongCluster, match="this cluster is memory"):
        rig.open(rig.host("one", 1))


def test_a_host_that_cannot_search_does_not_open(rig: Rig) -> None:
    def away() -> None:
        raise KafkaFailed("planned")

    rig.on_search = away
    with pytest.raises(KafkaFailed, match="planned"):
        rig.open(rig.host("one", 1))
    assert rig.published() == "s1 open · s1 close"
