"""Forked writes: what a secondary gets, when a write is acknowledged, and what commands say of it.

published() returns the commands since its last call: kind, extents, and for each site that is named
its outcomes, one letter for each extent: M for missed, H for has, O for open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event, Thread
from uuid import UUID

import notation
import pytest
from forking import SECONDARY_ID, HandWorkers, Reports, marked, report
from notation import SHORT_KINDS

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.producers.durable.activity_log import read_previous_log
from mirrorlog.producers.forks.fork_calls import Call, CallKind, ForkPorts, ThreadWorkers
from mirrorlog.producers.forks.fork_plans import ForkMode, ForkPlan, fork_plans
from mirrorlog.producers.forks.fork_states import (
    TRANSITIONS,
    ForkEvent,
    ForkState,
    ForkStateChange,
)
from mirrorlog.producers.forks.missed_writes import MissedWrites, may_join
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevice, MemoryDevices, failing
from mirrorlog.simulation.memory_folder import MemoryFolder

SIZE = 100_000
SETTINGS = Settings(
    region_bytes=10_000,
    hot_regions=4,
    host_linger_s=0.125,
    host_heartbeat_s=1.0,
    host_fork_timeout_s=3.0,
    host_fork_queue_bytes=1000,
    host_fork_retry_s=5.0,
)


@dataclass
class Rig:
    """One volume `v`, and secondaries that the test drives. open() puts x and y into the fork."""

    broker: MemoryBroker = field(default_factory=MemoryBroker)
    folder: MemoryFolder = field(default_factory=MemoryFolder)
    devices: MemoryDevices = field(default_factory=MemoryDevices)
    clock: ManualClock = field(default_factory=ManualClock)
    workers: HandWorkers = field(default_factory=HandWorkers)
    reports: Reports = field(default_factory=Reports)
    lines: list[str] = field(default_factory=list)
    changes: list[ForkStateChange] = field(default_factory=list)
    volume: Volume = field(
        default_factory=lambda: notation.volume("v", SIZE, generation="g", primary="memory://v")
    )
    settings: Settings = SETTINGS
    seen: int = 0

    def __post_init__(self) -> None:
        self.broker.create(SETTINGS.topics.specs(single_copy=True), 1)
        self.disks = {
            name: self.devices.create(f"memory://{name}", SIZE) for name in ("v", "x", "y")
        }
        self.workers.idle = self.pass_time

    def pass_time(self, seconds: float) -> None:
        self.clock.now_s += seconds

    def start_host(self) -> Host:
        forks = ForkPorts(marked(self.devices), self.workers, self.reports, self.changes.append)
        ports = HostPorts(
            self.folder, self.broker.publisher(), self.clock, self.devices, forks=forks
        )
        self.host = Host(
            "h",
            ports,
            self.settings,
            {"v": self.volume},
            new_session=lambda: str(UUID(int=1)),
            report=self.lines.append,
            deadline_s=10,
        )
        return self.host

    def open(self, mode: str = "async", sites: str = "xy", *, known: bool = True) -> TrackedVolume:
        """Start a host and open the volume, forked to `sites`.

        known: the sites know of the session.
        """
        plan = ForkPlan({site: f"memory://{site}" for site in sites}, ForkMode.parse(mode))
        opening = OpenRequest(self.volume, self.disks["v"].reopen(), newly_created=True, forks=plan)
        volume = self.start_host().open_all([opening])["v"]
        self.report_known(sites if known else "")
        self.tick()
        self.tick()
        self.published()
        return volume

    def report_known(self, sites: str, *, all_copied: bool = True) -> None:
        """Let these sites report that they have read everything.

        all_copied: they have copied it, too; otherwise they copy it now.
        """
        end = self.broker.end_position(SETTINGS.topics.commands, 0) - 1
        for site in sites:
            self.reports.by_site[site] = report(
                site, "v", watermark=end, applied=end if all_copied else 0
            )

    def tick(self, seconds: float = 0.125) -> None:
        """Let time pass, tick, let the secondaries do their calls, and tick again."""
        self.clock.now_s += seconds
        self.host.tick(self.clock.now_s)
        self.workers.run()
        self.host.tick(self.clock.now_s)

    def published(self) -> str:
        messages = self.broker.messages(SETTINGS.topics.commands)
        new, self.seen = messages[self.seen :], len(messages)
        return " · ".join(
            _notation(decode(message.value or b"", TrackingCommand)) for message in new
        )

    def read(self, name: str, offset: int = 0, length: int = 4) -> bytes:
        return self.disks[name].reopen(writable=False).pread(offset=offset, length=length)

    def states(self) -> str:
        """Return the states of x and y."""
        states = {change.site: change.state.name for change in self.changes}
        return " ".join(states[site] for site in sorted(states))


def _notation(command: TrackingCommand) -> str:
    extents = [f"{extent.offset}+{extent.length}" for extent in command.extents]
    forks = []
    for fork in command.forks:
        outcomes = fork.outcomes or bytes([1]) * len(extents)
        forks.append(f"{fork.site}:{''.join('MHO'[outcome] for outcome in outcomes)}")
    return " ".join([SHORT_KINDS[command.kind], *extents, *forks])


@pytest.fixture
def rig() -> Rig:
    return Rig()


def of(kind: CallKind, site: str, rig: Rig) -> Callable[[Call], bool]:
    return lambda call: (
        call.kind is kind
        and call.device is not None
        and call.device.device.address == f"memory://{site}"
    )  # type: ignore[attr-defined]


def test_every_state_can_be_reached_and_left() -> None:
    reached = {state for (before, _), state in TRANSITIONS.items() if before is not state}
    assert reached == set(ForkState)
    for state in ForkState:
        assert TRANSITIONS[state, ForkEvent.CLOSED] is ForkState.CLOSED
    # Only the site's word lets a secondary in.
    assert [event for (_, event), state in TRANSITIONS.items() if state is ForkState.IN] == [
        ForkEvent.SITE_KNOWS
    ]


# what is missed | what the site reported: watermark, applied, consistent, generation, state
# | may the secondary join
JOINS = """
all is known at 7       | 7 7 - g SETTLING   | yes
all is known at 7       | 9 9 9 g CONSISTENT | yes
all is known at 7       | 9 6 - g SYNCING    | no
all is known at 7       | 9 6 6 g SETTLING   | no
all is known at 7       | 9 - - g SYNCING    | no
all is known at 7       | 9 9 - h SETTLING   | no
something is unnamed    | 9 9 9 g CONSISTENT | no
something is on its way | 9 9 9 g CONSISTENT | no
a block is held at 8    | 8 0 - g SYNCING    | yes
a block is held at 8    | 9 8 - g SETTLING   | yes
a block is held at 8    | 7 7 - g SYNCING    | no
a block is held at 8    | 9 7 - g SETTLING   | no
a block is held at 8    | 9 7 - g STOPPED    | no
a block is held at 8    | 9 0 0 g SYNCING    | no
a block is held at 8    | 9 - - g SYNCING    | no
"""
MISSED = {
    "all is known at 7": MissedWrites(7),
    "something is unnamed": MissedWrites(7, has_unpublished=True),
    "something is on its way": MissedWrites(7, pending_command=3),
    "a block is held at 8": MissedWrites(
        7, has_unpublished=True, held_back=(0, 1), held_back_position=8
    ),
}


@pytest.mark.parametrize("case", JOINS.strip().splitlines())
def test_a_secondary_joins_when_its_site_knows(case: str) -> None:
    missed, reported, joins = (part.strip() for part in case.split("|"))
    watermark, applied, consistent = (
        None if number == "-" else int(number) for number in reported.split()[:3]
    )
    generation, state = reported.split()[3:]
    latest = report(
        "x",
        "v",
        watermark=watermark,
        applied=applied,
        consistent=consistent,
        generation=generation,
        state=SiteState[state],
    )
    assert may_join(MISSED[missed], "g", latest, secondary_id=SECONDARY_ID) is (joins == "yes")


@pytest.mark.parametrize(
    "text", ["", "quorum", "quorum 0", "quorum -1", "quorum two", "sync 1", "fast"]
)
def test_an_unknown_mode_is_refused(text: str) -> None:
    with pytest.raises(BadUse):
        ForkMode.parse(text)


# --fork of volumes v and w; v is described with a secondary at x
# | addresses by volume and site, or the error
OPTIONS = """
x=/a/{volume}                 | v:x=/a/v w:x=/a/w
x=/a/{volume} y=/b/{volume}.img | v:x=/a/v v:y=/b/v.img w:x=/a/w w:y=/b/w.img
x=/a                | ! two secondaries have one address
x                   | ! volume w has no address for a secondary at 'x'
=/a                 | ! no address
x=                  | ! no address
"""


@pytest.mark.parametrize("case", OPTIONS.strip().splitlines())
def test_fork_options_name_addresses(case: str) -> None:
    given, expected = (part.split() for part in case.split("|"))
    volumes = [notation.volume(name, SIZE, generation="g", primary=name) for name in "vw"]
    volumes[0] = replace(volumes[0], secondaries={"x": "/described"})
    if expected[0] == "!":
        with pytest.raises(BadUse, match=" ".join(expected[1:])):
            fork_plans(given, "sync", volumes)
        return
    plans = fork_plans(given, "sync", volumes)
    addresses = [
        f"{name}:{site}={address}"
        for name in "vw"
        for site, address in plans[name].secondaries.items()
    ]
    assert addresses == expected
    assert fork_plans(["x"], "sync", volumes[:1])["v"].secondaries == {"x": "/described"}
    assert fork_plans([], "sync", volumes) == {}


def test_a_secondary_has_a_write_once_it_is_durable_there(rig: Rig) -> None:
    volume = rig.open()
    data = bytearray(b"abcd")
    volume.pwrite(data, 0)
    data[:] = b"####"  # the buffer is its owner's again
    volume.zero(10, 20)
    volume.trim(5, 40)
    assert rig.read("x") == bytes(4)
    rig.workers.run()
    assert rig.read("x") == rig.read("y") == b"abcd"
    assert rig.published() == ""
    rig.tick()
    assert rig.published() == "writes 0+4 20+10 40+5 x:HHH y:HHH"
    rig.disks["x"].crash()
    assert rig.read("x") == b"abcd"


def test_a_write_under_way_is_open(rig: Rig) -> None:
    volume = rig.open()
    rig.workers.hangs = of(CallKind.WRITE, "y", rig)
    volume.pwrite(b"abcd", 0)
    volume.pwrite(b"efgh", 4)
    rig.tick(1.0)
    rig.tick()
    assert rig.published() == "writes 0+4 4+4 x:OO y:OO · beat"
    rig.tick(1.0)
    assert rig.published() == "writes 0+4 4+4 x:HH y:OO · beat"
    rig.workers.hangs = lambda _: False
    rig.workers.return_hung()
    rig.tick()
    assert rig.published() == "writes 0+4 4+4 x:HH y:HH"


def test_the_order_on_a_secondary_is_that_of_the_primary(rig: Rig) -> None:
    volume = rig.open()
    for letter in b"abcdef":
        volume.pwrite(bytes([letter]) * 4, 0)
        volume.pwrite(bytes([letter]) * 4, 4)
        rig.host.tick(rig.clock.now_s)
    for made in range(12):
        rig.workers.run(1)
        first, second = rig.read("x", 0, 1)[0], rig.read("x", 4, 1)[0]
        assert first == second or first == second + 1 or not second, made
    assert rig.read("x") == rig.read("v") == b"ffff"


@pytest.mark.parametrize(
    "mode, reached",
    [("async", ""), ("quorum 1", "x"), ("quorum 2", "xy"), ("quorum 9", "xy"), ("sync", "xy")],
)
def test_the_writer_waits_for_as_many_as_the_mode_says(rig: Rig, mode: str, reached: str) -> None:
    volume = rig.open(mode)
    made: list[str] = []

    def step(changed: object, timeout_s: float) -> None:
        made.append("xy"[len(made)])
        assert rig.workers.step(rig.workers.calls[len(made) - 1])

    rig.workers.wait = step  # type: ignore[method-assign]
    volume.pwrite(b"abcd", 0)
    assert "".join(made) == reached
    assert [rig.read(site) == b"abcd" for site in "xy"] == [site in reached for site in "xy"]


def test_a_flush_reaches_the_secondaries_that_the_mode_waits_for(rig: Rig) -> None:
    volume = rig.open("sync")
    volume.pwrite(b"abcd", 0)
    volume.flush()
    for disk in rig.disks.values():
        disk.crash()
    assert rig.read("v") == rig.read("x") == rig.read("y") == b"abcd"


@pytest.mark.parametrize("mode", ["async", "quorum 2", "sync"])
def test_a_secondary_that_fails_never_fails_the_writer(rig: Rig, mode: str) -> None:
    volume = rig.open(mode)
    rig.disks["x"].hook = failing(2, "pwrite")
    for at in range(4):
        volume.pwrite(b"abcd", at * 10)
    volume.flush()
    rig.tick()
    rig.tick()
    assert rig.published() == "writes 0+4 10+4 20+4 30+4 y:HHHH"
    assert rig.states() == "OUT IN"
    (line,) = [line for line in rig.lines if "out of the fork" in line]
    assert "site x" in line or "at x" in line
    assert "pwrite of 4 bytes failed" in line


def test_a_secondary_that_cannot_be_flushed_has_missed_what_was_written_since(rig: Rig) -> None:
    volume = rig.open("sync")
    volume.pwrite(b"abcd", 0)
    rig.tick()
    assert rig.published() == "writes 0+4 x:H y:H"
    rig.disks["x"].hook = failing(1, "flush")
    volume.pwrite(b"abcd", 10)
    volume.flush()
    rig.tick()
    assert rig.published() == "writes 10+4 y:H"
    assert rig.states() == "OUT IN"


def test_what_the_primary_failed_to_write_is_missed(rig: Rig) -> None:
    volume = rig.open("sync")
    rig.disks["v"].hook = failing(1, "pwrite")
    with pytest.raises(DeviceFailed):
        volume.pwrite(b"abcd", 0)
    rig.tick()
    assert (rig.published(), rig.read("x")) == ("writes 0+4", bytes(4))
    volume.pwrite(b"abcd", 0)
    rig.tick()
    assert rig.published() == "writes 0+4 x:H y:H"


def test_what_the_primary_failed_to_write_without_the_lock_is_missed(rig: Rig) -> None:
    volume = rig.open("async")
    volume.pwrite(b"abcd", 0)
    rig.tick()
    rig.published()
    rig.disks["v"].hook = failing(2, "pwrite")
    volume.pwrite(b"good", 10)
    with pytest.raises(DeviceFailed):
        volume.pwrite(b"lost", 20)
    volume.pwrite(b"more", 30)
    rig.tick()
    rig.tick()
    named = "writes 20+4 10+4 30+4 x:MOO y:MOO · writes 10+4 30+4 x:HH y:HH"
    assert rig.published() == named
    assert rig.read("x", 10, 24) == b"good" + bytes(16) + b"more"


@pytest.mark.parametrize(
    "queue_bytes, together",
    [(1000, 32), (1 << 20, 256)],  # 32 of 4 bytes: an eighth of the queue
)
def test_lock_free_writes_reach_the_secondaries_with_the_next_tick_or_when_they_are_many(
    rig: Rig, queue_bytes: int, together: int
) -> None:
    rig.settings = SETTINGS.model_copy(update={"host_fork_queue_bytes": queue_bytes})
    volume = rig.open("async", "x")
    volume.pwrite(b"abcd", 0)
    rig.tick()
    queued = []
    for number in range(together + 8):
        volume.pwrite(b"efgh", 4 * number)
        queued.append(volume.tracker_and_volume[1].forks.secondaries[0].open_writes)  # type: ignore[union-attr]
    assert queued == [0] * (together - 1) + [together] * 9
    rig.host.tick(rig.clock.now_s)
    assert volume.tracker_and_volume[1].forks.secondaries[0].open_writes == together + 8  # type: ignore[union-attr]
    rig.tick()
    assert rig.read("x", 0, 4 * len(queued)) == b"efgh" * len(queued)


def test_a_write_that_hangs_is_missed_with_each_batch_until_it_returns_and_once_more(
    rig: Rig,
) -> None:
    volume = rig.open("sync")
    rig.workers.hangs = of(CallKind.WRITE, "x", rig)
    volume.pwrite(b"abcd", 0)
    assert rig.clock.now_s >= 3
    assert rig.states() == "HUNG IN"
    volume.pwrite(b"efgh", 20)
    rig.tick()
    assert rig.published() == "writes 0+4 20+4 y:OO · beat · writes 20+4 0+4 y:HH"
    rig.tick(1.0)
    assert rig.published() == "writes 0+4 y:H · beat"
    assert 0 in read_previous_log(rig.folder).regions["v"]
    rig.workers.hangs = lambda _: False
    rig.workers.return_hung()
    assert rig.states() == "OUT IN"
    rig.tick()
    assert rig.published() == "writes 0+4 y:H"
    rig.tick(1.0)
    assert rig.published() == "beat"


def test_the_region_of_a_lock_free_write_stays_until_its_outcome_is_known(rig: Rig) -> None:
    volume = rig.open("async", "x")
    volume.pwrite(b"abcd", 0)
    rig.tick()
    rig.workers.hangs = of(CallKind.WRITE, "x", rig)
    volume.pwrite(b"efgh", 10)
    volume.pwrite(b"ijkl", 20)
    for region in (1, 2, 3, 4, 5):
        volume.pwrite(b"abcd", region * 10_000)
        volume.flush()
        rig.tick()
    assert 0 in read_previous_log(rig.folder).regions["v"]
    rig.workers.hangs = lambda _: False
    rig.workers.return_hung()
    rig.tick()
    assert rig.read("x", 10, 14) == b"efgh" + bytes(6) + b"ijkl"


def test_a_session_that_a_write_hangs_in_is_left_open(rig: Rig) -> None:
    volume = rig.open("sync")
    rig.workers.hangs = of(CallKind.WRITE, "x", rig)
    volume.pwrite(b"abcd", 0)
    with pytest.raises(DeviceFailed, match="hasn't returned"):
        rig.host.close()
    assert "close" not in rig.published()
    assert read_previous_log(rig.folder).regions == {"v": {0}}


def test_a_session_closes_when_the_outcome_of_all_is_known(rig: Rig) -> None:
    volume = rig.open()
    volume.pwrite(b"abcd", 0)
    rig.host.close()
    assert rig.published() == "writes 0+4 x:H y:H · close · close"
    assert not [line for line in rig.lines if "waits" in line]
    rig.workers.run()
    assert rig.states() == "CLOSED CLOSED"
    assert all(secondary.is_done for secondary in rig.workers.calls)
    assert not read_previous_log(rig.folder).regions


def test_a_queue_is_bounded(rig: Rig) -> None:
    volume = rig.open("async")
    volume.pwrite(bytes(900), 0)
    volume.pwrite(bytes(100), 1000)
    assert rig.states() == "IN IN"
    volume.pwrite(bytes(1), 2000)
    rig.host.tick(rig.clock.now_s)
    assert rig.states() == "OUT OUT"
    rig.tick()
    assert rig.published() == "writes 0+900 1000+100 2000+1"


def test_a_write_larger_than_the_queue_goes_through(rig: Rig) -> None:
    volume = rig.open("async")
    volume.pwrite(b"x" * 5000, 0)
    rig.tick()
    assert rig.published() == "writes 0+5000 x:H y:H"


def test_a_secondary_is_out_until_its_site_knows_of_the_session(rig: Rig) -> None:
    volume = rig.open("sync", "x", known=False)
    assert rig.states() == "JOINING"
    rig.report_known("x")
    rig.tick()
    assert rig.states() == "IN"
    volume.pwrite(b"abcd", 0)
    rig.tick()
    assert rig.published() == "writes 0+4 x:H"


def test_a_secondary_comes_back_while_writes_go_on(rig: Rig) -> None:
    """No write reaches it before its site knows of something that it has missed.

    From then on the site proves nothing until it knows of everything that was missed.
    """
    volume = rig.open("sync", "x")
    rig.disks["x"].hook = failing(1, "pwrite")
    volume.pwrite(b"abcd", 0)
    assert rig.states() == "OUT"
    rig.tick()
    assert rig.published() == "writes 0+4"
    rig.tick(5.0)  # it is open again
    assert rig.states() == "JOINING"
    volume.pwrite(b"abcd", 5000)  # whatever the site has reported, it can't know of this
    rig.report_known("x")
    rig.tick(0.0)
    assert rig.states() == "JOINING"
    volume.pwrite(b"abcd", 10)
    rig.tick()
    # 5000+4 is held back: named by each command until it has joined, and before each heartbeat.
    assert rig.published() == "beat · writes 5000+4 10+4 5000+4"
    rig.tick(1.0)
    assert rig.published() == "writes 5000+4 · beat"
    volume.pwrite(b"abcd", 30)
    rig.tick()
    assert rig.published() == "writes 30+4 5000+4"
    volume.pwrite(b"abcd", 40)
    rig.report_known("x", all_copied=False)
    rig.tick(0.0)
    assert rig.states() == "IN"
    volume.pwrite(b"abcd", 50)
    rig.tick()
    rig.tick()
    # And once more, so that the site proves nothing of before.
    assert rig.published() == "writes 40+4 50+4 5000+4 x:MOM · writes 50+4 x:H"


def test_a_secondary_whose_site_begins_from_nothing_is_opened_again(rig: Rig) -> None:
    rig.open("sync", "x")
    rig.reports.by_site["x"] = report(
        "x", "v", watermark=9, applied=None, rung=Rung.ALLOCATED, at_us=1
    )
    rig.tick()
    assert rig.states() == "OUT"


def test_a_secondary_whose_site_was_restarted_stays(rig: Rig) -> None:
    rig.open("sync", "x")
    rig.reports.by_site["x"] = report("x", "v", watermark=0, applied=-1, rung=Rung.CHANGED, at_us=1)
    rig.tick()
    assert rig.states() == "IN"


def test_a_secondary_that_its_site_does_not_report_stays_out(rig: Rig) -> None:
    rig.open("sync", "x", known=False)
    end = rig.broker.end_position(SETTINGS.topics.commands, 0) - 1
    for reported in (None, "another secondary"):
        rig.reports.by_site["x"] = report(
            "x", "v", watermark=end, applied=end, secondary_id=reported
        )
        rig.tick()
        assert rig.states() == ("JOINING" if reported is None else "OUT")
    rig.report_known("x")
    rig.tick(SETTINGS.host_fork_retry_s)
    rig.tick()
    assert rig.states() == "IN"


def test_a_secondary_whose_site_reports_another_leaves(rig: Rig) -> None:
    rig.open("sync", "x")
    rig.reports.by_site["x"] = report("x", "v", watermark=9, applied=9, secondary_id=None)
    rig.tick()
    assert rig.states() == "IN"  # the site was restarted, and hasn't looked yet
    rig.reports.by_site["x"] = report("x", "v", watermark=9, applied=9, secondary_id="another")
    rig.tick()
    assert rig.states() == "OUT"


def test_a_secondary_without_a_worker_makes_nobody_wait(rig: Rig) -> None:
    volume = rig.open("sync", "x")
    rig.workers.calls.clear()
    volume.pwrite(b"abcd", 0)
    assert rig.clock.now_s >= 3
    assert rig.states() == "OUT"


@pytest.mark.parametrize("broken", ["gone", "small"])
def test_a_secondary_that_cannot_be_opened_is_reported_once_and_tried_again(
    rig: Rig, broken: str
) -> None:
    if broken == "gone":
        del rig.devices.devices["memory://x"]
    else:
        rig.devices.devices["memory://x"] = MemoryDevice(SIZE - 1, address="memory://x")
    rig.open("sync", "x")
    for _ in range(3):
        rig.tick(5.0)
    assert len([line for line in rig.lines if "can't be in the fork" in line]) == 1
    for _ in range(40):
        rig.tick(5.0)
    lines = [line for line in rig.lines if "can't be in the fork" in line]
    assert len(lines) == 3 and " failures in " in lines[-1]
    rig.devices.devices["memory://x"] = rig.disks["x"]
    rig.tick(5.0)
    rig.report_known("x")
    rig.tick()
    assert rig.states() == "IN"
    assert "is in the fork; it works again after " in rig.lines[-1]


def test_a_shared_volume_is_not_forked(rig: Rig) -> None:
    rig.volume = notation.volume("v", SIZE, generation="g", primary="memory://v", shared=True)
    with pytest.raises(BadUse, match="shared"):
        rig.open()


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("second", ["pwrite", "zero"])
def test_writes_that_overlap_go_to_the_primary_one_after_the_other(
    tmp_path: Path, mode: str, second: str
) -> None:
    """Real threads and files: the second write waits, and one beside it doesn't."""
    primary, secondary = (tmp_path / name for name in ("primary", "secondary"))
    for path in (primary, secondary):
        FileDevice.create(path, SIZE).close()
    entered, go = Event(), Event()

    class Slow(FileDevice):
        def pwrite(self, offset: int, data: object) -> None:
            if bytes(data)[:1] == b"s":  # type: ignore[call-overload]
                entered.set()
                assert go.wait(10)
            super().pwrite(offset, data)  # type: ignore[arg-type]

    rig = Rig()
    rig.reports.by_site["x"] = report("x", "v", watermark=0, applied=0)
    forks = ForkPorts(marked(open_device), ThreadWorkers(), rig.reports)
    ports = HostPorts(rig.folder, rig.broker.publisher(), rig.clock, open_device, forks=forks)
    with Slow(primary, writable=True) as device, Host("h", ports, SETTINGS, {}) as host:
        plan = ForkPlan({"x": str(secondary)}, ForkMode.parse(mode))
        volume = host.open_all([OpenRequest(rig.volume, device, True, forks=plan)])["v"]
        opened = volume.tracker_and_volume[1].forks
        assert opened is not None
        with opened.changed:
            while not opened.secondaries[0].is_in:
                host.tick(rig.clock.now_s)
                opened.changed.wait(0.001)
        volume.pwrite(b"a" * 300, 0)  # the region is hot from now on
        slow = Thread(target=volume.pwrite, args=(b"s" * 100, 0))
        slow.start()
        assert entered.wait(10)
        arguments = (b"q" * 100, 50) if second == "pwrite" else (100, 50)
        quick = Thread(target=getattr(volume, second), args=arguments)
        quick.start()
        volume.pwrite(b"b" * 100, 200)
        assert primary.read_bytes()[50:150] == b"a" * 100
        go.set()
        slow.join()
        quick.join()
    written = (b"q" if second == "pwrite" else b"\0") * 100
    assert primary.read_bytes()[:300] == b"s" * 50 + written + b"a" * 50 + b"b" * 100
    assert secondary.read_bytes() == primary.read_bytes()
