"""A state folder that went back in time, with the primary or without: what the host publishes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest
from clocks import CountingClock
from notation import SHORT_KINDS, volume

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.histories import History
from mirrorlog.errors import BadUse, KafkaFailed
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.producers.durable.activity_format import (
    ActivityEntry,
    ActivityOp,
    ActivityState,
    KnownPosition,
    VolumeActivity,
    pack_log,
    read_log,
)
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.session.unvouched import LATE_S, NOTE_S, went_back_reason
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.reading.open_sessions import PartitionSessions, SessionPorts
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevices
from mirrorlog.simulation.memory_folder import MemoryFolder
from mirrorlog.tracking_log.heads import SessionHead, VolumeHead, Watermark
from mirrorlog.tracking_log.keys import watermark_key

BLOCK, SIZE = 4096, 16 * 4096
SETTINGS = Settings(region_bytes=BLOCK, hot_regions=4, host_region_idle_s=0)
TOPIC = SETTINGS.topics.commands
VOLUME = volume(size_bytes=SIZE, primary="memory://v")
WHOLE = f"dirty 0+{SIZE}"


class Clock(CountingClock):
    """A clock whose two times go on together."""

    def now_us(self) -> int:
        return super().now_us() + int(self.now_s * 1e6)


@dataclass
class Rig:
    """One host with its disks: the state folder and the primary."""

    broker: MemoryBroker = field(default_factory=MemoryBroker)
    devices: MemoryDevices = field(default_factory=MemoryDevices)
    folder: MemoryFolder = field(default_factory=MemoryFolder)
    clock: Clock = field(default_factory=Clock)
    reports: list[str] = field(default_factory=list)
    sessions: int = 0
    seen: int = 0

    def __post_init__(self) -> None:
        self.broker.create(SETTINGS.topics.specs(single_copy=True), 1)
        self.device = self.devices.create("memory://v", SIZE)

    def open(self, name: str = "h", *, new: bool = False, **more: object) -> TrackedVolume:
        """Start a session and open the volume in it."""
        self.start(name)
        device: BlockDevice = self.devices("memory://v", writable=True)
        request = OpenRequest(VOLUME, device, newly_created=new)
        return self.host.open_all([replace(request, **more)])["v"]  # type: ignore[arg-type]

    def start(self, name: str = "h") -> None:
        """Start a session."""
        ports = HostPorts(
            self.folder,
            self.broker.publisher(),
            self.clock,
            self.devices,
            sessions=SessionPorts(self.broker.reader, self.broker),
        )
        self.sessions += 1
        session = str(UUID(int=self.sessions))
        self.host = Host(
            name,
            ports,
            SETTINGS,
            {"v": VOLUME},
            new_session=lambda: session,
            report=self.reports.append,
        )

    def write(self, opened: TrackedVolume, block: int) -> None:
        """Write a block, and publish it."""
        opened.pwrite(bytes([block + 1]) * BLOCK, block * BLOCK)
        self.host.drain()

    def cool(self, opened: TrackedVolume) -> None:
        """Make room in the activity log, by writing elsewhere."""
        for block in range(10, 16):
            self.write(opened, block)

    def wait(self, seconds: float) -> None:
        """Let time pass for the host, a heartbeat at a time."""
        for _ in range(round(seconds)):
            self.clock.now_s += 1
            self.host.tick(self.clock.now_s)
        self.host.drain()

    def snapshot(self) -> tuple[Mapping[str, bytes], bytes]:
        return self.folder.snapshot(), self.device.snapshot()

    def restore(self, snapshot: tuple[Mapping[str, bytes], bytes]) -> None:
        """End the process, and let the disks go back in time."""
        self.folder.restore(snapshot[0])
        self.device.restore(snapshot[1])

    def published(self) -> str:
        """Return the commands since the last call, in short; heartbeats are left out."""
        messages = self.broker.partition(TOPIC, 0).messages
        new, self.seen = [m for m in messages if m.position >= self.seen], messages[-1].position + 1
        commands = [decode(message.value or b"", TrackingCommand) for message in new]
        return " · ".join(_in_short(command) for command in commands if command.volume)


def _in_short(command: TrackingCommand) -> str:
    extents = [f"{extent.offset}+{extent.length}" for extent in command.extents]
    return " ".join([f"s{UUID(command.session).int}", SHORT_KINDS[command.kind], *extents])


class ForgetfulBroker(MemoryBroker):
    """A broker that loses the first command before it says where the commands end."""

    has_lost = False

    def end_position(self, topic: str, partition: int) -> int:
        end = super().end_position(topic, partition)
        if topic != TOPIC or self.has_lost or not end:
            return end
        self.has_lost = True
        self.rewind(topic, partition, end - 1)
        return end - 1


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_clean_restart_publishes_nothing_as_dirty(rig: Rig) -> None:
    opened = rig.open(new=True)
    rig.write(opened, 1)
    rig.host.close()
    rig.published()
    rig.open().close()
    rig.host.close()
    assert rig.published() == "s2 open · s2 close"


def test_after_a_snapshot_between_two_sessions_the_whole_volume_is_dirty(rig: Rig) -> None:
    opened = rig.open(new=True)
    rig.host.close()
    snapshot = rig.snapshot()
    opened = rig.open()
    rig.write(opened, 1)
    rig.host.close()
    rig.published()
    rig.restore(snapshot)
    rig.open()
    assert rig.published() == f"s3 open · s3 {WHOLE}"
    assert any("whole" in line and str(UUID(int=2)) in line for line in rig.reports)


def test_after_a_snapshot_of_a_running_session_all_that_it_published_later_is_dirty(
    rig: Rig,
) -> None:
    opened = rig.open(new=True)
    rig.write(opened, 1)
    rig.cool(opened)
    snapshot = rig.snapshot()
    rig.write(opened, 5)
    rig.cool(opened)
    rig.published()
    rig.restore(snapshot)
    rig.open()
    assert f"{5 * BLOCK}+{BLOCK}" in rig.published()
    assert any("count as dirty" in line for line in rig.reports)


def test_long_after_a_snapshot_of_a_running_session_the_whole_volume_is_dirty(rig: Rig) -> None:
    """A site may have read writes that no command named, whose regions the new folder lost."""
    opened = rig.open(new=True)
    rig.wait(NOTE_S + 1)
    snapshot = rig.snapshot()
    rig.wait(LATE_S + 2)
    rig.write(opened, 5)
    rig.published()
    rig.restore(snapshot)
    rig.open()
    assert f"s2 {WHOLE}" in rig.published()
    assert any("went back in time" in line for line in rig.reports)


def test_after_a_crash_only_the_last_seconds_and_the_hot_regions_are_dirty(rig: Rig) -> None:
    opened = rig.open(new=True)
    for block in range(8):
        rig.write(opened, block)
    rig.wait(3 * NOTE_S)
    rig.write(opened, 9)
    rig.folder.kill()
    rig.published()
    rig.open()
    dirty = rig.published().split(" · ")
    # Four regions were hot, among them that of block 9.
    assert dirty == [f"s2 dirty {5 * BLOCK}+{3 * BLOCK} {9 * BLOCK}+{BLOCK}", *dirty[1:]]
    assert not any("more count as dirty" in line for line in rig.reports)


def test_a_session_of_the_restored_folder_that_is_open_in_the_log_has_to_be_taken_over(
    rig: Rig,
) -> None:
    rig.open(new=True)
    rig.host.close()
    snapshot = rig.snapshot()
    rig.write(rig.open(), 1)
    rig.restore(snapshot)
    with pytest.raises(BadUse, match=f"--take-over {UUID(int=2)}"):
        rig.open()
    rig.host.abandon()
    rig.published()
    rig.open(take_over=[str(UUID(int=2))])
    assert rig.published() == f"s4 open · s4 {WHOLE} · s2 close"


def test_a_primary_that_was_made_again_lacks_what_the_log_names(rig: Rig) -> None:
    """Both disks are lost, and the new primary is empty: it isn't newly created for the log."""
    opened = rig.open("elsewhere", new=True)
    rig.write(opened, 1)
    rig.host.close()
    rig.published()
    rig.restore(({}, bytes(SIZE)))
    rig.open(new=True)
    assert rig.published() == f"s2 open · s2 dirty {BLOCK}+{BLOCK}"


def test_what_others_published_since_the_folders_last_session_is_dirty_again(rig: Rig) -> None:
    """Another host had the volume. This machine's primary may be as old as its folder."""
    rig.open(new=True)
    rig.host.close()
    folder, rig.folder = rig.folder, MemoryFolder()
    opened = rig.open("other", new=True)
    rig.write(opened, 3)
    rig.host.close()
    rig.published()
    rig.folder = folder
    rig.open()
    assert rig.published() == f"s3 open · s3 dirty {3 * BLOCK}+{BLOCK}"


def test_a_host_that_was_refused_the_volume_proves_nothing(rig: Rig) -> None:
    rig.open(new=True)
    folder, host, rig.folder = rig.folder, rig.host, MemoryFolder()
    with pytest.raises(BadUse):
        rig.open(new=True)
    host.close()
    rig.published()
    rig.folder = folder
    rig.open()
    assert rig.published() == "s3 open"


# The folder knows the log of the volume through position 9. It was noted at second 100. Session
# "own" is its own. A session: name, host, positions opened-last, second when it was last heard of.
PROOFS = """
commands end | sessions        | proof
10           |                 | -
9            |                 | the commands end
10           | own h 3-9 100   | -
20           | own h 3-19 110  | -
20           | own h 3-19 120  | heard of
20           | own h 12-19 120 | -          # it began after the note: it is a start that died
20           | new h 12-19 120 | doesn't know
20           | new h 12-12 120 | -          # it was refused the volume
20           | new x 12-19 120 | -
20           | new h 3-8 90    | -          # the folder knew it once
20           | lost h 12-19 99 | -
20           | in another history | another one
20           | in this history    | -
20           | in a broken history | another one
"""
OWN_HISTORY = History(cluster=None, topic=None, epoch=1, id=str(UUID(int=1)))


@pytest.mark.parametrize("case", PROOFS.strip().splitlines()[1:])
def test_proofs_that_a_folder_went_back(case: str) -> None:
    end, session, proof = (word.strip() for word in case.split("#", maxsplit=1)[0].split("|"))
    heads = []
    history = ""
    if "history" in session:
        history = str(UUID(int=2 if "another" in session else 1))
    elif session:
        name, host, positions, heard_s = session.split()
        opened, last = positions.split("-")
        heads.append(
            SessionHead(
                name,
                host,
                opened_position=int(opened),
                last_position=int(last),
                last_at_us=int(heard_s) * 1_000_000,
            )
        )
    head = VolumeHead("v", "g", through=5, sessions=tuple(heads))
    reason = went_back_reason(
        "h",
        PartitionSessions(
            {"v": head},
            int(end),
            Watermark(partition=0, through=9, at_us=0, history=OWN_HISTORY),
            is_broken="broken" in session,
        ),
        "v",
        KnownPosition(9, 100_000_000, history),
        {"own"},
        {"lost"},
    )
    assert (reason is None) if proof == "-" else (reason is not None and proof in reason)


def test_the_activity_log_keeps_the_position_that_it_knows_through_a_rewrite() -> None:
    state, session = ActivityState(), str(UUID(int=1))
    for entry in (
        ActivityEntry(ActivityOp.OPENED, "v", session=session),
        ActivityEntry(ActivityOp.KNOWN, "v", position=-1, at_us=5),
        ActivityEntry(ActivityOp.OPENED, "other", session=session),
        ActivityEntry(ActivityOp.FOLLOWED, "v", partition=3),
        ActivityEntry(
            ActivityOp.REACHED, partition=3, position=1 << 40, at_us=7, history=str(UUID(int=9))
        ),
        ActivityEntry(ActivityOp.REACHED, partition=4, position=9, at_us=8),
    ):
        state.apply(entry)
    read = read_log(pack_log(state, session, region_bytes=4096, slots=4)[0])
    assert not read.damaged
    assert read.state == state
    known = read.state.volumes["v"]
    assert known.known_through == KnownPosition(1 << 40, 7, str(UUID(int=9)))
    assert known.followed == 3
    assert read.state.volumes["other"].known_through is None
    read.state.apply(ActivityEntry(ActivityOp.SETTLED, "v"))
    read.state.apply(ActivityEntry(ActivityOp.REACHED, partition=3, position=1 << 41))
    assert read.state.volumes["v"].known_through == known.known_through


# Files as versions 1 to 3 wrote them, without their zeros: session 1 is open on volume "v", whose
# region 5 is hot; version 2 spooled record 3, too. In version 3 region 6 was hot and is cool again,
# and primary 9 has been met.
OLD_LOGS = {
    1: (
        "4d4c4143544c4f4701000002020000000010000000000000" + "00" * 15 + "01",
        "0100000000000000" + "00" * 15 + "01210001017602017600000000000000000000000000000001"
        "0301760500000000000000",
    ),
    2: (
        "4d4c4143544c4f4702000002020000000010000000000000" + "00" * 15 + "01",
        "0100000000000000" + "00" * 15 + "01360001017602017600000000000000000000000000000001"
        "030176050000000000000008017609000300000000000000"
        "0300000000000000",
    ),
    3: (
        "4d4c4143544c4f4703000002020000000010000000000000" + "00" * 15 + "01",
        "0100000000000000"
        + "00" * 15
        + "014a00010176020176000000000000000000000000000000010301760500"
        "000000000000030176060000000000000004017606000000000000000d0176" + "00" * 15 + "09",
    ),
}


@pytest.mark.parametrize("version", OLD_LOGS)
def test_logs_of_older_versions_are_read_and_know_no_position(version: int) -> None:
    slots = [bytes.fromhex(slot).ljust(508, b"\0") for slot in OLD_LOGS[version]]
    sealed = b"".join(slot + zlib.crc32(slot).to_bytes(4, "little") for slot in slots)
    read = read_log(sealed + bytes(512))
    assert not read.damaged
    assert read.state.volumes["v"] == VolumeActivity(
        True,
        {str(UUID(int=1))},
        {5},
        spooled=version == 2,
        primary_id=str(UUID(int=9)) if version == 3 else "",
    )
    assert read.state.spool == ((3, 3) if version == 2 else (1, 0))


def test_a_host_that_knew_a_longer_topic_says_so_in_its_commands(rig: Rig) -> None:
    """The broker went back in time, log and commands alike: only the host can tell."""
    begin_history(rig)
    opened = rig.open(new=True)
    for block in range(6):
        rig.write(opened, block)
    rig.host.close()
    end = rig.broker.end_position(TOPIC, 0)
    rig.broker.rewind(TOPIC, 0, 3)
    rig.seen = 3
    # The close of its own session is gone, too.
    rig.open(take_over=[str(UUID(int=1))])
    messages = [m for m in rig.broker.messages(TOPIC) if m.position >= 3 and m.key]
    commands = [(m.position, decode(m.value or b"", TrackingCommand)) for m in messages]
    assert WHOLE in rig.published()
    position, first = commands[0]
    assert first.kind is CommandKind.SESSION_OPEN
    assert first.acknowledged_position is not None
    assert position < first.acknowledged_position < end
    assert any("the history of partition 0 broke" in line for line in rig.reports)


def test_a_command_of_an_unknown_volume_is_passed_over(rig: Rig) -> None:
    opened = rig.open(new=True)
    rig.write(opened, 1)
    rig.host.close()
    foreign = TrackingCommand(
        volume="other",
        generation="g",
        host="x",
        session="x",
        sequence=0,
        kind=CommandKind.WRITES,
        extents=decode(rig.broker.messages(TOPIC)[1].value or b"", TrackingCommand).extents,
        first_at_us=1,
        last_at_us=1,
    )
    rig.published()
    rig.broker.append(TOPIC, 0, b"v", encode(foreign))
    rig.broker.append(TOPIC, 0, b"v", b"no event")
    rig.seen += 2
    rig.open()
    assert rig.published() == "s2 open"


def begin_history(rig: Rig) -> None:
    """Let the log say which history the partition has, as a node does."""
    history = History(
        cluster="memory", topic=rig.broker.identity(TOPIC), epoch=1, id=str(UUID(int=7))
    )
    watermark = Watermark(partition=0, through=-1, at_us=0, history=history)
    rig.broker.append(SETTINGS.topics.changelog, 0, watermark_key(0), encode(watermark))


def test_a_region_leaves_the_activity_log_with_a_note_that_its_commands_are_acknowledged(
    rig: Rig,
) -> None:
    """No time passes, so no note was due. The broker loses the command of a cool region."""
    begin_history(rig)
    opened = rig.open(new=True)
    rig.write(opened, 1)
    rig.cool(opened)
    lost_from = 2
    rig.folder.kill()
    rig.broker.rewind(TOPIC, 0, lost_from)
    rig.seen = lost_from
    rig.open()
    assert f"s2 {WHOLE}" in rig.published()


def test_a_lost_end_of_the_topic_isnt_hidden_by_what_the_next_session_publishes(rig: Rig) -> None:
    begin_history(rig)
    rig.write(rig.open(new=True), 1)
    rig.host.close()
    end = rig.broker.end_position(TOPIC, 0)
    rig.broker.rewind(TOPIC, 0, end - 1)
    rig.seen = end - 1
    rig.open()
    assert rig.published() == f"s2 open · s2 {WHOLE}"
    assert rig.broker.end_position(TOPIC, 0) > end


def test_a_volume_that_isnt_opened_is_marked_too_when_the_topic_lost_its_end(rig: Rig) -> None:
    """Its commands are gone, and the other volume's new commands hide that later."""
    begin_history(rig)
    rig.write(rig.open(new=True), 1)
    rig.host.close()
    rig.broker.rewind(TOPIC, 0, 1)
    rig.seen = 1
    rig.start()
    assert rig.host._log.state.volumes["v"].whole_volume
    rig.folder.kill()
    for _ in range(9):
        rig.broker.append(TOPIC, 0, b"other", b"of another host")
    rig.seen += 9
    rig.start()
    assert rig.published() == f"s3 {WHOLE} · s3 close"


def test_a_session_whose_own_open_is_gone_before_it_looks_for_others_is_refused(rig: Rig) -> None:
    """The history breaks between the acknowledgement and the search."""
    rig.broker = ForgetfulBroker()
    rig.broker.create(SETTINGS.topics.specs(single_copy=True), 1)
    with pytest.raises(KafkaFailed, match="doesn't name the session that was opened"):
        rig.open(new=True)
    rig.host.abandon()
    rig.open(new=True)
