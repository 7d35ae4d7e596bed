"""A host with a forked volume crashes at any step.

Wherever it crashes, no block of a secondary differs from the primary unless the log names it as
missed, and a site that calls its secondary consistent is right.

The world: one volume of 12 KiB on a primary and on the secondaries of two sites, in memory. Regions
have 1 KiB, and three of them may be hot. The broker gets some of what a dying host had queued.
Secondaries fail half-way through a write, hang and let a write take effect long after, go away and
come back, and lose power. Sites follow the rules of docs/decisions/forked-writes.md, one sector a
step, while the host writes. Each call through a port counts as one step or more, and the run is
repeated with a crash at each step in turn.

In half of the runs another process forks the writes, as nbdkit's filter does (linked_forks.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from random import Random
from threading import Condition
from uuid import UUID

import pytest
from clocks import CountingClock, Crashed, Steps, crashed_copies
from forking import Marked, Reports, marked, report
from linked_forks import FilterModel, ModelLink

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import CommandKind, ForkOutcome, TrackingCommand
from mirrorlog.domain.extents import ExtentKind
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.producers.forks.fork_calls import Call, CallKind, ForkPorts, SecondaryCalls
from mirrorlog.producers.forks.fork_links import LinkedSecondary
from mirrorlog.producers.forks.fork_plans import ForkMode, ForkPlan
from mirrorlog.producers.replay.contents import fill
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.memory_folder import MemoryFolder
from mirrorlog.tracking_log.heads import VolumeHead, session_head

SECTOR, SECTORS = 512, 24
SIZE = SECTOR * SECTORS
SITES = ("x", "y")
SETTINGS = Settings(
    region_bytes=2 * SECTOR,
    hot_regions=3,
    host_batch_extents=3,
    host_linger_s=0.1,
    host_heartbeat_s=1.0,
    host_fork_timeout_s=1.0,
    host_fork_retry_s=0.5,
    host_fork_queue_bytes=8 * SECTOR,
)
TOPIC = SETTINGS.topics.commands
VOLUME = Volume(
    volume="v",
    generation="g",
    size_bytes=SIZE,
    block_size=SECTOR,
    partition=0,
    origin_position=-1,
    initially_zeroed=True,
    primary="v",
)


def read(device: MemoryDevice) -> list[bytes]:
    data = device.reopen(writable=False).pread(offset=0, length=SIZE)
    return [data[at : at + SECTOR] for at in range(0, SIZE, SECTOR)]


class Primary:
    """A primary whose writes take three steps. Other things happen between them."""

    def __init__(self, world: World, inner: MemoryDevice) -> None:
        self.world, self.inner, self.size_bytes = world, inner, inner.size_bytes

    def pwrite(self, offset: int, data: memoryview) -> None:
        half = len(data) // 2
        touched = set(range(offset // SECTOR, (offset + len(data)) // SECTOR))
        self.world.in_flight.append(touched)
        self.world.steps("before the write")
        self.inner.pwrite(offset, data[:half])
        self.world.meanwhile()
        self.world.steps("amid the write")
        if self.world.fails:
            self.world.fails = False
            self.world.wild |= touched
            self.world.in_flight.remove(touched)
            raise DeviceFailed("planned")
        self.inner.pwrite(offset + half, data[half:])
        self.world.in_flight.remove(touched)
        self.world.ended(touched)
        self.world.steps("after the write")

    def zero(self, *, offset: int, length: int) -> None:
        self.world.steps("before the zero")
        self.inner.zero(offset=offset, length=length)
        self.world.ended(set(range(offset // SECTOR, (offset + length) // SECTOR)))
        self.world.steps("after the zero")

    def flush(self) -> None:
        self.world.steps("before the flush")
        self.inner.flush()
        self.world.steps("after the flush")

    def __enter__(self) -> Primary:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@dataclass
class Publisher:
    """A publisher that delivers some of its queue when it is polled."""

    world: World
    queue: list[tuple[bytes, Callable[[int], None]]] = field(default_factory=list)

    @property
    def last_append(self) -> None:
        return None

    def publish(
        self, topic: str, partition: int, key: bytes, value: bytes, on_acknowledged: object = None
    ) -> None:
        self.world.steps("publish")
        self.queue.append((value, on_acknowledged))  # type: ignore[arg-type]

    def poll(self, timeout_s: float) -> None:
        for _ in range(self.world.random.randint(0, len(self.queue))):
            self.world.steps("deliver")
            value, acknowledged = self.queue.pop(0)
            position = self.world.append(value)
            self.world.steps("acknowledge")
            acknowledged(position)

    def flush(self, deadline_s: float) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


@dataclass
class Worker:
    """Makes the calls of one secondary, one step at a time."""

    world: World
    calls: SecondaryCalls
    site: str
    call: Call | None = None
    is_half: bool = False
    stuck_until_s: float = 0.0

    def step(self) -> bool:
        world, call = self.world, self.call
        if call is None:
            with self.calls.work:
                self.call = self.calls.take()
            self.is_half = False
            return self.call is not None
        if world.clock.now_s < self.stuck_until_s:
            return False
        must_close = call.kind is CallKind.CLOSE and isinstance(call.device, LinkedSecondary)
        if world.is_calm or must_close or world.random.random() > 0.03:
            failure = self.go_on(call)
        elif world.random.random() < 0.5:
            self.stuck_until_s = world.clock.now_s + world.random.randint(1, 30) / 10
            return True
        else:
            failure = "planned"
        if failure != "":
            self.call = None
            with self.calls.work:
                self.calls.finish(call, failure)
        return True

    def go_on(self, call: Call) -> str | None:
        """Do one step of the call.

        Return what call.perform() returns, or "" if more steps follow.
        """
        world = self.world
        world.steps("before a call")
        if call.kind is CallKind.OPEN and world.clock.now_s < world.away_until_s[self.site]:
            return "away"
        if call.kind is CallKind.WRITE and not self.is_half:
            assert call.forked is not None and call.device is not None
            # Some of the writes that have one fate, and half of the next one.
            place = world.random.randrange(len(call.contents))
            try:
                for write, data in list(zip(call.forked.writes, call.contents, strict=True))[
                    : place + 1
                ]:
                    if data is None:
                        call.device.zero(offset=write[1], length=write[2])
                    else:
                        is_last = write is call.forked.writes[place]
                        call.device.pwrite(write[1], data[: len(data) // 2] if is_last else data)
            except DeviceFailed as error:
                return str(error)
            self.is_half = True
            return ""
        if isinstance(call.device, LinkedSecondary) and not self.is_linked_ready(call.kind):
            return ""
        failure = call.perform()
        world.steps("after a call")
        return failure

    def is_linked_ready(self, kind: CallKind) -> bool:
        """Return whether the call can be made without a wait for the process that forks."""
        assert self.world.filter is not None
        link = self.world.filter.links[self.site]
        if link.is_gone:
            return True
        return (
            link.is_idle
            if kind is CallKind.CLOSE or not link.is_in
            else (link.reached >= self.world.filter.next)
        )

    def copied(self, world: World) -> Worker:
        """Return what can still die in a copy of the world."""
        call = self.call
        if call is not None and call.kind is CallKind.WRITE:
            assert isinstance(call.device, Marked)
            call = replace(call, device=call.device.on_copy(world.disks[self.site]))
        return replace(self, world=world, call=call)

    def die(self) -> None:
        """Finish the running write or not, as a kernel may after the process has died."""
        if (
            self.call is not None
            and self.call.kind is CallKind.WRITE
            and self.world.random.random() < 0.5
        ):
            self.call.perform()


class Workers:
    """The workers of all secondaries. A wait lets the rest of the world go on."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.all: list[Worker | ModelLink] = []

    def serve(self, calls: SecondaryCalls) -> None:
        self.all.append(Worker(self.world, calls, calls.site))  # type: ignore[attr-defined]

    def wait(self, changed: Condition, timeout_s: float) -> None:
        self.world.clock.now_s += timeout_s
        self.world.others()


@dataclass
class Site:
    """A site that follows docs/decisions/forked-writes.md, one step at a time.

    It keeps `applied`, `suspect_after`, `through` and `consistent`; a crash loses the rest.
    """

    world: World
    name: str
    applied: int = -1
    suspect_after: int | None = None
    through: int | None = None
    consistent: int | None = -1
    mark: int = -1
    read_end: int | None = None
    copying: list[int] | None = None
    buffer: dict[int, bytes] = field(default_factory=dict)
    written: int = 0
    copied_sectors: int = 0

    @property
    def disk(self) -> MemoryDevice:
        return self.world.disks[self.name]

    def changed(self, after: int, through: int) -> set[int]:
        return set().union(*self.world.sectors[after + 1 : through + 1])

    def missed(self, after: int, through: int) -> set[int]:
        return set().union(*self.world.missed[self.name][after + 1 : through + 1])

    def copied(self) -> set[int]:
        return (
            set() if self.suspect_after is None else self.missed(self.suspect_after, self.applied)
        )

    def pending(self, mark: int) -> set[int]:
        return self.missed(self.applied, mark) | (self.changed(self.applied, mark) & self.copied())

    def step(self) -> None:
        if self.copying is not None:
            self.copy()
            return
        self.mark = self.world.random.randint(self.mark, len(self.world.commands) - 1)
        self.mark = max(self.mark, self.through or -1)
        while self.decide():
            pass
        self.report()

    def decide(self) -> bool:
        """Take one decision. Return True if another may follow."""
        world, mark = self.world, self.mark
        pending = self.pending(mark)
        settled = (
            self.read_end is not None
            and mark >= self.read_end - 1
            and world.heads[mark + 1].settled_after(self.read_end, world.beats[mark + 1])
            and not world.heads[mark + 1].has_open_fork(self.name)
        )
        if self.through is None and self.suspect_after is not None and settled:
            if not pending:
                self.applied, self.consistent, self.suspect_after = mark, mark, None
                return True
            if not self.copied() & self.changed(self.applied, mark):
                self.consistent, self.suspect_after = self.applied, None
                return True
        if self.consistent is not None and not pending and settled:
            self.applied = self.consistent = mark
        if pending or self.through is not None:
            again = self.changed(self.applied, mark) & self.copied()
            proved = self.suspect_after is None or (
                settled and self.through is None and again <= self.missed(self.applied, mark)
            )
            self.suspect_after = self.applied if proved else self.suspect_after
            self.through, self.consistent, self.read_end = mark, None, None
            self.copying, self.buffer, self.written = sorted(pending), {}, 0
        return False

    def copy(self) -> None:
        assert self.copying is not None
        if len(self.buffer) < len(self.copying):
            sector = self.copying[len(self.buffer)]
            primary = self.world.primary.reopen(writable=False)
            self.buffer[sector] = primary.pread(offset=sector * SECTOR, length=SECTOR)
        elif self.written < len(self.copying):
            sector = self.copying[self.written]
            self.disk.reopen().pwrite(sector * SECTOR, self.buffer[sector])
            self.written += 1
            self.copied_sectors += 1
        else:
            self.disk.reopen().flush()
            assert self.through is not None
            self.applied, self.through, self.copying = self.through, None, None
            self.read_end = len(self.world.commands)
            self.report()

    def crash(self) -> None:
        """Restart the site. It asks where the commands end before it claims anything new."""
        self.copying, self.read_end = None, len(self.world.commands)

    def lose_power(self, keep: Random | None) -> None:
        """Cut the power of the secondary, which may lose forked writes.

        The site claims nothing until the sessions have settled.
        """
        self.crash()
        self.disk.crash(keep)
        self.consistent = None
        self.suspect_after = self.applied if self.suspect_after is None else self.suspect_after

    def report(self) -> None:
        rests = not self.pending(self.mark) and self.consistent is not None
        state = SiteState.SYNCING if self.copying is not None else SiteState.SETTLING
        self.world.reports.by_site[self.name] = report(
            *(self.name, "v"),
            watermark=self.mark,
            applied=self.mark if rests else self.applied,
            consistent=self.mark if rests else self.consistent,
            state=SiteState.CONSISTENT if rests else state,
            at_us=self.world.clock.now_us(),
        )


class World:
    def __init__(self, seed: int, mode: str, *, calm: bool = False, linked: bool = False) -> None:
        self.random = Random(seed)
        self.is_linked = linked
        self.filter: FilterModel | None = None
        self.mode = ForkMode.parse(mode)
        self.is_calm = calm
        patient = {"host_fork_queue_bytes": 1 << 20, "host_fork_timeout_s": 1000.0}
        self.settings = SETTINGS.model_copy(update=patient) if calm else SETTINGS
        self.clock = CountingClock()
        self.steps = Steps(None)
        self.folder = MemoryFolder()
        # Each session has steps of its own, so the hook looks them up.
        self.folder.hook = lambda name: self.steps(name)  # noqa: PLW0108
        self.primary = MemoryDevice(SIZE, address="v")
        self.disks = {site: MemoryDevice(SIZE, address=site) for site in SITES}
        self.away_until_s = dict.fromkeys(SITES, 0.0)
        self.reports = Reports()
        self.commands: list[TrackingCommand] = []
        self.sectors: list[set[int]] = []
        self.missed: dict[str, list[set[int]]] = {site: [] for site in SITES}
        self.heads = [VolumeHead("v", "g", through=-1)]
        self.beats: list[dict[str, int]] = [{}]
        self.sites = [Site(self, name) for name in SITES]
        self.history: list[list[list[bytes]]] = [[read(self.primary)]]
        self.ended_us: list[tuple[int, set[int]]] = [(0, set())]
        self.wild: set[int] = set()
        self.in_flight: list[set[int]] = []
        self.writes = 0
        self.fails = False
        self.hurries = False
        self.sessions = 0
        self.position = 0
        self.script = list(scripted(Random(seed), calm))
        self.host: Host | None = None
        self.volume: TrackedVolume | None = None
        self.workers = Workers(self)
        self.joined = 0

    def crashed(self, publisher: Publisher, mode: str) -> World:
        """Return a copy of the world, in which the host's process has crashed now."""
        other = copy(self)
        other.random = copy(self.random)
        other.clock = replace(self.clock)
        other.steps = Steps(None)
        other.folder, other.primary = self.folder.copied(), self.primary.copied()
        other.folder.hook = lambda name: other.steps(name)  # noqa: PLW0108
        other.disks = {site: disk.copied() for site, disk in self.disks.items()}
        other.sites = [replace(site, world=other, buffer=dict(site.buffer)) for site in self.sites]
        other.reports = Reports(dict(self.reports.by_site))
        other.away_until_s = dict(self.away_until_s)
        other.commands, other.sectors = list(self.commands), list(self.sectors)
        other.missed = {site: list(missed) for site, missed in self.missed.items()}
        other.heads, other.beats = list(self.heads), list(self.beats)
        other.history = [list(moments) for moments in self.history]
        other.ended_us, other.wild = list(self.ended_us), set(self.wild)
        other.host = other.volume = None
        other.workers = Workers(other)
        other.workers.all = [worker.copied(other) for worker in self.workers.all]
        other.crash(Publisher(other, list(publisher.queue)), mode)
        return other

    def session(
        self,
        crash_at: int | None,
        mode: str = "kill",
        on_step: Callable[[Publisher], None] = lambda _: None,
    ) -> int:
        """Run one session from its start to its close or crash. Return its number of steps.

        on_step: called before each step, with the session's publisher.
        """
        publisher = Publisher(self)
        self.steps = Steps(crash_at, lambda: on_step(publisher))
        self.workers = Workers(self)
        forks = ForkPorts(
            marked(self.open_secondary), self.workers, self.reports, self.on_state_change
        )
        ports = HostPorts(self.folder, publisher, self.clock, self.open_primary, forks=forks)
        try:
            host = Host(
                "host",
                ports,
                self.settings,
                {"v": VOLUME},
                new_session=self.new_session,
                log_slots=8,
            )
            plan = ForkPlan({site: site for site in SITES}, self.mode)
            device = Primary(self, self.primary.reopen())
            request = OpenRequest(
                VOLUME,
                device,  # type: ignore[arg-type]
                newly_created=self.sessions == 1,
                forks=plan,
            )
            self.volume = host.open_all([request])["v"]
            self.host = host
            if self.is_linked:
                self.start_filter(self.volume)
            while self.position < len(self.script):
                self.position += 1
                self.perform(*self.script[self.position - 1])
                self.others()
            if self.filter is not None:
                self.filter.stop(self.tick)
            host.close()
        except Crashed:
            self.crash(publisher, mode)
        except DeviceFailed as error:
            # A write hung at the end: the session stays open, as after a crash.
            assert "hasn't returned" in str(error)
            self.steps.dead = True
            self.crash(publisher, "kill")
        self.host = self.volume = self.filter = None
        return self.steps.count

    def start_filter(self, volume: TrackedVolume) -> None:
        """Let another process write from now on, and fork its writes."""
        self.filter = FilterModel(
            volume,
            self.mode,
            random=self.random,
            clock=self.clock,
            limit_bytes=self.settings.host_fork_queue_bytes,
            is_calm=self.is_calm,
            write_at_once=self.write_at_once,
            steps=lambda name: self.steps(name),  # noqa: PLW0108 - each session has its own
            wait=self.tick,
        )
        self.workers.all.extend(self.filter.links.values())

    def write_at_once(self, offset: int, data: bytes) -> None:
        """Write to the primary, while nobody else does anything."""
        self.primary.reopen().pwrite(offset, data)
        self.ended(set(range(offset // SECTOR, (offset + len(data)) // SECTOR)))

    def tick(self) -> None:
        """Let the host's own thread tick, and the world go on."""
        assert self.host is not None
        self.clock.now_s += 0.05
        self.host.tick(self.clock.now_s)
        self.others()

    def change(self, kind: ExtentKind, data: bytes | None, first: int, count: int) -> None:
        """Write through the host, or through the process that forks."""
        assert self.volume is not None
        offset, length = first * SECTOR, count * SECTOR
        if self.filter is not None:
            self.filter.write(kind, offset=offset, length=length, data=data)
        elif data is not None:
            self.volume.pwrite(data, offset)
        elif kind is ExtentKind.ZERO:
            self.volume.zero(length, offset)
        else:
            self.volume.trim(length, offset)

    def perform(self, what: str, first: int, count: int) -> None:
        assert self.volume is not None and self.host is not None
        self.hurries = what == "burst"
        match what:
            case "write" | "fail":
                self.fails = what == "fail"
                self.write(first, count)
            case "burst":
                # Mostly without a lock, from the second on: these writes lie in one region.
                for number in range(count + 2):
                    self.write(first - first % 2 + number % 2, 1)
                if count % 2:
                    self.change(ExtentKind.ZERO, None, first - first % 2, 1)
                    self.write(first - first % 2 + 1, 1)
            case "zero":
                self.change(ExtentKind.ZERO, None, first, count)
            case "trim":
                self.change(ExtentKind.DISCARD, None, first, count)
            case "flush":
                self.volume.flush()
            case "tick":
                self.clock.now_s += first / 10
                self.host.tick(self.clock.now_s)

    def write(self, first: int, count: int) -> None:
        self.writes += 1
        data = fill("v", offset=first * SECTOR, length=count * SECTOR, version=self.writes)
        with suppress(DeviceFailed):
            self.change(ExtentKind.WRITE, data, first, count)
        if self.filter is not None and self.random.random() < 0.2 and not self.in_flight:
            self.writes += 1
            sector = self.random.randrange(SECTORS)
            data = fill("v", offset=sector * SECTOR, length=SECTOR, version=self.writes)
            self.filter.park(offset=sector * SECTOR, data=data)

    def meanwhile(self) -> None:
        """Let another thread write or tick, and the world go on, during a write to the primary."""
        if self.hurries and self.random.random() < 0.7:
            return
        sector = self.random.randrange(SECTORS)
        if (
            len(self.in_flight) == 1
            and sector not in self.in_flight[0]
            and self.random.random() < 0.2
        ):
            self.write(sector, 1)
        if self.host is not None and self.random.random() < 0.3:
            self.clock.now_s += self.random.choice((0.1, 1.1))
            self.host.tick(self.clock.now_s)
        self.others()

    def others(self) -> None:
        """Let secondaries, sites and the rest of the world go on, without the host's lock."""
        for _ in range(self.random.randint(0, 12)):
            worker = self.random.choice(self.workers.all) if self.workers.all else None
            if worker is not None and self.random.random() < 0.6:
                worker.step()
            else:
                self.random.choice(self.sites).step()
            self.check_claims()
        if self.is_calm or self.random.random() > 0.05:
            return
        site = self.random.choice(self.sites)
        match self.random.choice(("away", "power", "site")):
            case "away":
                self.away_until_s[site.name] = self.clock.now_s + self.random.randint(1, 20) / 10
            case "power":
                site.lose_power(self.random)
            case "site":
                site.crash()

    def on_state_change(self, change: object) -> None:
        self.joined += str(change.state) == "IN"  # type: ignore[attr-defined]

    def ended(self, touched: set[int]) -> None:
        """Note that a write has ended on the primary. Another one may be half-way through."""
        before, now = self.history[-1][-1], read(self.primary)
        self.history[-1].append(
            [(now if sector in touched else before)[sector] for sector in range(SECTORS)]
        )
        self.ended_us.append((self.clock.now_us(), touched))

    def append(self, value: bytes) -> int:
        """Append a command, and update what the node keeps of the sessions. Return its position."""
        (command, named, missed_at), position = decoded(value), len(self.commands)
        self.commands.append(command)
        self.sectors.append(named)
        for site, by_command in self.missed.items():
            by_command.append(missed_at[site])
        closed = command.kind is CommandKind.SESSION_CLOSE
        acknowledged = (
            -1 if command.acknowledged_position is None else command.acknowledged_position
        )
        head, beats = self.heads[-1], dict(self.beats[-1])
        if command.volume:
            open_forks = tuple(
                fork.site for fork in command.forks if ForkOutcome.OPEN in fork.outcomes
            )
            session = session_head(command, position, open_forks)
            head = head.merged(VolumeHead("v", "g", through=position, sessions=(session,)))
        else:
            beats.pop(command.session, None)
            if not closed:
                beats[command.session] = acknowledged
        self.heads.append(head)
        self.beats.append(beats)
        return position

    def crash(self, publisher: Publisher, mode: str) -> None:
        for value, _ in publisher.queue[: self.random.randint(0, len(publisher.queue))]:
            self.append(value)
        for worker in self.workers.all:
            worker.die()
        self.filter = None
        self.wild |= {sector for touched in self.in_flight for sector in touched}
        self.in_flight = []
        if mode == "kill":
            self.folder.kill()
            return
        keep = self.random if self.random.random() < 0.7 else None
        self.folder.crash(keep)
        self.primary.crash(keep)
        self.history.append([read(self.primary)])
        self.ended_us = [(self.clock.now_us(), set())]
        if mode == "all":
            for site in self.sites:
                site.lose_power(keep)

    def open_primary(self, address: str, *, writable: bool) -> Primary:
        return Primary(self, self.primary.reopen(writable=writable))

    def open_secondary(self, address: str, *, writable: bool) -> MemoryDevice:
        return self.disks[address].reopen(writable=writable)

    def new_session(self) -> str:
        self.sessions += 1
        return str(UUID(int=self.sessions))

    def check_claims(self) -> None:
        """Check each secondary that its site calls consistent at a position.

        It must equal the primary at some moment, except for one write that is under way. That
        moment must not be before a write that a command up to the position names.
        """
        for site in self.sites:
            if site.consistent is None:
                continue
            content, least = read(site.disk), self.named_through(site.consistent)
            epochs = [
                (moments, least if moments is self.history[-1] else 0) for moments in self.history
            ]
            assert any(self.is_moment(content, moments[least:]) for moments, least in epochs), (
                f"{site.name} is called consistent at {site.consistent}, and equals the primary at "
                f"no moment from {least} on"
            )

    def named_through(self, position: int) -> int:
        """Return how many of the writes since the last loss of power the commands up to it name.

        Only commands that were closed after the end of the write count.
        """
        for index in range(len(self.ended_us) - 1, 0, -1):
            ended_us, touched = self.ended_us[index]
            if any(
                self.commands[at].last_at_us > ended_us and touched <= self.sectors[at]
                for at in range(position, -1, -1)
            ):
                return index
        return 0

    def is_moment(self, content: list[bytes], moments: list[list[bytes]]) -> bool:
        if content in moments:
            return True
        sure = [sector for sector in range(SECTORS) if sector not in self.wild]
        pairs = zip(moments, [*moments[1:], *moments[-1:]], strict=True)
        return any(all(_between(content[s], now[s], then[s]) for s in sure) for now, then in pairs)

    def check_end(self) -> None:
        """Check that every sector that differs is one that its site knows to copy.

        Once the sites have copied, everything is equal, even after a loss of power.
        """
        last = len(self.commands) - 1
        for site in self.sites:
            site.crash()
            primary, secondary = read(self.primary), read(site.disk)
            differing = {
                sector for sector in range(SECTORS) if primary[sector] != secondary[sector]
            }
            assert differing <= site.pending(last), (
                f"sectors {sorted(differing - site.pending(last))} at {site.name} differ, and no "
                "command names them as missed"
            )
            for _ in range(6 * SECTORS):
                site.mark = last
                site.step()
            assert (site.consistent, site.suspect_after) == (last, None) or not site.pending(last)
            site.disk.crash()
            self.primary.crash()
            assert read(site.disk) == read(self.primary), f"{site.name} differs in the end"


def _between(sector: bytes, now: bytes, then: bytes) -> bool:
    """Return True if a sector is `now`, `then`, or torn between them."""
    half = SECTOR // 2
    return sector in (now, then) or sector in (then[:half] + now[half:], now[:half] + then[half:])


@lru_cache(maxsize=4096)
def decoded(value: bytes) -> tuple[TrackingCommand, set[int], dict[str, set[int]]]:
    """Return a command, the sectors that it names, and by site those that the site missed.

    The worlds of a seed publish the same commands up to their crashes. Nobody changes the sets.
    """
    command = decode(value, TrackingCommand)
    return command, sectors(command), {site: missed(command, site) for site in SITES}


def sectors(command: TrackingCommand) -> set[int]:
    return {
        sector
        for extent in command.extents
        for sector in range(extent.offset // SECTOR, -(-extent.end // SECTOR))
    }


def missed(command: TrackingCommand, site: str) -> set[int]:
    for fork in command.forks:
        if fork.site == site:
            outcomes = fork.outcomes or bytes([ForkOutcome.HAS]) * len(command.extents)
            kept = [
                extent
                for extent, outcome in zip(command.extents, outcomes, strict=True)
                if outcome == ForkOutcome.MISSED
            ]
            return {
                sector
                for extent in kept
                for sector in range(extent.offset // SECTOR, -(-extent.end // SECTOR))
            }
    return sectors(command)


def scripted(random: Random, calm: bool) -> Iterator[tuple[str, int, int]]:
    """Yield (what, first sector, sectors). For a tick, the first number is tenths of seconds."""
    if calm:
        yield from [("tick", 3, 0)] * 12
    kinds = ("write", "burst", "fail", "zero", "trim", "flush", "tick")
    for _ in range(40):
        what = random.choices(kinds, (50, 10, 0 if calm else 3, 4, 4, 6, 30))[0]
        first = random.randrange(SECTORS - 1)
        yield (
            what,
            random.choice((0, 1, 2, 6)) if what == "tick" else first,
            random.randint(1, min(4, SECTORS - first)),
        )


@pytest.fixture(autouse=True)
def no_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no call wait by the real clock: a worker here makes only calls that needn't."""

    def refuse(seconds: float) -> None:
        raise AssertionError("a call waits")

    monkeypatch.setattr("time.sleep", refuse)


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("mode", ["sync", "async", "quorum 1"])
def test_what_is_forked_is_never_copied(mode: str, linked: bool) -> None:
    world = World(1, mode, calm=True, linked=linked)
    world.session(None)
    world.check_end()
    assert world.joined == 2
    assert [site.copied_sectors for site in world.sites] == [0, 0]


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("mode", ["sync", "async", "quorum 1"])
def test_secondaries_that_fail_hang_and_come_back(mode: str, linked: bool) -> None:
    joined = 0
    for seed in range(100, 125):
        world = World(seed, mode, linked=linked)
        try:
            world.session(None)
            while world.steps.dead:  # a write hung until the end
                world.session(None)
            world.check_end()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {mode}: {error}") from error
        joined += world.joined
    assert joined > 2 * 25  # some have come back


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("crash", ["kill", "power", "all"])
@pytest.mark.parametrize("mode", ["sync", "async", "quorum 1"])
def test_the_log_names_everything_that_is_missed(mode: str, crash: str, linked: bool) -> None:
    crash_everywhere(3, mode, crash, every=8 if linked else 4, linked=linked)


@pytest.mark.slow
@pytest.mark.parametrize("crash", ["kill", "power", "all"])
@pytest.mark.parametrize("mode", ["sync", "async", "quorum 1"])
@pytest.mark.parametrize("seed", range(4, 8))
@pytest.mark.parametrize("linked", [False, True])
def test_the_log_names_everything_that_is_missed_at_length(
    seed: int, mode: str, crash: str, linked: bool
) -> None:
    crash_everywhere(seed, mode, crash, linked=linked)


def crash_everywhere(
    seed: int, mode: str, crash: str, *, every: int = 1, linked: bool = False
) -> None:
    """Crash at each step in turn, or at every `every`th step."""
    crashed, steps = crashed_copies(World(seed, mode, linked=linked), crash, every)
    for crash_at, world in crashed.items():
        try:
            world.session(
                world.random.choice((None, world.random.randint(1, 60))),
                world.random.choice(("kill", "power")),
            )
            while world.steps.dead:
                world.session(None)
            world.check_end()
        except AssertionError as error:
            raise AssertionError(
                f"seed {seed}, {mode}, {crash} at step {crash_at} of {steps}: {error}"
            ) from error
