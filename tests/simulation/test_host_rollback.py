"""A machine goes back to a snapshot: the host's state folder and its primary, together.

The host writes, ends cleanly or by a crash, and starts again. A snapshot of both disks is taken at
any moment, and restored later. The node folds the commands now and then, and commands that the log
holds are deleted. A site copies what the commands name while everything that the host wrote is
published. At the end, its secondary equals the primary.

The time between a snapshot and the restored state decides how much the host can tell. A site that
reads an unpublished write less than LATE_S after a snapshot may keep it (unvouched.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from uuid import UUID

import pytest
from clocks import CountingClock
from notation import volume

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.errors import BadUse
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.session.unvouched import LATE_S
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.reading.catalog import publish_volume
from mirrorlog.reading.open_sessions import SessionPorts
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevices
from mirrorlog.simulation.memory_folder import MemoryFolder
from mirrorlog.simulation.world.crashes import Fuse
from mirrorlog.simulation.world.node import NodeModel

SECTOR, SECTORS = 512, 48
SIZE = SECTOR * SECTORS
SETTINGS = Settings(
    region_bytes=2 * SECTOR, hot_regions=3, host_batch_extents=3, host_region_idle_s=1.0
)
TOPIC = SETTINGS.topics.commands
VOLUME = volume(size_bytes=SIZE, block_size=SECTOR, primary="memory://v")


class Clock(CountingClock):
    """A clock whose two times go on together."""

    def now_us(self) -> int:
        return super().now_us() + int(self.now_s * 1e6)


@dataclass
class World:
    """One host, its disks, a node and a site."""

    random: Random
    clock: Clock = field(default_factory=Clock)
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    devices: MemoryDevices = field(default_factory=MemoryDevices)
    folder: MemoryFolder = field(default_factory=MemoryFolder)
    secondary: bytearray = field(default_factory=lambda: bytearray(SIZE))
    copied: int = 0
    sessions: int = 0
    restored: int = 0

    def __post_init__(self) -> None:
        self.broker.create(SETTINGS.topics.specs(single_copy=True), 1)
        publisher = self.broker.publisher()
        publish_volume(publisher, SETTINGS.topics, VOLUME)
        publisher.flush(1)
        self.primary = self.devices.create("memory://v", SIZE)
        self.node = NodeModel(self.broker, SETTINGS, Fuse(), self.random)
        self.opened = self.start(new=True)
        self.take_snapshot()

    def start(self, *, new: bool = False) -> TrackedVolume:
        """Start the host. A session that only the log knows is taken over, as an operator does."""
        ports = HostPorts(
            self.folder,
            self.broker.publisher(),
            self.clock,
            self.devices,
            sessions=SessionPorts(self.broker.reader, self.broker),
        )
        self.sessions += 1
        session = str(UUID(int=self.sessions))
        self.host = Host("h", ports, SETTINGS, {"v": VOLUME}, new_session=lambda: session)
        known = [str(UUID(int=number)) for number in range(1, self.sessions)]
        try:
            request = OpenRequest(VOLUME, self.devices("memory://v", writable=True), new)
            return self.host.open_all([request])["v"]
        except BadUse:
            assert self.restored
        device = self.devices("memory://v", writable=True)
        return self.host.open_all([OpenRequest(VOLUME, device, new, known)])["v"]

    def write(self) -> None:
        first = self.random.randrange(SECTORS)
        count = self.random.randint(1, min(3, SECTORS - first))
        self.opened.pwrite(self.random.randbytes(count * SECTOR), first * SECTOR)

    def drain_and_copy(self) -> None:
        """Let the host publish everything, and the site copy what the commands name."""
        self.host.drain()
        self.copy()

    def copy(self) -> None:
        primary = self.primary.reopen(writable=False)
        for message in self.broker.messages(TOPIC):
            if message.position < self.copied:
                continue
            self.copied = message.position + 1
            for extent in decode(message.value or b"", TrackingCommand).extents:
                first, end = extent.offset // SECTOR, -(-extent.end // SECTOR)
                data = primary.pread(offset=first * SECTOR, length=(end - first) * SECTOR)
                self.secondary[first * SECTOR : end * SECTOR] = data

    def tick(self) -> None:
        self.clock.now_s += self.random.choice((0.2, 1.1, 6.0))
        self.host.tick(self.clock.now_s)

    def restart(self) -> None:
        """End the session cleanly, by kill -9 or by a power cut, and start the next one."""
        how = self.random.choice(("close", "kill", "power"))
        if how == "close":
            self.host.close()
        elif how == "kill":
            self.folder.kill()
        else:
            self.folder.crash(self.random)
            self.primary.crash(self.random)
        self.opened = self.start()

    def fold(self) -> None:
        while self.node.fold(self.random.randint(1, 9)):
            self.node.commit()
        if self.random.random() < 0.3:
            self.broker.trim(TOPIC, 0, max(self.copied - 1, 0))

    def take_snapshot(self) -> None:
        self.snapshot = self.folder.snapshot(), self.primary.snapshot()
        self.snapshot_s = self.clock.now_s

    def restore_snapshot(self) -> None:
        """Go back to the snapshot: at once if all is published, or else a while after it."""
        if self.random.random() < 0.7:
            self.drain_and_copy()
        else:
            while self.clock.now_s <= self.snapshot_s + 2 * LATE_S:
                self.tick()
            self.host.tick(self.clock.now_s)
            self.write()
            self.copy()
        self.folder.restore(self.snapshot[0])
        self.primary.restore(self.snapshot[1])
        self.restored += 1
        self.opened = self.start()

    def check_end(self) -> None:
        self.host.close()
        self.copy()
        primary = self.primary.reopen(writable=False).pread(offset=0, length=SIZE)
        differing = [
            sector
            for sector in range(SECTORS)
            if primary[sector * SECTOR :][:SECTOR] != self.secondary[sector * SECTOR :][:SECTOR]
        ]
        assert not differing, f"sectors {differing} differ, and no command names them"


def run(seed: int, steps: int = 40) -> World:
    """Run a world, and check its end."""
    world = World(Random(seed))
    acts = {
        world.write: 30,
        world.tick: 12,
        world.drain_and_copy: 8,
        world.restart: 3,
        world.fold: 5,
        world.take_snapshot: 3,
        world.restore_snapshot: 3,
    }
    for _ in range(steps):
        world.random.choices(list(acts), list(acts.values()))[0]()
    try:
        world.check_end()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    return world


def test_a_host_that_ended_cleanly_vouches_for_all_that_the_node_folded_at_once() -> None:
    """One record of the log then reaches up to the session's last command, of no volume."""
    world = World(Random(1))
    world.write()
    world.host.close()
    while world.node.fold(50):
        world.node.commit()
    world.opened = world.start()
    commands = [decode(m.value or b"", TrackingCommand) for m in world.broker.messages(TOPIC)]
    assert CommandKind.WRITES in [command.kind for command in commands]
    assert CommandKind.MARK_DIRTY not in [command.kind for command in commands]


@pytest.mark.parametrize("seed", range(12))
def test_no_site_differs_after_a_machine_went_back_to_a_snapshot(seed: int) -> None:
    run(seed)
