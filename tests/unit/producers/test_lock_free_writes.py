"""Lock-free writes, one interleaving at a time: what another thread does between two steps."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import Thread

import notation
import pytest
from deadlines import DEADLINE_S, wait_until

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.extents import ExtentKind
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers.batches.hot_regions import HotRegion
from mirrorlog.producers.batches.lock_free_writes import LockFreeWrites, has_interpreter_lock
from mirrorlog.producers.durable.activity_format import ActivityEntry
from mirrorlog.producers.durable.activity_log import read_previous_log
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevices
from mirrorlog.simulation.memory_folder import MemoryFolder

REGION = 10_000
SETTINGS = Settings(region_bytes=REGION, hot_regions=2, host_batch_extents=4)


@dataclass
class Rig:
    """A host with one open volume, `a`, of ten regions unless told; two of them may be hot."""

    has_interpreter_lock: Callable[[], bool] = has_interpreter_lock
    settings: Settings = SETTINGS
    regions: int = 10
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    folder: MemoryFolder = field(default_factory=MemoryFolder)
    devices: MemoryDevices = field(default_factory=MemoryDevices)

    def __post_init__(self) -> None:
        self.broker.create(SETTINGS.topics.specs(single_copy=True), 1)
        size = self.regions * REGION
        self.devices.create("memory://a", size)
        self.description = notation.volume("a", size, generation="g", primary="memory://a")
        ports = HostPorts(
            self.folder,
            self.broker.publisher(),
            SystemClock(),
            self.devices,
            has_interpreter_lock=self.has_interpreter_lock,
        )
        self.host = Host("h", ports, self.settings, {"a": self.description})
        self.volume = self.host.open(
            self.description, self.devices("memory://a", writable=True), newly_created=True
        )
        self.opened = self.host._tracker.volumes["a"]

    def write(self, *regions: int) -> None:
        """Write 10 bytes at the start of each of these regions."""
        for number in regions:
            self.volume.pwrite(b"x" * 10, number * REGION)

    def during(self, operation: str, action: Callable[[], object]) -> None:
        """Call `action` once, when the primary is at its next `operation`."""
        disk = self.devices.devices["memory://a"]

        def hook(name: str, _: int, __: int) -> None:
            if name == operation and disk.hook is not None:
                disk.hook = None
                action()

        disk.hook = hook

    def named(self) -> list[str]:
        """Return the extents of each command that names some, as offset+length."""
        messages = self.broker.messages(SETTINGS.topics.commands)
        commands = [decode(message.value or b"", TrackingCommand) for message in messages]
        return [
            " ".join(f"{e.offset}+{e.length}" for e in command.extents)
            for command in commands
            if command.extents
        ]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_hot_region_is_written_to_without_the_lock(rig: Rig) -> None:
    rig.write(3)
    rig.host._tracker.lock.acquire()
    began = []
    rig.during("pwrite", lambda: began.append(len(rig.opened.lock_free.in_flight)))
    rig.write(3)
    assert began == [1]
    assert not rig.opened.in_flight
    rig.host._tracker.lock.release()
    rig.host.drain()
    assert rig.named() == ["30000+10 30000+10"]


def test_every_write_takes_the_lock_without_an_interpreter_lock() -> None:
    rig = Rig(has_interpreter_lock=lambda: False)
    in_flight: list[tuple[int, int]] = []

    def count() -> None:
        in_flight.append((len(rig.opened.lock_free.in_flight), len(rig.opened.in_flight)))

    for _ in range(3):
        rig.during("pwrite", count)
        rig.write(3)
    assert in_flight == [(0, 1)] * 3
    assert not rig.opened.lock_free.writable
    assert not rig.opened.lock_free.ended
    rig.during("pwrite", rig.host.drain)  # a batch that closes during a write names it
    rig.write(3)
    rig.host.drain()
    assert rig.named() == ["30000+10 30000+10 30000+10 30000+10", "30000+10"]
    assert read_previous_log(rig.folder).regions["a"] == {3}
    rig.volume.close()
    assert not read_previous_log(rig.folder).volumes


def test_the_interpreter_says_whether_it_has_its_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_enabled in (True, False):
        monkeypatch.setattr(sys, "_is_gil_enabled", lambda answer=is_enabled: answer, raising=False)
        assert has_interpreter_lock() is is_enabled
    monkeypatch.delattr(sys, "_is_gil_enabled")
    for is_disabled, expected in ((None, True), (0, True), (1, False)):
        monkeypatch.setattr(sysconfig, "get_config_var", lambda _, answer=is_disabled: answer)
        assert has_interpreter_lock() is expected


def test_every_batch_that_closes_names_what_is_in_flight(rig: Rig) -> None:
    rig.write(3)
    rig.during("pwrite", rig.host.drain)
    rig.write(3)
    rig.host.drain()
    assert rig.named() == ["30000+10 30000+10", "30000+10"]


def test_a_batch_that_fills_between_ticks_leaves_with_the_next_one(rig: Rig) -> None:
    for _ in range(2):
        rig.write(3, 3)
        rig.host.tick(0.0)  # nothing has lingered by that time
    assert rig.named() == ["30000+10 30000+10 30000+10 30000+10"]
    rig.write(3, 3)
    rig.host.tick(0.0)
    assert len(rig.named()) == 1


def test_a_region_with_a_write_in_flight_stays_in_the_activity_log(rig: Rig) -> None:
    rig.write(3)

    def write_elsewhere() -> None:
        for number in (4, 5, 6):
            rig.write(number)
            rig.volume.flush()
        assert 3 in read_previous_log(rig.folder).regions["a"]

    rig.during("pwrite", write_elsewhere)
    rig.write(3)
    rig.volume.flush()
    rig.write(7, 8)
    assert 3 not in read_previous_log(rig.folder).regions["a"]


class Racing(dict[int, HotRegion]):
    """The writable regions, of which one is removed just after a writer has found it there."""

    def __init__(self, content: dict[int, HotRegion], lock_free: LockFreeWrites) -> None:
        super().__init__(content)
        self.lock_free, self.write = lock_free, (ExtentKind.WRITE, 3 * REGION, 10, 1, ())

    def __delitem__(self, number: int) -> None:
        if number == 3:
            self.lock_free.in_flight.append(self.write)
        super().__delitem__(number)


def test_a_write_that_begins_while_its_region_is_removed_keeps_it(rig: Rig) -> None:
    rig.write(3, 4)
    rig.volume.flush()
    racing = Racing(rig.opened.regions.hot, rig.opened.lock_free)
    rig.opened.regions.hot = rig.opened.lock_free.writable = racing
    rig.write(5)
    assert read_previous_log(rig.folder).regions["a"] == {3, 5}
    assert set(racing) == {3, 5}


class LeavingAt(dict[int, HotRegion]):
    """The writable regions, which say that they are there `times` times."""

    def __init__(self, content: dict[int, HotRegion], times: int) -> None:
        super().__init__(content)
        self.times = times

    def __contains__(self, number: object) -> bool:
        self.times -= 1
        return self.times >= 0


def test_a_write_whose_region_leaves_as_it_begins_takes_the_lock(rig: Rig) -> None:
    rig.write(3)
    rig.opened.lock_free.writable = LeavingAt(rig.opened.regions.hot, 1)
    seen: list[tuple[int, int]] = []
    rig.during(
        "pwrite",
        lambda: seen.append((len(rig.opened.lock_free.in_flight), len(rig.opened.in_flight))),
    )
    rig.write(3)
    assert seen == [(0, 1)]
    rig.host.drain()
    assert rig.named() == ["30000+10 30000+10"]


def test_writes_may_end_in_another_order_than_they_began(rig: Rig) -> None:
    rig.write(3)

    def overtake() -> None:
        rig.volume.pwrite(b"y" * 5, 3 * REGION + 10)
        rig.host.drain()
        assert [write[2] for write in rig.opened.lock_free.in_flight] == [10]

    rig.during("pwrite", overtake)
    rig.write(3)
    rig.host.drain()
    assert rig.named() == ["30000+10 30010+5 30000+10", "30000+10"]
    assert not rig.opened.lock_free.in_flight


def test_a_close_waits_for_what_is_in_flight_and_lets_no_write_begin(rig: Rig) -> None:
    rig.write(3)
    late: list[str] = []

    def close() -> None:
        rig.opened.closing = True
        rig.host._tracker._state.update_writable(rig.opened)
        with pytest.raises(BadUse, match="is closed"):
            rig.write(3)
        late.append("refused")

    rig.during("pwrite", close)
    rig.write(3)
    rig.volume.close()
    assert late == ["refused"]
    assert rig.named()[-1].split()[-1] == "30000+10"
    assert not read_previous_log(rig.folder).volumes


def test_a_full_batch_leaves_without_a_tick(rig: Rig) -> None:
    rig.write(3, 3, 3, 3, 3, 3, 3, 3, 3)
    rig.host._outbox.poll(0)
    assert [len(extents.split()) for extents in rig.named()] == [5, 4]


def with_hot_regions(limit: int) -> Settings:
    """Return the settings with room for this many hot regions."""
    return SETTINGS.model_copy(update={"hot_regions": limit})


def count_appended(rig: Rig) -> list[int]:
    """Return a list that grows by the number of regions of each append to the activity log."""
    appended: list[int] = []
    append = rig.host._log.append

    def counted(entries: Iterable[ActivityEntry]) -> None:
        pending = list(entries)
        appended.append(sum(len(entry.regions) for entry in pending))
        append(pending)

    rig.host._log.append = counted  # type: ignore[method-assign]
    return appended


def test_regions_ahead_of_a_run_are_durable_with_it_before_any_data() -> None:
    rig = Rig(settings=with_hot_regions(256))
    appended = count_appended(rig)
    rig.write(1)
    durable: list[set[int]] = []
    rig.during("pwrite", lambda: durable.append({*read_previous_log(rig.folder).regions["a"]}))
    rig.write(2)
    assert durable == [{1, 2, 3, 4}]
    assert {*rig.opened.lock_free.writable} == {1, 2, 3, 4}
    rig.write(3, 4)  # without the lock
    assert appended == [1, 3]
    rig.write(5)  # the volume ends with region 9
    assert appended == [1, 3, 5]
    rig.write(6, 7, 8, 9)
    assert appended == [1, 3, 5]


def test_no_region_is_ahead_where_there_is_no_room_for_it() -> None:
    rig = Rig(settings=with_hot_regions(16))  # an eighth may be ahead
    appended = count_appended(rig)
    rig.write(0, 1)
    assert appended == [1, 3]
    rig.write(2, 3, 4)
    assert appended == [1, 3, 3]
    rig = Rig(settings=with_hot_regions(8))
    rig.write(9, 8, 7, 6, 5, 4, 3)
    appended = count_appended(rig)
    rig.write(2)  # the last that has room
    assert appended == [1]
    rig.host.drain()
    rig.volume.flush()
    rig.write(0, 1)
    assert len(read_previous_log(rig.folder).regions["a"]) <= 8


def test_a_region_that_is_hot_ahead_leaves_like_any_other() -> None:
    rig = Rig(settings=with_hot_regions(8))
    rig.write(0, 1)
    assert read_previous_log(rig.folder).regions["a"] == {0, 1, 2}
    rig.host.drain()
    rig.volume.flush()
    rig.write(9, 8, 7, 6, 5, 4, 3)
    assert read_previous_log(rig.folder).regions["a"] == {2, *range(3, 10)}
    rig.volume.close()
    assert not read_previous_log(rig.folder).volumes


def test_expected_writes_need_no_append_of_their_own() -> None:
    rig = Rig(settings=with_hot_regions(16))
    appended = count_appended(rig)
    rig.host.expect_writes([("a", 0, 10), ("a", 10, 10), ("a", REGION, 10), ("gone", 0, 10)])
    assert appended == [2]
    assert read_previous_log(rig.folder).regions == {"a": {0, 1}}  # before any data
    rig.write(0, 1)
    assert appended == [2]
    assert rig.opened.lock_free.in_flight  # they took no lock
    rig.host.expect_writes([("a", 0, 3 * REGION)])  # at most an eighth of the hot regions
    assert read_previous_log(rig.folder).regions == {"a": {0, 1, 2}}


@pytest.mark.parametrize("state", ["full", "closing"])
def test_expected_writes_are_passed_over_where_they_cannot_be_prepared(state: str) -> None:
    rig = Rig(settings=with_hot_regions(8))
    if state == "full":
        rig.write(*range(8))  # none is acknowledged, so none can leave
    rig.opened.closing = state == "closing"
    before = read_previous_log(rig.folder).regions
    rig.host.expect_writes([("a", 9 * REGION, 10)])
    assert read_previous_log(rig.folder).regions == before


def test_room_is_made_for_expected_writes() -> None:
    rig = Rig(settings=with_hot_regions(8))
    rig.write(*range(8))
    rig.host.drain()
    rig.host.expect_writes([("a", 9 * REGION, 10)])
    assert read_previous_log(rig.folder).regions == {"a": {*range(1, 8), 9}}


def test_room_is_made_at_once_for_the_regions_ahead() -> None:
    rig = Rig(settings=with_hot_regions(32), regions=200)
    rig.write(*range(131, 99, -1))
    rig.host.drain()
    rig.volume.flush()
    appended = count_appended(rig)
    rig.write(0, 1, 2, 3)
    assert appended == [1 + 3, 3 + 1]  # hot and cool
    rig.write(4, 5, 6, 7, 8)
    assert appended == [1 + 3, 3 + 1, 5 + 5]
    assert len(rig.opened.regions.hot) == 32


def test_writers_that_wait_at_once_share_an_append() -> None:
    rig = Rig(settings=with_hot_regions(64), regions=200)
    state, appended, unsafe = rig.host._tracker._state, count_appended(rig), list[int]()

    def wait_for_all(operation: str) -> None:
        if operation == "sync":
            rig.folder.hook = lambda _: None
            wait_until(lambda: len(state.admissions) == 6)

    def check(operation: str, offset: int, _: int) -> None:
        if offset // REGION not in read_previous_log(rig.folder).regions["a"]:
            unsafe.append(offset)

    rig.folder.hook, rig.devices.devices["memory://a"].hook = wait_for_all, check
    threads = [Thread(target=rig.write, args=(number,)) for number in range(0, 120, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sum(appended) == 6
    assert len(appended) <= 2
    assert not unsafe
    assert not state.admissions


def test_others_that_wait_get_only_the_room_that_is_there() -> None:
    rig = Rig(settings=with_hot_regions(8), regions=200)
    state, appended = rig.host._tracker._state, count_appended(rig)
    waiting = ("a", range(50, 60))
    state.admissions[id(waiting)] = waiting
    rig.write(9)
    assert appended == [1 + 1]  # an eighth at most
    rig.write(19, 29, 39, 49, 69)
    assert len(rig.opened.regions.hot) == 8
    closing = ("gone", [1])
    state.admissions.clear()
    state.admissions[id(closing)] = closing
    rig.host.drain()
    rig.write(79)
    assert len(rig.opened.regions.hot) == 8
