"""Writers in nbdkit begin without asking the host, in any interleaving: no write is forgotten.

The world has one volume of eight regions, of which two or three may be granted, and a ring of eight
slots in real shared memory. The ring's native code, RegionGrants, the tracker and the activity log
are real. The writers do what filter.c does, one step at a time. They run inside every call of the
host to its ports or to the ring. The host, nbdkit or the machine may die at any step. Sites copy
the blocks that the commands name.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest
from clocks import CountingClock, Crashed
from deadlines import DEADLINE_S

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import ExtentKind
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import MirrorlogError
from mirrorlog.producers.durable.activity_format import read_log
from mirrorlog.producers.durable.activity_log import FILE_NAME
from mirrorlog.producers.nbd.native import build_ring
from mirrorlog.producers.nbd.region_grants import RegionGrants
from mirrorlog.producers.nbd.ring import Ring, RingGeometry
from mirrorlog.producers.replay.contents import fill
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.writes.write_tracker import OpenVolume
from mirrorlog.settings import Settings, load_settings
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.memory_folder import MemoryFolder
from mirrorlog.tracking_log.heads import VolumeHead, session_head

SECTOR = 512
SECTORS = 16
REGION = 2
SETTINGS = Settings(
    region_bytes=REGION * SECTOR,
    hot_regions=3,
    host_nbd_batch_extents=4,
    host_linger_s=0.2,
    host_heartbeat_s=0.1,
    host_region_idle_s=0.3,
)
NO_ROOM = {"host_away_s": 0.1, "host_queue_bytes": 1, "host_spool_bytes": 0, "hot_regions": 2}
"""Kafka is away, and the host falls back to the whole volume at once."""
VOLUME = Volume(
    volume="v",
    generation="generation",
    size_bytes=SECTORS * SECTOR,
    block_size=SECTOR,
    partition=0,
    origin_position=-1,
    initially_zeroed=True,
    primary="v",
)
WRITES = 80

needs_a_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))),
    reason="no C compiler to build the ring with",
)


@dataclass(eq=False)
class Write:
    """One write of a client, of `count` sectors. ended: W5 is done, or nbdkit is dead."""

    first: int
    count: int
    version: int
    at_us: int = 0
    ended: bool = False


@dataclass
class SiteRead:
    """A site's read of the primary, at a time when the topic ended at `end`.

    seen: for each sector, the write whose data the site saw, and whether it was in flight.
    """

    end: int
    seen: list[tuple[int, Write, bool]]


class SteppedRing:
    """The ring as the host sees it. Others may do something before and after each call."""

    def __init__(self, ring: Ring, step: Callable[[], None]) -> None:
        self.ring, self.step = ring, step

    def __getattr__(self, name: str) -> Any:
        self.step()
        attribute = getattr(self.ring, name)
        if not callable(attribute):
            return attribute

        def call(*arguments: Any, **keywords: Any) -> Any:
            result = attribute(*arguments, **keywords)
            self.step()
            return result

        return call


class Publisher:
    """Delivers some queued messages in poll() and at times in publish(), and all in flush()."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.queue: list[tuple[bytes, Callable[[int], None]]] = []

    @property
    def last_append(self) -> None:
        return None

    def publish(
        self, topic: str, partition: int, key: bytes, value: bytes, on_acknowledged: Any = None
    ) -> None:
        self.world.step(8)
        self.queue.append((value, on_acknowledged))
        if self.world.random.random() < 0.7:
            self.poll(0)

    def poll(self, timeout_s: float) -> None:
        self.world.clock.now_s += timeout_s
        if self.world.clock.now_s < self.world.back_s:
            return
        for _ in range(self.world.random.randint(0, len(self.queue))):
            self.deliver()

    def flush(self, deadline_s: float) -> None:
        while self.queue:
            self.deliver()

    def deliver(self) -> None:
        self.world.step(8)
        if self.queue:
            value, acknowledged = self.queue.pop(0)
            acknowledged(self.world.append(value))

    def die(self) -> None:
        for value, _ in self.queue[: self.world.random.randint(0, len(self.queue))]:
            self.world.append(value)

    def close(self) -> None:
        pass


class Device:
    """The primary as the host sees it. The writers use the device itself."""

    def __init__(self, world: World, inner: MemoryDevice) -> None:
        self.world, self.inner, self.size_bytes = world, inner, inner.size_bytes

    def flush(self) -> None:
        self.world.step()
        self.inner.flush()
        self.world.step()

    def pwrite(self, offset: int, data: bytes) -> None:
        raise AssertionError("the host doesn't write")

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class World:
    def __init__(self, library: Any, seed: int, mode: str) -> None:
        self.mode, self.back_s = mode, 0.0
        self.fallbacks = self.set_aside = 0
        # With room for more regions, some are hot and not granted.
        more = {"hot_regions": 3 + 2 * (seed % 2)}
        self.settings = SETTINGS.model_copy(update=NO_ROOM if mode == "away" else more)
        self.library, self.random, self.clock = library, Random(seed), CountingClock()
        self.folder = MemoryFolder()
        self.folder.hook = lambda _: self.step(8)
        self.device = MemoryDevice(SECTORS * SECTOR, address="v")
        self.writes: list[Write] = []
        self.contents: dict[tuple[int, bytes], Write] = {}
        self.writers: list[Iterator[None]] = []
        self.grant_requests: dict[int, tuple[int, int]] = {}
        self.cleared: list[tuple[int, int]] = []
        self.refused: set[int] = set()
        self.nbdkit = False
        self.left = 0
        self.topic: list[TrackingCommand] = []
        self.named: list[set[int]] = []
        self.head: VolumeHead | None = None
        self.beats: dict[str, int] = {}
        self.secondaries = [
            (copies, bytearray(SECTORS * SECTOR), set[int]()) for copies in (1.0, 0.0, 0.3)
        ]
        self.site_reads: list[SiteRead] = []
        self.known_named: set[tuple[int, Write]] = set()
        self.settled = self.sessions = self.count = 0
        self.crash_at: int | None = None
        self.kill_at: int | None = None
        self.dead = self.cut = False

    # What everybody except the host does.

    def step(self, most: int = 2) -> None:
        """End a step of the host: others do up to `most` things, and the host may die.

        `most` is larger after a slow step.
        """
        if self.dead:
            raise Crashed
        self.count += 1
        if self.count == self.crash_at:
            self.dead = True
            raise Crashed
        if self.count == self.kill_at:
            self.kill_nbdkit()
        self.busy(most)

    def busy(self, most: int) -> None:
        """Let others do up to `most` things."""
        for _ in range(self.random.randint(0, most)):
            self.act_outside()

    def act_outside(self) -> None:
        if self.random.random() < 0.25:
            self.read_at_site()
        if self.nbdkit and self.left and len(self.writers) < 9 and self.random.random() < 0.5:
            self.left -= 1
            self.begin_write()
        if self.writers:
            writer = self.random.choice(self.writers)
            if next(writer, self) is self:
                self.writers.remove(writer)

    def begin_write(self) -> None:
        first = self.random.choice((self.random.randrange(SECTORS), self.random.randrange(4)))
        write = Write(first, self.random.randint(1, min(4, SECTORS - first)), len(self.writes))
        self.writes.append(write)
        self.writers.append(self.writing(write, self.ring))

    def writing(self, write: Write, ring: Ring) -> Iterator[None]:
        """Do what filter.c does, one step at a time."""
        offset, length = write.first * SECTOR, write.count * SECTOR
        data = fill("v", offset=offset, length=length, version=write.version)
        for sector in range(write.count):
            self.contents[write.first + sector, data[sector * SECTOR : (sector + 1) * SECTOR]] = (
                write
            )
        write.at_us = self.clock.now_us()
        while (
            position := ring.begin(
                ExtentKind.WRITE, offset=offset, length=length, at_us=write.at_us
            )
        ) is None:
            yield
        yield
        while not ring.may_write(offset=offset, length=length):
            self.grant_requests[position] = offset, length
            while position in self.grant_requests:
                yield
            if position in self.refused or ring.failed:
                ring.end(position, ExtentKind.WRITE, touched=False)
                return
        yield
        if ring.clear_markers(offset=offset, length=length):
            self.cleared.append((offset, length))
        yield
        self.check_log(write)
        half = SECTOR * self.random.randint(0, write.count)
        self.device.reopen().pwrite(offset, data[:half])
        yield
        self.device.reopen().pwrite(offset + half, data[half:])
        yield
        ring.end(position, ExtentKind.WRITE)
        write.ended = True

    def check_log(self, write: Write) -> None:
        """Check invariant 1: the regions are durable in the activity log before data is written."""
        durable = read_log(bytes(self.folder._durable[FILE_NAME].durable)).state.volumes["v"]
        regions = set(range(write.first // REGION, (write.first + write.count - 1) // REGION + 1))
        assert durable.whole_volume or regions <= durable.regions, (
            f"{write} begins, but only {durable.regions} are durable"
        )

    def kill_nbdkit(self) -> None:
        for write in self.writes:
            write.ended = True
        self.cut = self.cut or bool(self.writers)
        self.writers.clear()
        self.grant_requests.clear()
        self.cleared.clear()
        self.nbdkit = False

    def read_at_site(self) -> None:
        data = self.device.reopen(writable=False).pread(offset=0, length=SECTORS * SECTOR)
        contents = (
            (sector, self.contents.get((sector, data[sector * SECTOR :][:SECTOR])))
            for sector in range(SECTORS)
        )
        seen = [(sector, write, not write.ended) for sector, write in contents if write is not None]
        self.site_reads.append(SiteRead(len(self.topic), seen))

    def append(self, value: bytes) -> int:
        position, command = len(self.topic), decode(value, TrackingCommand)
        extents = (
            (extent.offset // SECTOR, -(-extent.end // SECTOR)) for extent in command.extents
        )
        self.topic.append(command)
        self.named.append({sector for low, high in extents for sector in range(low, high)})
        self.fold(position, command)
        for copies, secondary, dirty in self.secondaries:
            dirty.update(self.named[-1])
            if self.random.random() < copies:
                self.copy(secondary, dirty)
        if self.head is not None:
            self.check_site_reads(self.head)
        return position

    def fold(self, position: int, command: TrackingCommand) -> None:
        acknowledged = (
            -1 if command.acknowledged_position is None else command.acknowledged_position
        )
        closed = command.kind is CommandKind.SESSION_CLOSE
        if not command.volume:
            self.beats.pop(command.session, None)
            if not closed:
                self.beats[command.session] = acknowledged
            return
        head = VolumeHead(
            "v", "generation", through=position, sessions=(session_head(command, position),)
        )
        self.head = head if self.head is None else self.head.merged(head)

    def check_site_reads(self, head: VolumeHead) -> None:
        """Check invariant 8: if a site believes that its reads are named, a command names them."""
        ends = {read.end for read in self.site_reads}
        settled = {end for end in ends if head.settled_after(end, self.beats)}
        for site_read in self.site_reads if settled else ():
            if site_read.end not in settled:
                continue
            self.settled += 1
            for sector, write, was_in_flight in site_read.seen:
                assert self.is_named(sector, write, site_read.end if was_in_flight else 0), (
                    f"sector {sector} of {write} isn't named, but the site believes that it is"
                )
        if settled:
            self.site_reads = [read for read in self.site_reads if read.end not in settled]

    def is_named(self, sector: int, write: Write, start: int) -> bool:
        """Return whether a command at `start` or above, closed later, names the sector."""
        if start == 0 and (sector, write) in self.known_named:
            return True
        is_named = any(
            self.topic[at].last_at_us >= write.at_us and sector in self.named[at]
            for at in range(start, len(self.topic))
        )
        if start == 0 and is_named:
            self.known_named.add((sector, write))
        return is_named

    def copy(self, secondary: bytearray, dirty: set[int]) -> None:
        data = self.device.reopen(writable=False).pread(offset=0, length=SECTORS * SECTOR)
        for sector in dirty:
            secondary[sector * SECTOR : (sector + 1) * SECTOR] = data[
                sector * SECTOR : (sector + 1) * SECTOR
            ]
        dirty.clear()

    # The host.

    def session(
        self, crash_at: int | None = None, kill_at: int | None = None, writes: int = WRITES
    ) -> None:
        self.count, self.crash_at, self.kill_at, self.dead = 0, crash_at, kill_at, False
        publisher = Publisher(self)
        try:
            self.serve(publisher, writes)
        except Crashed:
            self.crash(publisher)

    def serve(self, publisher: Publisher, writes: int) -> None:
        def open_device(_address: str, *, writable: bool) -> Device:
            return Device(self, self.device.reopen(writable=writable))

        ports = HostPorts(self.folder, publisher, self.clock, open_device)
        self.sessions += 1
        new_session = lambda: str(UUID(int=self.sessions))  # noqa: E731
        host = Host(
            *("host", ports, self.settings, {"v": VOLUME}),
            new_session=new_session,
            report=self.on_report,
            log_slots=8,
        )
        volume = host.open(
            VOLUME, Device(self, self.device.reopen()), newly_created=self.sessions == 1
        )
        self.ring = Ring(
            self.library,
            RingGeometry(SECTORS * SECTOR, REGION * SECTOR, 3 * REGION * SECTOR, 2, slots=8),
        )
        tracker, opened = volume.tracker_and_volume
        gather = tracker.attached_writers.collect

        def gather_then_poll(opened: OpenVolume) -> None:
            gather(opened)
            publisher.poll(0)  # Another thread of the host does this when it gets the lock.

        tracker.attached_writers.collect = gather_then_poll  # type: ignore[method-assign]
        grants = RegionGrants(
            tracker, opened, SteppedRing(self.ring, self.step), limit=self.settings.hot_regions
        )  # type: ignore[arg-type]
        self.nbdkit, self.left = True, writes
        while self.nbdkit and (self.left or self.writers):
            self.act_outside()
            self.act_as_host(host, grants)
            if self.random.random() < 0.1:
                tracker.flush(opened)
            tracker.attached_writers.collect(opened)
            self.set_aside += bool(opened.dirty_regions)
        grants.close()
        volume.close()
        host.close()

    def on_report(self, text: str) -> None:
        self.fallbacks += "Kafka was away" in text

    def act_as_host(self, host: Host, grants: RegionGrants) -> None:
        match self.random.choice(("answer", "answer", "tick", "tick", "grant behind")):
            case "answer" if self.grant_requests:
                asked = dict(self.grant_requests)
                with suppress(MirrorlogError):
                    grants.grant(asked.values())
                for position in asked:
                    self.grant_requests.pop(position, None)
            case "grant behind" if self.cleared:
                offset, length = self.cleared.pop()
                with suppress(MirrorlogError):
                    grants.grant_behind(offset=offset, length=length)
            case "tick":
                if self.mode == "away" and self.random.random() < 0.5:
                    self.back_s = self.clock.now_s + 0.7
                self.clock.now_s += self.random.choice((0.0, 0.11, 0.21))
                host.tick(self.clock.now_s)

    def crash(self, publisher: Publisher) -> None:
        """Kill the host. nbdkit may go on for a little, without answers, before it dies too."""
        publisher.die()
        if self.mode == "power":
            keep = self.random if self.random.random() < 0.7 else None
            self.folder.crash(keep)
            self.device.crash(keep)
        else:
            self.busy(20)
            self.folder.kill()
        self.kill_nbdkit()

    def check_end(self) -> None:
        """Check that each secondary equals the primary after the last copies and a power cut."""
        for _, secondary, dirty in self.secondaries:
            self.copy(secondary, dirty)
        self.device.crash(self.random)
        primary = self.device.reopen(writable=False).pread(offset=0, length=SECTORS * SECTOR)
        for _, secondary, _ in self.secondaries:
            differing = [
                s
                for s in range(SECTORS)
                if secondary[s * SECTOR :][:SECTOR] != primary[s * SECTOR :][:SECTOR]
            ]
            assert not differing, f"sectors {differing} differ and no command names them"


def run_world(library: Any, seed: int, mode: str) -> World:
    """Run one world and return it.

    Its first session is disturbed. At times a second one is disturbed early. The last one isn't.
    """
    world = World(library, seed, mode)
    at = world.random.randint(1, 400)
    if mode == "nbdkit":
        world.session(kill_at=at)
    else:
        world.session(crash_at=at)
        world.cut = world.dead
        if world.dead and world.random.random() < 0.3:
            world.session(crash_at=world.random.randint(1, 60))
    world.session(writes=5)
    world.check_end()
    return world


@needs_a_compiler
@pytest.mark.parametrize("mode", ["kill", "power", "nbdkit", "away"])
def test_no_write_of_nbdkit_is_forgotten_whoever_dies(mode: str) -> None:
    library, worlds = build_ring(load_settings().cache_dir), list[World]()
    for seed in range(100):
        try:
            worlds.append(run_world(library, seed, mode))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {mode}: {error}") from error
    # With fewer of these the test would prove nothing.
    assert sum(world.settled for world in worlds) > 300
    assert sum(world.cut for world in worlds) > 30
    if mode == "away":
        assert sum(world.fallbacks for world in worlds) > 5
        assert sum(world.set_aside for world in worlds) > 500


@needs_a_compiler
def test_real_threads_on_a_real_ring(tmp_path: Path) -> None:
    """Real threads show a region that leaves too early, or a write that is lost or counted twice.

    ring_stress.c says how.
    """
    source = files("mirrorlog.producers.nbd")
    for name in ("fork_state.h", "ring.h", "ring.c"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    shutil.copy(Path(__file__).parents[1] / "ring_stress.c", tmp_path)
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))))
    subprocess.run(
        [compiler, "-std=gnu11", "-O2", "-pthread", "-o", "stress", "ring_stress.c"],
        cwd=tmp_path,
        check=True,
    )
    done = subprocess.run(
        [tmp_path / "stress", "20000"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    let_through, left = map(int, done.stdout.split())
    assert min(let_through, left) >= 20_000
