"""Regions that nobody writes to leave the activity log, and no write is forgotten by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from threading import Event, Thread
from uuid import UUID

import notation
import pytest
from deadlines import DEADLINE_S
from late_jobs import LateJobs

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.errors import DeviceFailed
from mirrorlog.producers.batches.hot_regions import HotRegion, VolumeRegions
from mirrorlog.producers.batches.idle_regions import RecentUses, plan_cooling
from mirrorlog.producers.durable.activity_log import REWRITTEN_SLOTS, read_previous_log
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.writes.background_jobs import BackgroundJobs, ThreadJobs
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryPublisher
from mirrorlog.simulation.memory_devices import MemoryDevices, failing
from mirrorlog.simulation.memory_folder import MemoryFolder

REGION = 4096
REGIONS = 1000
IDLE_S = 5.0

# Regions by what keeps them hot: = nothing, u a recent use, w a write in flight, a an
# unacknowledged batch, f a missing flush | which leave | whether the primary is to be flushed
COOLING = """
=    | 0   |
u    |     |
w    |     |
a    |     |
f    |     | flush
=uf= | 0 3 | flush
wa   |     |
"""


@pytest.mark.parametrize("case", COOLING.strip("\n").splitlines())
def test_an_idle_region_leaves_once_it_is_acknowledged_and_durable(case: str) -> None:
    kept_by, leaving, flush = (part.strip() for part in case.split("|"))
    regions = {
        number: HotRegion(
            "v",
            number,
            in_flight=int(why == "w"),
            unacknowledged=int(why == "a"),
            last_write=7 + (why == "f"),
            last_use=3 + (why == "u"),
        )
        for number, why in enumerate(kept_by)
    }
    plan = plan_cooling([VolumeRegions("v", regions, durable=7)], RecentUses(1.0, idle_use=3))
    assert " ".join(str(region.number) for region in plan.leaving) == leaving
    assert list(plan.unflushed) == (["v"] if flush else [])


def test_the_region_that_is_the_whole_volume_waits_for_a_flush_and_leaves_by_another_way() -> None:
    volume = VolumeRegions("v", finished=9)
    volume.fall_back_to_whole_volume({})
    uses = RecentUses(1.0, idle_use=3)
    assert list(plan_cooling([volume], uses).unflushed) == ["v"]
    volume.durable = 9
    plan = plan_cooling([volume], uses)
    assert (plan.leaving, plan.unflushed) == ([], [])


@dataclass
class Rig:
    """A host with one open volume, `v`, of 1000 regions."""

    settings: Settings = field(
        default_factory=lambda: Settings(region_bytes=REGION, host_region_idle_s=IDLE_S)
    )
    jobs: BackgroundJobs | None = None
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    folder: MemoryFolder = field(default_factory=MemoryFolder)
    devices: MemoryDevices = field(default_factory=MemoryDevices)
    clock: ManualClock = field(default_factory=ManualClock)
    reports: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        size = REGION * REGIONS
        self.broker.create(self.settings.topics.specs(single_copy=True), 1)
        self.disk = self.devices.create("memory://v", size)
        self.described = notation.volume("v", size, generation="g", primary="memory://v")
        self.publisher = self.broker.publisher()
        self.host = self.start(1)
        self.volume = self.host.open(
            self.described, self.devices("memory://v", writable=True), newly_created=True
        )
        self.syncs = self.flushes = 0
        self.folder.hook = self.count_sync
        self.disk.hook = self.count_flush

    def start(self, session: int, publisher: MemoryPublisher | None = None) -> Host:
        more = {} if self.jobs is None else {"jobs": self.jobs}
        ports = HostPorts(
            self.folder, publisher or self.publisher, self.clock, self.devices, **more
        )
        return Host(
            "h",
            ports,
            self.settings,
            {"v": self.described},
            new_session=lambda: str(UUID(int=session)),
            report=self.reports.append,
        )

    def count_sync(self, operation: str) -> None:
        self.syncs += operation == "sync"

    def count_flush(self, operation: str, _: int, __: int) -> None:
        self.flushes += operation == "flush"

    def write(self, *regions: int) -> None:
        for number in regions:
            self.volume.pwrite(b"x" * 10, number * REGION)

    def wait(self, seconds: float, then: Callable[[], object] = lambda: None) -> None:
        """Let time pass for the host, a tenth of a second at a time, and call `then` each time."""
        for _ in range(round(seconds * 10)):
            self.clock.now_s += 0.1
            self.host.tick(self.clock.now_s)
            then()

    @property
    def hot(self) -> set[int]:
        """The hot regions, as the activity log has them on the disk."""
        return set(read_previous_log(self.folder).regions.get("v", ()))

    @property
    def commands_sent(self) -> int:
        """How many commands with writes were published."""
        commands = (
            decode(message.value or b"", TrackingCommand)
            for message in self.broker.messages(self.settings.topics.commands)
        )
        return sum(command.kind is CommandKind.WRITES for command in commands)

    def bytes_marked_after_kill(self) -> int:
        """Kill the host, start it again, and return how many bytes it marks dirty."""
        self.host.abandon()
        self.folder.kill()
        topic = self.settings.topics.commands
        before = len(self.broker.messages(topic))
        self.start(2, self.broker.publisher())
        commands = [
            decode(message.value or b"", TrackingCommand)
            for message in self.broker.messages(topic)[before:]
        ]
        return sum(
            extent.length
            for command in commands
            if command.kind is CommandKind.MARK_DIRTY
            for extent in command.extents
        )


def test_a_host_that_idled_marks_nothing_when_it_was_killed() -> None:
    rig, random = Rig(), Random(1)
    rig.wait(60, lambda: rig.write(random.randrange(REGIONS), random.randrange(REGIONS)))
    rig.wait(10)
    assert rig.bytes_marked_after_kill() == 0


def test_a_host_that_is_killed_amid_writes_marks_the_regions_of_the_last_seconds() -> None:
    rig = Rig()
    written = iter(range(REGIONS))
    rig.wait(60, lambda: rig.write(next(written)))
    # Ten regions a second: those of the idle time, of a round and of the open batch.
    assert rig.bytes_marked_after_kill() <= (IDLE_S + 2 * IDLE_S / 5 + 1) * 10 * REGION


def test_regions_leave_with_few_syncs_and_one_flush() -> None:
    rig = Rig()
    rig.write(*range(REGIONS))
    rig.wait(1)
    syncs = rig.syncs
    rig.wait(10)
    assert rig.hot == set()
    assert rig.flushes == 1
    # A round that lets a thousand regions leave, beside the notes of positions.
    assert rig.syncs - syncs <= REWRITTEN_SLOTS


def test_a_region_that_stays_hot_costs_nothing() -> None:
    rig = Rig()
    rig.write(3)
    syncs = rig.syncs
    rig.wait(60, lambda: rig.write(3))
    assert (rig.hot, rig.syncs - syncs, rig.flushes) == ({3}, 0, 0)


def test_a_write_that_returns_to_a_region_costs_one_more_sync() -> None:
    rig = Rig()
    for _ in range(10):
        rig.write(3)
        rig.wait(10)
    assert (rig.hot, rig.syncs, rig.flushes) == (set(), 20, 10)


def test_no_region_leaves_when_none_may_be_idle() -> None:
    rig = Rig(Settings(region_bytes=REGION, host_region_idle_s=0))
    rig.write(3)
    rig.wait(60)
    assert rig.hot == {3}


@pytest.mark.parametrize("what", ["unacknowledged", "saved in the spool"])
def test_nothing_leaves_before_kafka_has_acknowledged_it(what: str) -> None:
    rig = Rig()
    rig.publisher.poll = lambda _timeout_s: None  # type: ignore[method-assign]
    rig.write(3)
    rig.wait(20)
    if what != "unacknowledged":
        with rig.host._tracker.lock:
            assert rig.host._outbox.save_to_spool()
    rig.volume.flush()
    rig.wait(20)
    assert rig.hot == {3}
    del rig.publisher.poll
    rig.wait(20)
    assert rig.hot == set()


def test_a_cool_region_is_durable_in_the_log_before_the_next_data() -> None:
    rig = Rig()
    rig.write(3)
    rig.wait(10)
    hot: list[set[int]] = []

    def look(operation: str, _: int, __: int) -> None:
        if operation == "pwrite":
            rig.folder.crash()
            hot.append(rig.hot)

    assert rig.hot == set()
    rig.disk.hook = look
    rig.write(3)
    assert hot == [{3}]


def test_a_write_that_begins_while_its_region_leaves_keeps_it() -> None:
    rig = Rig()
    rig.write(3, 4)
    rig.wait(4)
    rig.volume.flush()
    seen: list[set[int]] = []

    def idle(operation: str, _: int, __: int) -> None:
        if operation == "pwrite":
            rig.disk.hook = None
            rig.wait(6)
            seen.append(rig.hot)

    rig.disk.hook = idle
    rig.write(3)
    assert seen == [{3}]
    rig.wait(10)
    assert rig.hot == set()


def test_a_write_during_the_flush_waits_for_the_next_one() -> None:
    jobs = LateJobs()
    rig = Rig(jobs=jobs)
    rig.write(3, 4)
    rig.wait(7)
    assert len(jobs.waiting) == 1
    rig.disk.hook = lambda operation, _, __: operation == "flush" and rig.write(4)
    jobs.run()
    rig.disk.hook = rig.count_flush
    rig.wait(1)
    assert rig.hot == {4}
    rig.wait(10, jobs.run)
    assert (rig.hot, rig.flushes) == (set(), 1)


def test_a_flush_that_fails_in_the_background_ends_writing() -> None:
    rig = Rig()
    rig.write(3)
    rig.disk.hook = failing(1, "flush")
    rig.wait(10)
    assert rig.hot == {3}
    assert len([text for text in rig.reports if "planned" in text]) == 1
    with pytest.raises(DeviceFailed, match="planned"):
        rig.write(3)


def test_no_primary_is_flushed_any_more_when_its_volume_is_closed() -> None:
    jobs = LateJobs()
    rig = Rig(jobs=jobs)
    rig.write(3)
    rig.wait(7)
    assert len(jobs.waiting) == 1
    rig.volume.close()
    assert (jobs.waiting, rig.flushes) == ([], 1)
    assert not read_previous_log(rig.folder).volumes


def test_jobs_in_threads_are_waited_for() -> None:
    jobs, goes_on, done = ThreadJobs(), Event(), list[bool]()
    jobs.wait()
    jobs.start(lambda: done.append(goes_on.wait(DEADLINE_S)))
    Thread(target=goes_on.set).start()
    jobs.wait()
    assert done == [True]


def test_a_volume_that_was_dirty_as_a_whole_returns_to_regions_without_a_flush_of_its_own() -> None:
    rig = Rig()
    rig.write(3)
    with rig.host._tracker.lock:
        rig.host._tracker.fall_back_to_whole_volume(["v"])
    rig.wait(10)
    assert not read_previous_log(rig.folder).whole
    assert rig.bytes_marked_after_kill() == 0


def test_nothing_leaves_while_kafka_answers_but_the_spool_has_the_only_note_of_a_command() -> None:
    rig = Rig()
    rig.publisher.poll = lambda _timeout_s: None  # type: ignore[method-assign]
    for number in (3, 6):
        rig.write(number)
        rig.wait(1)
    rig.wait(20)
    with rig.host._tracker.lock:
        assert rig.host._outbox.save_to_spool()
    rig.volume.flush()
    del rig.publisher.poll
    first, *others = rig.publisher._queue
    rig.publisher._queue = [first]
    rig.publisher.poll(0)
    rig.publisher._queue[:0] = others
    assert rig.host._outbox.can_publish_now
    rig.publisher.poll = lambda _timeout_s: None  # type: ignore[method-assign]
    rig.wait(1.5)
    assert rig.hot == {3, 6}
    del rig.publisher.poll
    rig.wait(20)
    assert rig.hot == set()


def test_nothing_leaves_in_a_partition_whose_history_broke() -> None:
    rig = Rig()
    rig.write(3)
    rig.wait(1)
    rig.volume.flush()
    with rig.host._tracker.lock:
        rig.host._outbox.positions.note(0, 0)  # a position that goes back
    for _ in range(2):
        rig.clock.now_s += 2 * IDLE_S
        rig.host._tracker.tick(rig.clock.now_s)  # Host.tick would handle the break first
    assert rig.hot == {3}


@pytest.mark.parametrize(("hot_regions", "kept"), [(128, 32), (8, 9)])
def test_a_batch_leaves_before_it_keeps_more_than_a_quarter_of_the_hot_regions(
    hot_regions: int, kept: int
) -> None:
    """Kafka has then acknowledged them before others need their room.

    A batch of few regions leaves when they all need room, however few may be hot.
    """
    rig = Rig(Settings(region_bytes=REGION, hot_regions=hot_regions, host_linger_s=1000))
    sent = rig.commands_sent
    rig.write(*range(kept - 1))
    rig.wait(0.1)
    assert rig.commands_sent == sent
    rig.write(kept - 1)
    rig.wait(0.1)
    assert rig.commands_sent == sent + 1


def test_no_write_waits_for_a_flush_that_the_host_begins_in_time() -> None:
    """A client goes through more regions than may be hot, and never flushes."""
    jobs = LateJobs()
    rig = Rig(Settings(region_bytes=REGION, hot_regions=128), jobs)
    in_writes = 0
    for number in range(REGIONS):
        before = rig.flushes
        rig.write(number)
        in_writes += rig.flushes - before
        rig.wait(0.1, jobs.run)
    assert in_writes == 0
    assert 5 < rig.flushes < 100


def test_a_write_flushes_the_primary_itself_if_nothing_else_has() -> None:
    rig = Rig(Settings(region_bytes=REGION, hot_regions=128), LateJobs())
    for number in range(REGIONS):
        rig.write(number)
        rig.wait(0.1)
    assert 5 < rig.flushes < 30
