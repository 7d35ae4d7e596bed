"""A host whose broker, disks and process go back in time or die, in any order and at any step.

The world: volumes a and b in partition 0, c in partition 1, one host, a node for each partition,
and sites that copy what the commands name, each at its own pace. The broker loses the end of the
commands, alone or with all other topics, or its commands topic is made anew. The node finds that
sooner or later, and renews the history of the partition. The host dies at any step, and in other
worlds its disks go back to a snapshot. Kafka is away now and then.

A site whose position was lost notices that itself, and copies all. So does one whose volume has
another generation. Every other site believes the commands that are there. At the end its secondary
equals the primary: whatever was acknowledged and is gone is named again.

In a third of the worlds the node is deaf to what hosts say that they knew, and the host doesn't die
between finding that a history broke and noting it. There the host's own notes have to suffice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random
from uuid import UUID

import pytest
from clocks import CountingClock, Crashed, Steps
from notation import volume

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.commands import CommandStatus, StatusCode, TrackingCommand
from mirrorlog.domain.histories import History, anchor_of
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DeviceFailed, KafkaFailed
from mirrorlog.ports.streams import Message
from mirrorlog.producers.publishing.confirmations import StatusPorts
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.reading.catalog import Catalog, publish_volume
from mirrorlog.reading.commands_now import commands_now
from mirrorlog.reading.open_sessions import SessionPorts
from mirrorlog.reading.read_through import ReadPatience
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryReader
from mirrorlog.simulation.memory_devices import MemoryDevice, MemoryDevices
from mirrorlog.simulation.memory_folder import MemoryFolder
from mirrorlog.streams.fold.flush_plan import FlushRange, plan_flush
from mirrorlog.streams.fold.response import check_command, read_command
from mirrorlog.streams.table.log_table import changelog_rows
from mirrorlog.tracking_log.breaks import break_reason
from mirrorlog.tracking_log.heads import VolumeHead, Watermark
from mirrorlog.tracking_log.keys import head_key, watermark_key

SECTOR, SECTORS = 512, 32
SIZE = SECTOR * SECTORS
PARTITIONS = {"a": 0, "b": 0, "c": 1}
SETTINGS = Settings(
    region_bytes=2 * SECTOR,
    hot_regions=3,
    host_batch_extents=2,
    host_away_s=0.5,
    host_queue_bytes=800,
    host_spool_bytes=4000,
    host_region_idle_s=1.0,
)
TOPICS = SETTINGS.topics


class Clock(CountingClock):
    """A clock whose two times go on together."""

    def now_us(self) -> int:
        return super().now_us() + int(self.now_s * 1e6)


class Device:
    """A primary. The process may die before and after each change."""

    def __init__(self, world: World, inner: MemoryDevice) -> None:
        self.world, self.inner, self.size_bytes = world, inner, inner.size_bytes

    def pwrite(self, offset: int, data: memoryview) -> None:
        self.world.steps("before the write")
        self.inner.pwrite(offset, data)
        self.world.steps("after the write")

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

    last_append = None

    def __init__(self, world: World) -> None:
        self.world = world
        self.queue: list[tuple[str, int, bytes, bytes, Callable[[int], None]]] = []

    def publish(
        self, topic: str, partition: int, key: bytes, value: bytes, on_acknowledged: object = None
    ) -> None:
        self.world.steps("publish")
        self.queue.append((topic, partition, key, value, on_acknowledged))  # type: ignore[arg-type]

    def poll(self, timeout_s: float) -> None:
        world = self.world
        world.clock.now_s += timeout_s
        if world.clock.now_s < world.back_at_s:
            return
        for _ in range(world.random.randint(min(1, len(self.queue)), len(self.queue))):
            self.world.steps("deliver")
            topic, partition, key, value, acknowledged = self.queue.pop(0)
            position = world.broker.append(topic, partition, key, value)
            self.world.steps("acknowledge")
            acknowledged(position)

    def flush(self, deadline_s: float) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """The process ends: some of the queue may still arrive."""
        arriving = 0 if self.world.is_deaf else self.world.random.randint(0, 9)
        for topic, partition, key, value, _ in self.queue[:arriving]:
            self.world.broker.append(topic, partition, key, value)


class StatusReader(MemoryReader):
    """A reader of statuses. While it waits, the nodes work."""

    def __init__(self, world: World) -> None:
        super().__init__(world.broker)
        self.world = world

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> list[Message]:
        self.world.clock.now_s += timeout_s
        if timeout_s and self.world.random.random() < 0.5:
            self.world.fold()
        return list(super().poll(timeout_s, max_messages=max_messages))


class Node:
    """The node of one partition: the real plan of a flush, histories, statuses.

    broken_at: the first position that no longer holds the command that it held.
    """

    def __init__(self, world: World, partition: int) -> None:
        self.world, self.partition = world, partition
        self.heads: dict[str, VolumeHead] = {}
        self.keys: set[bytes] = set()
        self.epoch, self.through, self.broken_at = 0, -1, 0
        self.renew(0, "it begins")

    def fold(self, count: int) -> None:
        """Fold the next `count` commands, in the history that the topic has."""
        if (reason := self.world.break_of(self.partition)) is not None:
            self.renew(self.through + 1, reason)
        commands = self.world.broker.partition(TOPICS.commands, self.partition)
        events = commands.messages_from(self.through + 1, count)
        for at, event in enumerate(events):
            if self.proves_break(event):
                self.flush(events[:at])
                self.renew(event.position, "a host knew more")
                return
        self.flush(events)

    def proves_break(self, event: Message) -> bool:
        command = decode(event.value or b"", TrackingCommand)
        known = command.acknowledged_position
        if self.world.is_deaf or known is None or known < event.position:
            return False
        if not command.volume:
            return command.generation == self.history.id
        return command.generation == self.world.volumes[command.volume].generation

    def flush(self, events: list[Message]) -> None:
        if not events:
            return
        broker, read = self.world.broker, [read_command(event) for event in events]
        responses = [
            check_command(event, command, self.world.volumes.get(command.volume))  # type: ignore[union-attr]
            for event, command in zip(events, read, strict=True)
        ]
        plan = plan_flush(
            FlushRange(
                partition=self.partition, first=events[0].position, last=events[-1].position
            ),
            responses,
            (),
            self.heads,
            now_us=self.world.clock.now_us(),
            record_max_bytes=900_000,
            before=self.watermark,
        )
        for key, value in changelog_rows(plan):
            self.put(key, value)
        self.heads |= {head.volume: head for head in plan.heads}
        anchor = anchor_of(events[-1].key, events[-1].value)
        self.complete(replace(plan.watermark, anchor=anchor))
        for event, command in zip(events, read, strict=True):
            assert isinstance(command, TrackingCommand)
            if command.volume:
                status = CommandStatus(
                    partition=self.partition,
                    position=event.position,
                    code=StatusCode.ACCEPTED,
                    reason=None,
                    text="",
                    at_us=0,
                    volume=command.volume,
                    host=command.host,
                    session=command.session,
                )
                broker.append(TOPICS.status, self.partition, b"", encode(status))

    def put(self, key: bytes, value: bytes | None) -> None:
        self.keys.add(key)
        self.world.broker.append(TOPICS.changelog, self.partition, key, value)

    def complete(self, watermark: Watermark) -> None:
        self.watermark, self.through = watermark, watermark.through
        self.world.broker.append(
            TOPICS.changelog, self.partition, watermark_key(self.partition), encode(watermark)
        )

    def renew(self, start: int, reason: str) -> None:
        """Begin a history at `start`: descriptions, rows, watermark."""
        world = self.world
        start, self.broken_at = min(start, self.broken_at), 1 << 60
        self.epoch += 1
        self.history = History(
            cluster="memory",
            topic=world.broker.identity(TOPICS.commands),
            epoch=self.epoch,
            id=str(UUID(int=1000 * (self.partition + 1) + self.epoch)),
        )
        world.events.append(f"renew {self.partition} at {start}: {reason}")
        for name, described in world.volumes.items():
            if described.partition == self.partition:
                renewed = (
                    {}
                    if self.epoch == 1
                    else {
                        "generation": str(UUID(int=self.epoch)),
                        "origin_position": start - 1,
                        "described_position": start - 1,
                        "initially_zeroed": False,
                    }
                )
                world.describe(
                    replace(
                        described,
                        **renewed,  # type: ignore[arg-type]
                        cluster="memory",
                        epoch=self.epoch,
                        history_id=self.history.id,
                    )
                )
                head = self.heads.get(name, VolumeHead(name, described.generation, through=-1))
                self.heads[name] = replace(
                    head,
                    generation=world.volumes[name].generation,
                    through=start - 1,
                    epoch=self.epoch,
                    sessions=tuple(s.carried_over() for s in head.sessions if s.is_open),
                )
        for key in self.keys:
            self.put(key, None)
        for name, head in self.heads.items():
            self.put(head_key(name), encode(head))
        kept = world.broker.partition(TOPICS.commands, self.partition).messages
        last = next((m for m in kept if m.position == start - 1), None)
        self.complete(
            Watermark(
                partition=self.partition,
                through=start - 1,
                at_us=world.clock.now_us(),
                history=self.history,
                anchor=None if last is None else anchor_of(last.key, last.value),
            )
        )


@dataclass
class Site:
    """One secondary. It has applied the commands through a position of a generation."""

    name: str
    generation: str
    through: int = -1
    content: bytearray = field(default_factory=lambda: bytearray(SIZE))
    is_lost: bool = False

    def copy(self, world: World) -> None:
        described = world.volumes[self.name]
        primary = world.primaries[self.name].reopen(writable=False)
        end = world.broker.end_position(TOPICS.commands, described.partition)
        extents: list[tuple[int, int]] = []
        if self.is_lost or self.generation != described.generation:
            extents.append((0, SIZE))
        commands = world.broker.partition(TOPICS.commands, described.partition)
        for message in commands.messages_from(self.through + 1):
            command = decode(message.value or b"", TrackingCommand)
            if command.volume == self.name:
                extents += [(extent.offset, extent.end) for extent in command.extents]
        for start, stop in extents:
            self.content[start:stop] = primary.pread(offset=start, length=stop - start)
        self.is_lost, self.generation, self.through = False, described.generation, end - 1


class World:
    """One seed's world. `disks`: the disks go back in time, and the broker doesn't."""

    def __init__(self, seed: int, *, disks: bool = False) -> None:
        self.random, self.disks, self.clock = Random(seed), disks, Clock()
        self.is_deaf = seed % 3 == 1
        self.settings = SETTINGS
        if seed % 4 == 1:
            self.settings = SETTINGS.model_copy(update={"host_confirm": "recorded"})
        self.broker = MemoryBroker()
        self.broker.create(TOPICS.specs(single_copy=True), 2)
        self.steps, self.events, self.folder = Steps(None), list[str](), MemoryFolder()
        self.folder.hook = lambda name: self.steps(name)  # noqa: PLW0108
        self.devices = MemoryDevices()
        self.primaries: dict[str, MemoryDevice] = {}
        self.volumes: dict[str, Volume] = {}
        for name, partition in PARTITIONS.items():
            primary = self.primaries[name] = self.devices.create(f"memory://{name}", SIZE)
            described = volume(
                name, SIZE, block_size=SECTOR, primary=primary.address, partition=partition
            )
            self.describe(described)
        self.sites = [
            Site(name, self.volumes[name].generation) for name in PARTITIONS for _ in range(3)
        ]
        self.back_at_s, self.sessions, self.broke = 0.0, 0, False
        self.dead = [str(UUID(int=1))]
        self.host: Host | None = None
        self.opened: dict[str, TrackedVolume] = {}
        self.nodes = [Node(self, partition) for partition in range(2)]
        self.snapshot = self.take_snapshot()

    def describe(self, described: Volume) -> None:
        self.volumes[described.volume] = described
        publisher = self.broker.publisher()
        publish_volume(publisher, TOPICS, described)
        publisher.flush(1)

    def open_device(self, address: str, *, writable: bool) -> Device:
        return Device(self, self.devices(address, writable=writable))

    def break_of(self, partition: int) -> str | None:
        """Return what a node finds at an assignment, from the log and the commands alone."""
        node = self.nodes[partition]
        rows = self.broker.partition(TOPICS.changelog, partition).messages
        watermarks = [m.value for m in rows if m.key == watermark_key(partition)]
        if not watermarks:
            return "all of the log is gone"
        watermark = decode(watermarks[-1] or b"", Watermark)
        if watermark.order < (node.epoch, node.through):
            # Its own table is ahead of the changelog.
            return "the log went back in time"
        patience = ReadPatience(self.clock, 30, "test")
        now = commands_now(
            self.broker.reader, self.broker, TOPICS.commands, partition, watermark.through, patience
        )
        return break_reason(watermark, now)

    def fold(self) -> None:
        for node in self.nodes:
            node.fold(self.random.randint(1, 12))

    # The host

    def start(self) -> None:
        """Start the host and open some of the volumes, as often as it takes."""
        if self.host is not None:
            return
        crash_at = self.random.randint(1, 900) if self.random.random() < 0.5 else None
        if self.is_deaf:
            crash_at = None
        self.steps = Steps(crash_at)
        try:
            self.start_session()
        except Crashed:
            self.die()
        except KafkaFailed as error:
            self.events.append(f"no start: {error}")
            self.die()

    def start_session(self) -> None:
        catalog = Catalog(self.broker.reader(), self.broker, TOPICS, self.clock)
        catalog.refresh()
        self.publisher = Publisher(self)
        ports = HostPorts(
            self.folder,
            self.publisher,
            self.clock,
            self.open_device,
            statuses=StatusPorts(StatusReader(self), self.broker),
            sessions=SessionPorts(self.broker.reader, self.broker),
            descriptions=catalog,
        )
        is_new = self.sessions == 0
        self.sessions += 1
        session = str(UUID(int=self.sessions))
        self.dead.append(session)
        self.events.append(f"session {self.sessions}")
        host = Host(
            "h",
            ports,
            self.settings,
            dict(catalog),
            new_session=lambda: session,
            report=self.events.append,
            log_slots=8,
        )
        names = list(PARTITIONS) if is_new else self.random.sample(sorted(PARTITIONS), k=2)
        requests = [
            OpenRequest(catalog[name], self.open_device(f"memory://{name}", writable=True), is_new)
            for name in names
        ]
        try:
            self.opened = host.open_all(requests)
        except BadUse:
            requests = [
                OpenRequest(
                    catalog[name],
                    self.open_device(f"memory://{name}", writable=True),
                    is_new,
                    take_over=self.dead,
                )
                for name in names
            ]
            self.opened = host.open_all(requests)
        self.host = host

    def die(self, *, power: bool | None = None) -> None:
        self.steps = Steps(None)
        self.host, self.opened = None, {}
        self.publisher.close()
        if self.random.random() < 0.4 if power is None else power:
            self.folder.crash(self.random)
            for primary in self.primaries.values():
                primary.crash(self.random)
        else:
            self.folder.kill()

    def act(self, what: Callable[[], object]) -> None:
        """Do something with the host, which may die of it."""
        self.start()
        if self.host is None:
            return
        try:
            what()
        except Crashed:
            self.die()
        except (KafkaFailed, DeviceFailed) as error:
            self.events.append(f"failed: {error}")
            self.die(power=False)

    def write(self) -> None:
        def write() -> None:
            opened = self.random.choice(list(self.opened.values()))
            first = self.random.randrange(SECTORS)
            count = self.random.randint(1, min(3, SECTORS - first))
            opened.pwrite(self.random.randbytes(count * SECTOR), first * SECTOR)

        for _ in range(self.random.randint(1, 6)):
            self.act(write)

    def flush(self) -> None:
        self.act(lambda: self.random.choice(list(self.opened.values())).flush())

    def tick(self) -> None:
        self.clock.now_s += self.random.choice((0.2, 1.1, 6.0))
        self.act(lambda: self.host and self.host.tick(self.clock.now_s))

    def drain(self) -> None:
        self.act(lambda: self.host and self.host.drain())

    def reopen(self) -> None:
        def reopen() -> None:
            host, name = self.host, self.random.choice(sorted(PARTITIONS))
            assert host is not None
            if name in self.opened:
                self.opened.pop(name).close()
            device = self.open_device(f"memory://{name}", writable=True)
            described = self.volumes[name]
            self.opened[name] = host.open_all(
                [OpenRequest(described, device, False, take_over=self.dead)]
            )[name]

        self.act(reopen)

    def close(self) -> None:
        def close() -> None:
            if self.host is not None:
                self.host.close()
            self.folder.kill()
            self.host, self.opened = None, {}

        self.act(close)

    def kill(self) -> None:
        if self.host is not None:
            with suppress(Crashed):
                self.host.tick(self.clock.now_s)
            self.die()

    # The world around it

    def copy(self) -> None:
        self.random.choice(self.sites).copy(self)

    def away(self) -> None:
        self.back_at_s = self.clock.now_s + self.random.choice((0.3, 3.0, 20.0))

    def cut_power(self) -> None:
        """The machine of the host and the broker loses power, and the broker its last commands."""
        if self.host is None or self.disks:
            return
        with suppress(Crashed):
            self.host.tick(self.clock.now_s)
        self.die(power=True)
        self.rewind(self.random.choice((0, 0, 1)), self.random.choice((1, 1, 2, 4)))

    def lose_end(self) -> None:
        self.rewind(self.random.randrange(2), self.random.choice((1, 2, 5, 20)))

    def rewind(self, partition: int, lost: int) -> None:
        """The broker loses the end of the commands, alone or with all other topics."""
        end = self.broker.end_position(TOPICS.commands, partition)
        origin = min(v.origin_position for v in self.volumes.values() if v.partition == partition)
        back_to = max(end - lost, origin + 1, 0)
        if back_to == end or self.disks:
            return
        self.broke = True
        self.events.append(f"rewind {partition} from {end} to {back_to}")
        self.lose_sites(partition, back_to)
        self.broker.rewind(TOPICS.commands, partition, back_to)
        node = self.nodes[partition]
        if self.random.random() < 0.5 and node.through >= back_to:
            self.events.append("… with its log, and the node's folder")
            rows = self.broker.partition(TOPICS.changelog, partition)
            at = next(
                (
                    m.position
                    for m in rows.messages
                    if m.key == watermark_key(partition)
                    and decode(m.value or b"", Watermark).order >= (node.epoch, back_to)
                ),
                rows.end,
            )
            self.broker.rewind(TOPICS.changelog, partition, at)
            marks = [m for m in rows.messages if m.key == watermark_key(partition)]
            if not marks:
                node.renew(back_to, "nothing is left")
                return
            node.watermark = decode(marks[-1].value or b"", Watermark)
            node.through = node.watermark.through
            node.heads = {}
            for message in rows.messages:
                if message.key and message.value and message.key in map(head_key, PARTITIONS):
                    head = decode(message.value, VolumeHead)
                    node.heads[head.volume] = head

    def anew(self) -> None:
        """The commands topic is made anew."""
        if self.disks:
            return
        self.broke = True
        self.events.append("made anew")
        for partition in range(2):
            self.lose_sites(partition, -1)
        self.broker.delete([TOPICS.commands])
        self.broker.create(TOPICS.specs(single_copy=True), 2)

    def lose_sites(self, partition: int, back_to: int) -> None:
        node = self.nodes[partition]
        node.broken_at = min(node.broken_at, max(back_to, 0))
        for site in self.sites:
            if PARTITIONS[site.name] == partition and site.through >= back_to:
                site.is_lost = True

    def take_snapshot(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        self.snapshot = (
            self.folder.snapshot(),
            {name: primary.snapshot() for name, primary in self.primaries.items()},
        )
        return self.snapshot

    def restore(self) -> None:
        """The host's disks go back to the snapshot, or its state folder alone."""
        if not self.disks:
            return
        self.start()
        self.drain()
        if self.host is None:
            return
        self.die(power=False)
        self.folder.restore(self.snapshot[0])
        if self.random.random() < 0.7:
            for name, primary in self.primaries.items():
                primary.restore(self.snapshot[1][name])
        self.events.append("restored")

    def check_end(self) -> None:
        """End the session cleanly, and let every site copy what the commands name."""
        self.back_at_s = 0.0
        for _ in range(50):
            self.start()
            if self.host is None:
                continue
            self.steps = Steps(None)
            for name in sorted(PARTITIONS.keys() - self.opened.keys()):
                device = self.open_device(f"memory://{name}", writable=True)
                request = OpenRequest(self.volumes[name], device, False, take_over=self.dead)
                with suppress(KafkaFailed):
                    self.opened |= self.host.open_all([request])
            for _ in range(4):
                self.clock.now_s += 2.0
                self.host.tick(self.clock.now_s)
            self.host.drain()
            self.host.close()
            self.folder.kill()
            break
        else:
            raise AssertionError("the host doesn't start")
        for primary in self.primaries.values():
            primary.crash(self.random)
        for node in self.nodes:
            for _ in range(3):  # a host's claim begins another history
                node.fold(1000)
        for site in self.sites:
            site.copy(self)
            primary = self.primaries[site.name].reopen(writable=False)
            data = primary.pread(offset=0, length=SIZE)
            differing = [
                at
                for at in range(SECTORS)
                if data[at * SECTOR :][:SECTOR] != site.content[at * SECTOR :][:SECTOR]
            ]
            assert not differing, f"sectors {differing} of {site.name} differ"
        if not self.broke:
            self.check_closed()

    def check_closed(self) -> None:
        """Check that the log names no session that is still open."""
        still = defaultdict(list)
        for node in self.nodes:
            for name, head in node.heads.items():
                still[name] += [s for s in head.sessions if s.is_open]
        assert not any(still.values()), f"open: {dict(still)}"


def run(seed: int, steps: int = 40) -> World:
    """Run a world, and check its end."""
    world = World(seed, disks=seed % 3 == 0)
    acts: dict[Callable[[], object], int] = {
        world.write: 30,
        world.flush: 4,
        world.tick: 12,
        world.drain: 6,
        world.reopen: 3,
        world.close: 2,
        world.kill: 2,
        world.copy: 12,
        world.fold: 6,
        world.away: 2,
        world.cut_power: 3,
        world.lose_end: 3,
        world.anew: 1,
        world.take_snapshot: 2,
        world.restore: 2,
    }
    try:
        for _ in range(steps):
            act = world.random.choices(list(acts), list(acts.values()))[0]
            world.events.append(act.__name__)
            act()
        world.events.append("end")
        world.check_end()
    except Exception as error:
        raise AssertionError(f"seed {seed}: {error!r}") from error
    return world


@pytest.mark.parametrize("seed", [*range(40), 77, 866, 10745, 230149])
def test_whatever_goes_back_no_acknowledged_write_is_forgotten(seed: int) -> None:
    run(seed)
