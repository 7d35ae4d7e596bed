"""Writers that begin without a word to the host, in any interleaving with it: nothing is forgotten, nobody is misled.

The world: one volume of eight regions, leases for two or three of them, a ring of eight slots in real shared memory (its native
code, called step by step), the real gate, tracker and activity log. The writers do what filter.c does, one step at a time;
they go on inside every call that the host makes to its ports or to the ring. The host, nbdkit or the machine may die at any
step. Sites copy what the commands name.
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
from mirrorlog.producers.session.host import Host, HostPorts
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
)
NO_ROOM = {"host_away_s": 0.1, "host_queue_bytes": 1, "host_spool_bytes": 0, "hot_regions": 2}
"""Kafka is away, and at once the volume counts as dirty as a whole."""
VOLUME = Volume("v", "generation", SECTORS * SECTOR, SECTOR, 0, -1, True, "v")
WRITES = 80

needs_a_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))),
    reason="no C compiler to build the ring with",
)


@dataclass(eq=False)
class Write:
    """One write of a client. ended: W5, or nbdkit is dead."""

    first: int
    count: int
    version: int
    at_us: int = 0
    ended: bool = False


@dataclass
class Look:
    """A site read the primary when the topic ended at `end`: by sector, whose data it saw, and whether that was under way."""

    end: int
    seen: list[tuple[int, Write, bool]]


class Stepped:
    """The ring as the host has it: around each call others may do something."""

    def __init__(self, ring: Ring, step: Callable[[], None]) -> None:
        self.ring, self.step = ring, step

    def __getattr__(self, name: str) -> Any:
        self.step()
        found = getattr(self.ring, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **more: Any) -> Any:
            result = found(*arguments, **more)
            self.step()
            return result

        return call


class Publisher:
    """Delivers some of what is queued when it is polled, and at times while it publishes; all when it is flushed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.queue: list[tuple[bytes, Callable[[int], None]]] = []

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
    """The primary as the host has it; the writers have the device itself."""

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
        self.widened = self.set_aside = 0
        self.settings = SETTINGS.model_copy(update=NO_ROOM if mode == "away" else {})
        self.library, self.random, self.clock = library, Random(seed), CountingClock()
        self.folder = MemoryFolder()
        self.folder.hook = lambda _: self.step(8)
        self.device = MemoryDevice(SECTORS * SECTOR, address="v")
        self.writes: list[Write] = []
        self.contents: dict[tuple[int, bytes], Write] = {}
        self.writers: list[Iterator[None]] = []
        self.misses: dict[int, tuple[int, int]] = {}
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
        self.looks: list[Look] = []
        self.settled = self.sessions = self.count = 0
        self.crash_at: int | None = None
        self.kill_at: int | None = None
        self.dead = self.cut = False

    # what everybody but the host does

    def step(self, most: int = 2) -> None:
        """One of the host's steps is over: others may do something, more where it is a slow one, and it may die."""
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
        """Time passes: others do several things."""
        for _ in range(self.random.randint(0, most)):
            self.outside()

    def outside(self) -> None:
        if self.random.random() < 0.25:
            self.look()
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
        """filter.c, a step at a time."""
        offset, length = write.first * SECTOR, write.count * SECTOR
        data = fill("v", offset=offset, length=length, version=write.version)
        for sector in range(write.count):
            self.contents[write.first + sector, data[sector * SECTOR : (sector + 1) * SECTOR]] = (
                write
            )
        write.at_us = self.clock.now_us()
        while (position := ring.begin(ExtentKind.WRITE, offset, length, write.at_us)) is None:
            yield
        yield
        while not ring.may_write(offset, length):
            self.misses[position] = offset, length
            while position in self.misses:
                yield
            if position in self.refused or ring.failed:
                ring.end(position, ExtentKind.WRITE, touched=False)
                return
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
        """Invariant 1: the regions are durable in the activity log before the data is written."""
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
        self.misses.clear()
        self.nbdkit = False

    def look(self) -> None:
        data = self.device.reopen(writable=False).pread(offset=0, length=SECTORS * SECTOR)
        found = (
            (sector, self.contents.get((sector, data[sector * SECTOR :][:SECTOR])))
            for sector in range(SECTORS)
        )
        seen = [(sector, write, not write.ended) for sector, write in found if write is not None]
        self.looks.append(Look(len(self.topic), seen))

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
            self.check_looks(self.head)
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
        head = VolumeHead("v", "generation", position, (session_head(command, position),))
        self.head = head if self.head is None else self.head.merged(head)

    def check_looks(self, head: VolumeHead) -> None:
        """Invariant 8: what a site has read is named, once it believes that."""
        for look in [look for look in self.looks if head.settled_after(look.end, self.beats)]:
            self.looks.remove(look)
            self.settled += 1
            for sector, write, under_way in look.seen:
                assert any(
                    command.last_at_us >= write.at_us and sector in named
                    for at, (command, named) in enumerate(zip(self.topic, self.named, strict=True))
                    if at >= look.end or not under_way
                ), f"sector {sector} of {write} isn't named, yet a site is settled"

    def copy(self, secondary: bytearray, dirty: set[int]) -> None:
        data = self.device.reopen(writable=False).pread(offset=0, length=SECTORS * SECTOR)
        for sector in dirty:
            secondary[sector * SECTOR : (sector + 1) * SECTOR] = data[
                sector * SECTOR : (sector + 1) * SECTOR
            ]
        dirty.clear()

    # the host

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
            report=self.hear,
            log_slots=8,
        )
        volume = host.open(
            VOLUME, Device(self, self.device.reopen()), newly_created=self.sessions == 1
        )
        self.ring = Ring(
            self.library,
            RingGeometry(SECTORS * SECTOR, REGION * SECTOR, 3 * REGION * SECTOR, 2, slots=8),
        )
        tracker, opened = volume.books
        gather = tracker.gather

        def gather_then_poll(opened: OpenVolume) -> None:
            gather(opened)
            publisher.poll(0)  # another thread of the host's, as soon as it gets the lock

        tracker.gather = gather_then_poll  # type: ignore[method-assign]
        gate = RegionGrants(
            tracker, opened, Stepped(self.ring, self.step), limit=self.settings.hot_regions
        )  # type: ignore[arg-type]
        self.nbdkit, self.left = True, writes
        while self.nbdkit and (self.left or self.writers):
            self.outside()
            self.turn(host, gate)
            if self.random.random() < 0.1:
                tracker.flush(opened)
            tracker.gather(opened)
            self.set_aside += bool(opened.widened)
        gate.close()
        volume.close()
        host.close()

    def hear(self, said: str) -> None:
        self.widened += "Kafka was away" in said

    def turn(self, host: Host, gate: RegionGrants) -> None:
        match self.random.choice(("answer", "answer", "tick", "tick")):
            case "answer" if self.misses:
                asked = dict(self.misses)
                with suppress(MirrorlogError):
                    gate.admit(asked.values())
                for position in asked:
                    self.misses.pop(position, None)
            case "tick":
                if self.mode == "away" and self.random.random() < 0.5:
                    self.back_s = self.clock.now_s + 0.7
                self.clock.now_s += self.random.choice((0.0, 0.11, 0.21))
                host.tick(self.clock.now_s)

    def crash(self, publisher: Publisher) -> None:
        """The host is dead; nbdkit may go on for a little, without an answer, before it dies as well."""
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
        """All is copied, and one more power cut: every secondary equals the primary."""
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


def runs(library: Any, seed: int, mode: str) -> World:
    """One world: a session that is disturbed, another that is disturbed early, a last one that is not."""
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
            worlds.append(runs(library, seed, mode))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {mode}: {error}") from error
    # Otherwise there was too little of it to prove anything.
    assert sum(world.settled for world in worlds) > 300
    assert sum(world.cut for world in worlds) > 30
    if mode == "away":
        assert sum(world.widened for world in worlds) > 5
        assert sum(world.set_aside for world in worlds) > 500


@needs_a_compiler
def test_real_threads_on_a_real_ring(tmp_path: Path) -> None:
    """What one thread can't show: a region given up too early, a write lost or counted twice. ring_stress.c says how."""
    source = files("mirrorlog.producers.nbd")
    for name in ("ring.h", "ring.c"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    shutil.copy(Path(__file__).parents[1] / "ring_stress.c", tmp_path)
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))))
    subprocess.run(
        [compiler, "-std=gnu11", "-O2", "-pthread", "-o", "stress", "ring_stress.c"],
        cwd=tmp_path,
        check=True,
    )
    done = subprocess.run(
        [tmp_path / "stress", "1"], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    let_through, left = map(int, done.stdout.split())
    assert min(let_through, left) > 100
