"""A host that crashes between any two steps forgets no write, and misleads no site.

No site may believe that the log names all it has read while that isn't so.

The world: two volumes of 16 KiB, regions of 1 KiB of which three may be hot, an activity log of
eight slots, batches of two extents, and a broker in memory that gets some of what a dying host had
queued. Now and then the host learns of a volume only after its start. Every call through a port
counts as one step or more (a data write as three, with its halves apart). A run is copied at each
step, and each copy goes on as after a crash there. Sites copy what the commands name.

With outages, Kafka goes away now and then, for a second or for many. Two commands fit in the
client's queue; a dozen, a few or none fit in the spool, whose disk is full at times. So every step
of docs/decisions/host-spool.md is taken, in both directions.

In every other world, regions are idle after a quarter of a second. The primaries are flushed for
them at any later moment, also during a write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from random import Random
from uuid import UUID

import pytest
from clocks import CountingClock, Crashed, Steps, crashed_copies
from late_jobs import LateJobs

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.producers.durable.activity_format import ActivityEntry, ActivityOp
from mirrorlog.producers.durable.activity_log import FILE_NAME, ActivityLog
from mirrorlog.producers.replay.contents import fill
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.reading.open_sessions import SessionPorts
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.memory_folder import MemoryFolder
from mirrorlog.tracking_log.heads import VolumeHead, session_head

SECTOR = 512
SECTORS = 32
SETTINGS = Settings(
    region_bytes=2 * SECTOR,
    hot_regions=3,
    host_batch_extents=2,
    host_linger_s=0.1,
    host_heartbeat_s=1.0,
    host_region_idle_s=0,
)
COOLING = {"host_region_idle_s": 0.25}
AHEAD = {"hot_regions": 16}
"""Room for two regions ahead of a run."""
OUTAGES = {"host_away_s": 0.5, "host_queue_bytes": 400}
TOPIC = SETTINGS.topics.commands
VOLUMES = {
    name: Volume(
        volume=name,
        generation="generation",
        size_bytes=SECTORS * SECTOR,
        block_size=SECTOR,
        partition=0,
        origin_position=-1,
        initially_zeroed=True,
        primary=name,
    )
    for name in ("left", "right")
}


@dataclass
class Write:
    """One write of the script."""

    volume: str
    first: int
    count: int
    began_us: int


@dataclass
class Site:
    """A site that copies every sector that a command names, some time after the command came.

    copies: the probability that it copies when a command comes.
    """

    copies: float
    secondaries: dict[str, bytearray] = field(
        default_factory=lambda: {name: bytearray(SECTORS * SECTOR) for name in VOLUMES}
    )
    dirty: set[tuple[str, int]] = field(default_factory=set)

    def copied(self) -> Site:
        secondaries = {name: bytearray(data) for name, data in self.secondaries.items()}
        return Site(self.copies, secondaries, set(self.dirty))

    def copy(self, devices: dict[str, MemoryDevice]) -> None:
        if not self.dirty:
            return
        contents = {name: read_all(devices[name]) for name in {volume for volume, _ in self.dirty}}
        for volume, sector in self.dirty:
            place = slice(sector * SECTOR, (sector + 1) * SECTOR)
            self.secondaries[volume][place] = contents[volume][place]
        self.dirty.clear()


@dataclass
class PrimaryRead:
    """One read of a whole primary by a site, when the topic ended at `end`.

    seen: each sector that was read as a write left it, that write, and whether it was in flight.
    """

    volume: str
    end: int
    seen: list[tuple[int, Write, bool]]


class Device:
    """A primary whose writes take three steps."""

    def __init__(self, world: World, inner: MemoryDevice) -> None:
        self.world, self.inner, self.size_bytes = world, inner, inner.size_bytes

    def pwrite(self, offset: int, data: memoryview) -> None:
        half = len(data) // 2
        touched = {
            (self.inner.address, (offset + at) // SECTOR) for at in range(0, len(data), SECTOR)
        }
        self.world.in_flight.append(touched)
        self.world.steps("before the write")
        self.inner.pwrite(offset, data[:half])
        self.world.meanwhile()
        self.world.steps("amid the write")
        if self.world.fails:
            self.world.fails = False
            self.world.in_flight.remove(touched)
            raise DeviceFailed("planned")
        self.inner.pwrite(offset + half, data[half:])
        self.world.steps("after the write")
        self.world.in_flight.remove(touched)

    def zero(self, *, offset: int, length: int) -> None:
        self.world.steps("before the zero")
        self.inner.zero(offset=offset, length=length)
        self.world.steps("after the zero")

    def flush(self) -> None:
        self.world.steps("before the flush")
        self.inner.flush()
        self.world.steps("after the flush")

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Publisher:
    """A publisher that delivers some of its queue when it is polled."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.queue: list[tuple[bytes, bytes, Callable[[int], None]]] = []

    @property
    def last_append(self) -> None:
        return None

    def publish(
        self, topic: str, partition: int, key: bytes, value: bytes, on_acknowledged: object = None
    ) -> None:
        assert (topic, partition) == (TOPIC, 0)
        self.world.steps("publish")
        self.queue.append((key, value, on_acknowledged))  # type: ignore[arg-type]

    def poll(self, timeout_s: float) -> None:
        if self.world.is_away:
            self.world.clock.now_s += timeout_s
            return
        for _ in range(self.world.random.randint(0, len(self.queue))):
            self.deliver()

    def flush(self, deadline_s: float) -> None:
        raise NotImplementedError

    def deliver(self) -> None:
        self.world.steps("deliver")
        key, value, acknowledged = self.queue.pop(0)
        position = self.world.append(key, value)
        self.world.steps("acknowledge")
        acknowledged(position)

    def die(self) -> None:
        """Deliver some of the queue now, and some long after the next session has recovered."""
        at_once = self.world.random.randint(0, len(self.queue))
        for key, value, _ in self.queue[:at_once]:
            self.world.append(key, value)
        late = self.queue[at_once : self.world.random.randint(at_once, len(self.queue))]
        self.world.late += [(key, value) for key, value, _ in late]
        self.world.came_late |= bool(late)

    def close(self) -> None:
        pass


class World:
    def __init__(self, seed: int, outages: bool = False, settings: Settings = SETTINGS) -> None:
        self.random = Random(seed)
        self.settings = settings.model_copy(update=COOLING if seed else {})
        self.back_at_s = 0.0
        self.fallbacks: set[str] = set()
        if outages:
            self.settings = self.settings.model_copy(
                update=OUTAGES | {"host_spool_bytes": (1200, 4000, 0)[seed % 3]}
            )
        self.clock = CountingClock()
        self.steps = Steps(None)
        self.outages = outages
        self.folder = MemoryFolder()
        self.watch_folder()
        self.broker = MemoryBroker()
        self.broker.create(SETTINGS.topics.specs(single_copy=True), 1)
        self.devices = {name: MemoryDevice(SECTORS * SECTOR, address=name) for name in VOLUMES}
        self.sites = [Site(1.0), Site(0.0), Site(0.3)]
        self.primary_reads: list[PrimaryRead] = []
        self.writes: list[Write] = []
        self.in_flight: list[set[tuple[str, int]]] = []
        self.volumes: dict[str, TrackedVolume] = {}
        self.commands: list[tuple[int, TrackingCommand, frozenset[int]]] = []
        self.heads: dict[str, VolumeHead] = {}
        self.beats: dict[str, int] = {}
        self.contents: dict[tuple[str, int, bytes], Write] = {}
        self.script = list(scripted(Random(seed), outages))
        self.position = 0
        self.sessions = 0
        self.fails = False
        self.log_was = "sound"
        self.late: list[tuple[bytes, bytes]] = []
        self.came_late = False
        self.host: Host | None = None
        self.jobs = LateJobs()

    def watch_folder(self) -> None:
        """Count each operation of the folder as a step, and let its disk be full at times."""
        # Each session has steps of its own, so the hook looks them up.
        self.folder.hook = lambda name: self.steps(name)  # noqa: PLW0108
        self.folder.full = lambda name: (
            self.outages and "spool" in name and self.random.random() < 0.1
        )

    @property
    def is_away(self) -> bool:
        return self.clock.now_s < self.back_at_s

    def crashed(self, publisher: Publisher, mode: str) -> World:
        """Return a copy of the world, in which the host's process has crashed now."""
        other = copy(self)
        other.random = copy(self.random)
        other.clock = replace(self.clock)
        other.steps = Steps(None)
        other.folder, other.broker = self.folder.copied(), self.broker.copied()
        other.watch_folder()
        other.devices = {name: device.copied() for name, device in self.devices.items()}
        other.sites = [site.copied() for site in self.sites]
        other.primary_reads, other.writes = list(self.primary_reads), list(self.writes)
        other.commands, other.late = list(self.commands), list(self.late)
        other.heads, other.beats = dict(self.heads), dict(self.beats)
        other.contents, other.fallbacks = dict(self.contents), set(self.fallbacks)
        other.host, other.volumes, other.jobs = None, {}, LateJobs()
        dying = Publisher(other)
        dying.queue = list(publisher.queue)
        other.crash(dying, mode)
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

        def before_a_step() -> None:
            self.read_primary()
            on_step(publisher)

        self.steps = Steps(crash_at, before_a_step)
        self.jobs = LateJobs()
        others = (
            SessionPorts(self.broker.reader, self.broker) if self.random.random() < 0.3 else None
        )
        ports = HostPorts(
            self.folder,
            publisher,
            self.clock,
            self.open_device,
            sessions=others,
            jobs=self.jobs,
        )
        try:
            known = {name: VOLUMES[name] for name in VOLUMES if self.random.random() < 0.8}
            host = self.host = Host(
                "host",
                ports,
                self.settings,
                known,
                new_session=self.new_session,
                log_slots=8,
                report=self.on_report,
            )
            self.volumes = volumes = self.open_all(host)
            while self.position < len(self.script):
                self.position += 1
                self.perform(host, volumes, *self.script[self.position - 1])
            host.close()
        except Crashed:
            self.crash(publisher, mode)
        self.host = None
        return self.steps.count

    def open_all(self, host: Host) -> dict[str, TrackedVolume]:
        """Open all volumes.

        A host is refused its own volume only by a session of its own: one that it doesn't know, or
        that a late command opened again. Then it takes over.
        """
        is_new = self.sessions == 1
        try:
            return host.open_all(
                OpenRequest(volume, Device(self, self.devices[name].reopen()), is_new)
                for name, volume in VOLUMES.items()
            )
        except BadUse:
            assert self.came_late or self.log_was != "sound"
        dead = {command.session for _, command, _ in self.commands}
        return host.open_all(
            OpenRequest(volume, Device(self, self.devices[name].reopen()), is_new, dead)
            for name, volume in VOLUMES.items()
        )

    def perform(
        self,
        host: Host,
        volumes: dict[str, TrackedVolume],
        what: str,
        name: str,
        first: int,
        count: int,
    ) -> None:
        match what:
            case "write" | "fail":
                self.fails = what == "fail"
                self.write(volumes[name], first, count)
            case "zero":
                volumes[name].zero(count * SECTOR, first * SECTOR)
            case "trim":
                volumes[name].trim(count * SECTOR, first * SECTOR)
            case "flush":
                volumes[name].flush()
            case "reopen":
                volumes[name].close()
                device = Device(self, self.devices[name].reopen())
                volumes[name] = host.open(VOLUMES[name], device, newly_created=False)
            case "away":
                self.back_at_s = self.clock.now_s + count * 2
            case "tick":
                self.clock.now_s += first / 10
                host.tick(self.clock.now_s)
                if self.random.random() < 0.7:
                    self.jobs.run()
                    host.tick(self.clock.now_s)
        self.fallbacks |= {"spool"} if any("spool" in name for name in self.folder._now) else set()

    def on_report(self, report: str) -> None:
        self.fallbacks |= {
            fallback
            for fallback in ("counts as dirty as a whole", "spool is damaged")
            if fallback in report
        }

    def write(self, volume: TrackedVolume, first: int, count: int) -> None:
        name = volume.volume.volume
        write = Write(name, first, count, self.clock.now_us())
        data = fill(name, offset=first * SECTOR, length=count * SECTOR, version=len(self.writes))
        for sector in range(count):
            self.contents[name, first + sector, data[sector * SECTOR : (sector + 1) * SECTOR]] = (
                write
            )
        self.writes.append(write)
        with suppress(DeviceFailed):
            volume.pwrite(data, first * SECTOR)

    def meanwhile(self) -> None:
        """Let another thread write, or tick while time passes, during a write to the primary."""
        name, sector = self.random.choice(list(VOLUMES)), self.random.randrange(SECTORS)
        if (
            len(self.in_flight) == 1
            and (name, sector) not in self.in_flight[0]
            and self.random.random() < 0.3
        ):
            self.write(self.volumes[name], sector, 1)
        if self.host is not None and self.random.random() < 0.3:
            for _ in range(4):
                self.read_primary()
                self.clock.now_s += 1.1
                self.host.tick(self.clock.now_s)
                if self.random.random() < 0.5:
                    self.jobs.run()

    def append(self, key: bytes, value: bytes) -> int:
        while self.late and self.random.random() < 0.1:
            self.arrive(*self.late.pop(0))
        return self.arrive(key, value)

    def arrive(self, key: bytes, value: bytes) -> int:
        position = self.broker.append(TOPIC, 0, key, value)
        command, numbers = decoded(value)
        self.commands.append((position, command, numbers))
        self.fold(position, command)
        named = {(command.volume, sector) for sector in numbers}
        for site in self.sites:
            site.dirty |= named
            if self.random.random() < site.copies:
                site.copy(self.devices)
        self.check_primary_reads(position)
        return position

    def read_primary(self) -> None:
        """Let a site read a primary now and then, whatever the host does at that moment."""
        if self.random.random() > 0.05:
            return
        name = self.random.choice(list(VOLUMES))
        data = read_all(self.devices[name])
        seen = []
        for sector in range(SECTORS):
            write = self.contents.get((name, sector, data[sector * SECTOR : (sector + 1) * SECTOR]))
            if write is not None:
                seen.append(
                    (sector, write, any((name, sector) in touched for touched in self.in_flight))
                )
        self.primary_reads.append(PrimaryRead(name, self.broker.end_position(TOPIC, 0), seen))

    def check_primary_reads(self, position: int) -> None:
        """Check that a site is right if it now believes that the log names all it has read.

        This is invariant 8. A write that had ended when the site read it must be named by a command
        that was closed after the write began. A write that was in flight must be named by such a
        command at or above the position where the topic ended then.
        """
        settled = [
            primary_read
            for primary_read in self.primary_reads
            if primary_read.volume in self.heads
            and self.heads[primary_read.volume].settled_after(primary_read.end, self.beats)
        ]
        for primary_read in settled:
            self.primary_reads.remove(primary_read)
            for sector, write, in_flight in primary_read.seen:
                assert any(
                    command.volume == primary_read.volume
                    and command.last_at_us > write.began_us
                    and sector in named
                    for at, command, named in self.commands
                    if at >= primary_read.end or not in_flight
                ), f"sector {sector} of {write} isn't named, yet a site is settled at {position}"

    def fold(self, position: int, command: TrackingCommand) -> None:
        """Keep the part of each session that the node keeps."""
        closed = command.kind is CommandKind.SESSION_CLOSE
        acknowledged = (
            -1 if command.acknowledged_position is None else command.acknowledged_position
        )
        if not command.volume:
            self.beats.pop(command.session, None)
            if not closed:
                self.beats[command.session] = acknowledged
            return
        head = VolumeHead(
            command.volume,
            command.generation,
            through=position,
            sessions=(session_head(command, position),),
        )
        known = self.heads.get(command.volume)
        self.heads[command.volume] = head if known is None else known.merged(head)

    def crash(self, publisher: Publisher, mode: str) -> None:
        publisher.die()
        self.in_flight = []
        if self.random.random() < 0.5:
            self.sites[1].copy(self.devices)
        self.power_cut() if mode == "power" else self.folder.kill()
        if mode == "damage":
            self.folder.damage(FILE_NAME, self.damaged)
        if mode == "spool":
            for name in [name for name in self.folder._now if "spool" in name]:
                if self.random.random() < 0.5:
                    self.folder.damage(name, lambda data: _damaged(data, self.random))

    def damaged(self, log: bytes) -> bytes | None:
        """Flip one bit, or remove the log (None).

        With the log the name of the session is gone, so nobody can ever close the session.
        """
        self.log_was = "gone" if self.random.random() < 0.2 else "flipped"
        if self.log_was == "gone":
            return None
        return _flipped(log, self.random)

    def power_cut(self) -> None:
        keep = self.random if self.random.random() < 0.7 else None
        self.folder.crash(keep)
        for device in self.devices.values():
            device.crash(keep)

    def open_device(self, address: str, *, writable: bool) -> Device:
        return Device(self, self.devices[address].reopen(writable=writable))

    def new_session(self) -> str:
        self.sessions += 1
        return str(UUID(int=self.sessions))

    def check_end(self) -> None:
        """Check, after a clean close, that no site waits for a session.

        After one more power cut all sites must equal the primaries.
        """
        while self.late:
            self.arrive(*self.late.pop(0))
        # Only a command that says nothing of what its session knew can open a dead session again.
        still_open = [s for head in self.heads.values() for s in head.sessions if s.is_open]
        assert self.log_was == "gone" or all(s.acknowledged_position == -1 for s in still_open)
        assert self.log_was == "gone" or self.came_late or not still_open
        assert self.log_was != "sound" or self.came_late or not self.beats
        for site in self.sites:
            site.copy(self.devices)
        self.power_cut()
        for name, device in self.devices.items():
            primary = read_all(device)
            for site in self.sites:
                differing = [
                    sector
                    for sector in range(SECTORS)
                    if site.secondaries[name][sector * SECTOR :][:SECTOR]
                    != primary[sector * SECTOR :][:SECTOR]
                ]
                assert not differing, (
                    f"sectors {differing} of {name} differ and no command names them"
                )


def _flipped(data: bytes, random: Random) -> bytes:
    content = bytearray(data)
    if content:
        content[random.randrange(max(len(data.rstrip(b"\0")), 1))] ^= 1 << random.randrange(8)
    return bytes(content)


def _damaged(data: bytes, random: Random) -> bytes | None:
    """Flip a bit, cut the end off, or remove everything (None)."""
    return random.choice((_flipped(data, random), data[: random.randrange(len(data) + 1)], None))


def read_all(device: MemoryDevice) -> bytes:
    return device.reopen(writable=False).pread(offset=0, length=SECTORS * SECTOR)


@lru_cache(maxsize=4096)
def decoded(value: bytes) -> tuple[TrackingCommand, frozenset[int]]:
    """Return a command and the sectors that it names.

    All worlds of a seed publish the same commands up to their crashes, so it is decoded once.
    """
    command = decode(value, TrackingCommand)
    return command, frozenset(
        sector
        for extent in command.extents
        for sector in range(extent.offset // SECTOR, -(-extent.end // SECTOR))
    )


def scripted(random: Random, outages: bool) -> Iterator[tuple[str, str, int, int]]:
    """Yield (what, volume, first sector, sectors).

    For a tick, the first number is tenths of seconds. Kafka is away for two seconds a sector.
    """
    kinds = ("write", "fail", "zero", "trim", "flush", "reopen", "tick", "away")
    for _ in range(20):
        what = random.choices(kinds, (60, 4, 4, 4, 6, 2, 20, 15 if outages else 0))[0]
        first = random.choice((random.randrange(SECTORS - 1), random.randrange(4)))
        longest = SECTORS if what in ("zero", "trim") else 4
        count = random.randint(1, min(longest, SECTORS - first))
        yield (
            what,
            random.choice(list(VOLUMES)),
            random.choice((0, 1, 2, 11)) if what == "tick" else first,
            count,
        )


@pytest.mark.parametrize("mode", ["kill", "power", "damage"])
@pytest.mark.parametrize("seed", range(2))
def test_no_write_is_forgotten_wherever_the_host_crashes(seed: int, mode: str) -> None:
    crash_everywhere(seed, mode, outages=False)


@pytest.mark.parametrize("mode", ["kill", "power", "spool"])
@pytest.mark.parametrize("seed", [0, 2])
def test_no_write_is_forgotten_while_kafka_is_away(seed: int, mode: str) -> None:
    crash_everywhere(seed, mode, outages=True)


@pytest.mark.parametrize("mode", ["kill", "power"])
def test_a_region_that_is_not_noted_before_its_data_is_found_out(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = ActivityLog.append

    def append_others(self: ActivityLog, entries: Iterable[ActivityEntry]) -> None:
        append(self, [entry for entry in entries if entry.op is not ActivityOp.HOT_SET])

    monkeypatch.setattr(ActivityLog, "append", append_others)
    with pytest.raises(AssertionError, match="isn't named"):
        crash_everywhere(0, mode, outages=False)


@pytest.mark.parametrize("mode", ["kill", "power"])
def test_no_write_is_forgotten_in_a_region_that_was_hot_ahead(mode: str) -> None:
    settings = SETTINGS.model_copy(update=AHEAD)
    crash_everywhere(2, mode, outages=False, every=5, settings=settings)


def crash_everywhere(
    seed: int, mode: str, *, outages: bool, every: int = 1, settings: Settings = SETTINGS
) -> set[str]:
    """Crash at each step in turn, or at every `every`th. Return the fallbacks that were taken."""
    undisturbed = World(seed, outages, settings)
    crashed, steps = crashed_copies(undisturbed, mode, every)
    undisturbed.check_end()
    fallbacks = set(undisturbed.fallbacks)
    for crash_at, world in crashed.items():
        try:
            # The next session may crash as well, mostly while it recovers. Then the power may fail,
            # too.
            world.session(
                world.random.choice((None, world.random.randint(1, 40))),
                world.random.choice(("kill", "power")),
            )
            if world.steps.dead:
                world.session(None)
            world.check_end()
        except AssertionError as error:
            raise AssertionError(
                f"seed {seed}, {mode} at step {crash_at} of {steps}: {error}"
            ) from error
        fallbacks |= world.fallbacks
    return fallbacks
