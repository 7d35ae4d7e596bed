"""A whole world in memory, seeded: hosts write, the node folds, sites restore, and each dies between any two steps.

Checked all the time: what a site calls consistent equals the primary as of that position (invariant 8). Checked at the
end: every secondary equals its primary, and the log equals an independent fold of the commands (invariants 2, 3, 5).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from random import Random

import pytest
from clocks import HandClock
from notation import GENERATION
from sources import FixedSource

from mirrorlog.codec.events import decode, encode
from mirrorlog.consumers.resync.site import Site, SitePorts
from mirrorlog.domain.bitmaps import BitMap64, pack
from mirrorlog.domain.commands import CommandKind, ForkOutcome, ForkOutcomes, TrackingCommand
from mirrorlog.domain.extents import Extent, ExtentColumns
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.ports.streams import Message
from mirrorlog.reading.catalog import Catalog, publish_volume
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.settings import Settings, load_settings
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryPublisher, MemoryReader
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.memory_secondary_states import MemorySecondaryStates
from mirrorlog.streams.compaction.compactor import CompactionSettings, LogCompactor
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.fold.fold_batch import BatchFolder
from mirrorlog.streams.table.local_store import Row
from mirrorlog.streams.table.log_table import LogTable
from mirrorlog.streams.table.outgoing import Outgoing
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import key_kind, read_record_key
from mirrorlog.tracking_log.records import LogRecord
from mirrorlog.tracking_log.tiers import TIERS

BLOCK, BLOCKS, NAMES = 512, 48, ("u", "v", "w")


class Crash(BaseException):
    """kill -9: nothing may catch it on its way."""


class Fuse:
    """Raises Crash at the n-th step from when it was lit."""

    def __init__(self) -> None:
        self.left: int | None = None

    def step(self, *_: object) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise Crash


class HostModel:
    """Writes to primaries and publishes what it wrote, late; remembers what each block held as of each position."""

    def __init__(
        self, broker: MemoryBroker, settings: Settings, volumes: dict[str, Volume], random: Random
    ) -> None:
        self.broker, self.topic, self.volumes, self.random = (
            broker,
            settings.topics.commands,
            volumes,
            random,
        )
        self.primaries = {name: MemoryDevice(BLOCK * BLOCKS) for name in volumes}
        self.open_batches: dict[str, list[tuple[int, int]]] = {name: [] for name in volumes}
        self.history: dict[str, list[tuple[int, int, int]]] = {
            name: [] for name in volumes
        }  # position, block, version
        self.acknowledged = -1
        self.sequences: Counter[str] = Counter()
        self.lost: set[str] = set()
        self.version = 0

    def write(self) -> None:
        name = self.random.choice(NAMES)
        first = self.random.randrange(BLOCKS)
        for block in range(first, min(first + self.random.randint(1, 4), BLOCKS)):
            self.version += 1
            self.primaries[name].pwrite(block * BLOCK, content(self.version))
            self.open_batches[name].append((block, self.version))

    def publish(self, name: str) -> None:
        batch, self.open_batches[name] = self.open_batches[name], []
        # Of each block only some bytes are named: whoever rounds inwards forgets it (invariant 4).
        position = self.send(
            name, CommandKind.WRITES, [Extent(block * BLOCK + 8, 8) for block, _ in batch]
        )
        self.history[name] += [(position, block, version) for block, version in batch]

    def lose(self) -> None:
        """A command of the volume never arrives, and nobody knows what it named."""
        name = self.random.choice(NAMES)
        self.sequences[name] += 1
        self.lost.add(name)

    def heartbeat(self) -> None:
        for name, batch in self.open_batches.items():
            if batch:
                self.publish(name)
        self.send("", CommandKind.HEARTBEAT, [])

    def close(self) -> None:
        self.heartbeat()
        for name in self.volumes:
            self.send(name, CommandKind.SESSION_CLOSE, [])

    def send(
        self,
        name: str,
        kind: CommandKind,
        extents: Sequence[Extent],
        forks: tuple[ForkOutcomes, ...] = (),
    ) -> int:
        known = None if self.acknowledged < 0 else self.acknowledged
        columns = ExtentColumns.of(extents)
        event = TrackingCommand(
            volume=name,
            generation=GENERATION,
            host="h",
            session="s",
            sequence=self.sequences[name],
            kind=kind,
            extents=columns,
            first_at_us=1,
            last_at_us=2,
            acknowledged_position=known,
            forks=forks,
        )
        self.sequences[name] += 1
        self.acknowledged = self.broker.append(self.topic, 0, name.encode(), encode(event))
        return self.acknowledged

    def as_of(self, name: str, position: int) -> dict[int, int]:
        return {block: version for at, block, version in self.history[name] if at <= position}


def content(version: int) -> bytes:
    return version.to_bytes(8, "big") * (BLOCK // 8)


class NodeModel:
    """The node on a broker in memory. Its store survives a crash, or is lost and recovered from the changelog."""

    def __init__(
        self, broker: MemoryBroker, settings: Settings, fuse: Fuse, random: Random
    ) -> None:
        self.broker, self.settings, self.fuse, self.random = broker, settings, fuse, random
        self.committed = 0
        self.rows: dict[bytes, bytes] = {}
        self.clock = HandClock(look_s=0.3)
        self.start()

    def left_behind(self) -> NodeModel:
        """A worker that doesn't know that the partition isn't its own any more: its table stays as it is now."""
        found = copy(self)
        found.rows, found.clock, found.fuse = dict(self.rows), copy(self.clock), Fuse()
        found.build()
        return found

    def start(self) -> None:
        if self.random.random() < 0.5:
            self.rows = {}
        for message in self.broker.messages(self.settings.topics.changelog):
            self.put(message.key or b"", message.value)
        self.build()

    def build(self) -> None:
        self.position = self.committed
        self.gate = CommitGate(self.settings.topics.commands)
        self.gate.assign(0, position=self.committed)
        table = LogTable(self.send, self, self.settings.topics, self.gate)
        catalog = Catalog(
            self.broker.reader(), self.broker, self.settings.topics, HandClock(look_s=0.3)
        )
        compaction_settings = CompactionSettings(
            self.settings.node_tiers_s, self.settings.node_keep_s, None, 45
        )
        compactor = LogCompactor(table, catalog, self.reports, self.clock, compaction_settings)
        self.node = BatchFolder(
            table,
            self.gate,
            catalog,
            FixedSource(self.committed, "were lost"),
            clock=self.clock,
            record_max_bytes=400,
            compactor=compactor,
        )

    def reports(self) -> SiteReports:
        return SiteReports(self.broker.reader(), self.broker, self.settings.topics, self.clock)

    async def send(self, messages: Sequence[Outgoing]) -> list[int]:
        positions = []
        for message in messages:
            self.fuse.step()
            positions.append(
                self.broker.append(
                    message.topic, message.partition or 0, message.key, message.value
                )
            )
        self.fuse.step()
        return positions

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def keys(
        self, partition: int, start: bytes, end: bytes, limit: int | None = None
    ) -> list[bytes]:
        return sorted(key for key in self.rows if start <= key < end)[:limit]

    def write(self, partition: int, rows: Sequence[Row], positions: Sequence[int]) -> None:
        for key, value in rows:
            self.fuse.step()
            self.put(key, value)

    def put(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = value

    def step(self, most: int) -> bool:
        """One batch; False where there is none."""
        messages: list[Message] = [
            m
            for m in self.broker.messages(self.settings.topics.commands)
            if m.position >= self.position
        ][:most]
        if not messages:
            return False
        asyncio.run(self.node.record(EventBatch.from_messages(messages)))
        self.position = messages[-1].position + 1
        return True

    def maintain(self) -> bool:
        """A little work on the log; False where there is none left for now."""
        return asyncio.run(self.node.maintain(0)) == 0

    def commit(self) -> None:
        self.committed = self.gate.committable_offset(0) or 0


class SlowReader(MemoryReader):
    """Often takes only a few messages at once: compaction gets between them."""

    def __init__(self, broker: MemoryBroker, random: Random) -> None:
        super().__init__(broker)
        self.random = random
        self.at_once: tuple[int, ...] = (3, 20, 1000)

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
        return super().poll(timeout_s, max_messages=self.random.choice(self.at_once))


class SiteModel:
    """One site; its devices and states lose what wasn't durable when it crashes."""

    def __init__(
        self, broker: MemoryBroker, host: HostModel, settings: Settings, fuse: Fuse, random: Random
    ) -> None:
        self.broker, self.host, self.settings, self.fuse, self.random = (
            broker,
            host,
            settings,
            fuse,
            random,
        )
        self.devices = {name: MemoryDevice(BLOCK * BLOCKS) for name in host.volumes}
        for device in self.devices.values():
            device.hook = fuse.step
        self.states = MemorySecondaryStates()
        self.states.hook = fuse.step
        self.publisher = MemoryPublisher(broker)
        self.start()

    def start(self) -> None:
        topics = self.settings.topics
        clock = HandClock(look_s=0.3)
        self.reader = SlowReader(self.broker, self.random)
        ports = SitePorts(
            log=LogReader(self.reader, self.broker, topics.changelog, site="a"),
            catalog=Catalog(self.broker.reader(), self.broker, topics, clock),
            admin=self.broker,
            publisher=self.publisher,
            states=self.states,
            open_primary=lambda volume: self.host.primaries[volume.volume].reopen(writable=False),
            open_secondary=lambda volume: self.devices[volume.volume].reopen(),
            make_secondary=lambda _: None,
            clock=clock,
        )
        self.site = Site("a", ports, self.settings)

    def crash(self) -> None:
        for device in self.devices.values():
            device.crash(keep=self.random)
        self.states.crash(keep=self.random)
        self.devices = {name: device.reopen() for name, device in self.devices.items()}
        self.start()

    def check_consistency(self) -> None:
        for name, device in self.devices.items():
            kept = self.states.load(name)
            if kept is None or kept.consistent_position is None:
                continue
            expected = self.host.as_of(name, kept.consistent_position)
            for block in range(BLOCKS):
                held = int.from_bytes(device.reopen().pread(offset=block * BLOCK, length=8), "big")
                assert held == expected.get(block, 0), (
                    f"{name} block {block}, consistent at {kept.consistent_position}"
                )


class World:
    def __init__(self, seed: int, losses: float = 0, **more: object) -> None:
        self.random, self.losses, self.may_copy_all = Random(seed), losses, False
        keep_s = self.random.choice((dict.fromkeys(TIERS[:3], 0), {"second": 3, "minute": 9}, {}))
        tiers_s = (2, 6, 18)
        words = {"site_copy_bytes": 4096, "node_tiers_s": tiers_s, "node_keep_s": keep_s, **more}
        self.settings = load_settings(None, words)
        self.broker = MemoryBroker()
        self.broker.create(self.settings.topics.specs(single_copy=True), 1)
        self.volumes = {
            name: Volume(
                volume=name,
                generation=GENERATION,
                size_bytes=BLOCK * BLOCKS,
                block_size=BLOCK,
                partition=0,
                origin_position=-1,
                initially_zeroed=True,
                primary=f"memory://{name}",
            )
            for name in NAMES
        }
        publisher = self.broker.publisher()
        for volume in self.volumes.values():
            publish_volume(publisher, self.settings.topics, volume)
        publisher.flush(1)
        self.node_fuse, self.site_fuse = Fuse(), Fuse()
        self.host = HostModel(self.broker, self.settings, self.volumes, self.random)
        for name in self.volumes:
            self.host.send(name, CommandKind.SESSION_OPEN, [])
        self.node = NodeModel(self.broker, self.settings, self.node_fuse, self.random)
        self.left_behind: NodeModel | None = None
        self.site = SiteModel(self.broker, self.host, self.settings, self.site_fuse, self.random)
        for primary in self.host.primaries.values():
            primary.hook = self.move_while_read

    def move_while_read(self, operation: str, *_: int) -> None:
        """The primary moves while a site reads it."""
        if operation == "pread" and self.random.random() < 0.3:
            self.host.write()
            if self.random.random() < 0.5:
                self.host.publish(self.random.choice(NAMES))

    def act(self) -> None:
        acts = {
            self.host.write: 30,
            lambda: self.host.publish(self.random.choice(NAMES)): 12,
            self.host.heartbeat: 5,
            self.host.lose: self.losses,
            self.run_node: 14,
            self.node.commit: 6,
            self.run_site: 14,
            self.tend_node: 14,
            self.leave_behind: 0.5,
            self.move_left_behind: 6,
            self.compact: 1,
        }
        self.random.choices(list(acts), list(acts.values()))[0]()
        self.site.check_consistency()

    def compact_all(self) -> None:
        self.broker.compact(self.settings.topics.changelog, 0)

    def compact(self) -> None:
        topic = self.settings.topics.changelog
        end = self.broker.end_position(topic, 0)
        self.broker.compact(topic, 0, self.random.choice((None, self.random.randint(0, end))))

    def tend_node(self) -> None:
        self.node_fuse.left = self.random.randrange(40) if self.random.random() < 0.3 else None
        try:
            for _ in range(self.random.randint(1, 12)):
                self.node.maintain()
        except Crash:
            self.node.start()
        self.node_fuse.left = None
        self.check_log()

    def leave_behind(self) -> None:
        self.left_behind = self.node.left_behind()

    def move_left_behind(self) -> None:
        if self.left_behind is not None:
            for _ in range(self.random.randint(1, 12)):
                self.left_behind.maintain()
            self.check_log()

    def settle(self) -> None:
        """The site reads on until it rests, or the test fails."""
        for _ in range(200):
            self.site.site.run_once(0)
            if all(
                each.state is SiteState.CONSISTENT for each in self.site.site.secondaries.values()
            ):
                return
        pytest.fail("no rest")

    def check_log(self) -> None:
        """Whoever reads the log from its beginning finds all that was folded, however far a roll-up came."""
        log = LogReader(self.broker.reader(), self.broker, self.settings.topics.changelog)
        while not log.caught_up():
            log.poll(0)
        through = log.watermarks[0].through if log.watermarks else -1
        for name in NAMES:
            assert log.logs[name].hole(after=-1, through=through) is None
            assert self.fold(name, through).issubset(
                log.logs[name].changed(after=-1, through=through)
            )

    def run_node(self) -> None:
        self.node_fuse.left = self.random.randrange(40) if self.random.random() < 0.3 else None
        try:
            self.node.step(self.random.randint(1, 12))
        except Crash:
            if self.random.random() < 0.5:
                self.node.commit()  # Faust commits by a clock of its own
            self.node.start()
        self.node_fuse.left = None

    def run_site(self) -> None:
        self.site_fuse.left = self.random.randrange(40) if self.random.random() < 0.3 else None
        try:
            self.site.site.run_once(0)
        except Crash:
            self.site.crash()
        self.site_fuse.left = None

    def finish(self) -> None:
        """Nobody writes any more: node and site come to rest, or the test fails."""
        self.host.close()
        for primary in self.host.primaries.values():
            primary.hook = None
        while self.node.step(50):
            self.node.commit()
        for _ in range(200):
            self.site.site.run_once(0)
            self.site.check_consistency()
            if all(
                each.state is SiteState.CONSISTENT for each in self.site.site.secondaries.values()
            ):
                return
        pytest.fail(f"no rest: {[each.status for each in self.site.site.secondaries.values()]}")

    def check_end(self) -> None:
        assert set(self.site.site.secondaries) == set(NAMES)
        for name in NAMES:
            primary = self.host.primaries[name].pread(offset=0, length=BLOCK * BLOCKS)
            assert (
                self.site.devices[name].reopen().pread(offset=0, length=BLOCK * BLOCKS) == primary
            ), name
            kept = self.site.states.load(name)
            assert kept is None or kept.rung == Rung.CHANGED or self.may_copy_all, (
                f"{name}: a hole that is none"
            )
        end = self.broker.end_position(self.settings.topics.commands, 0) - 1
        log = LogReader(self.broker.reader(), self.broker, self.settings.topics.changelog)
        while not log.caught_up():
            log.poll(0)
        for name in NAMES:
            assert log.logs[name].hole(after=-1, through=end) is None
            assert log.logs[name].changed(after=-1, through=end) == self.fold(name)
            assert table_blocks(self.node.rows, name) == self.fold(name)
            assert name not in self.host.lost or len(self.fold(name)) == BLOCKS

    def fold(self, name: str, through: int | None = None) -> BitMap64:
        """Independent of the node: one extent after the other."""
        found = BitMap64()
        for message in self.broker.messages(self.settings.topics.commands):
            if through is not None and message.position > through:
                break
            event = decode(message.value or b"", TrackingCommand)
            if event.volume == name:
                for extent in event.extents:
                    found.update(range(extent.offset // BLOCK, (extent.end + BLOCK - 1) // BLOCK))
        return found


def table_blocks(rows: dict[bytes, bytes], name: str) -> BitMap64:
    found = BitMap64()
    for key, value in rows.items():
        if key_kind(key) is LogRecord and (record := decode(value, LogRecord)).volume == name:
            found |= record.changed
    return found


@pytest.mark.parametrize("seed", range(40))
def test_any_order_of_writes_flushes_and_crashes_ends_identical(seed: int) -> None:
    world = World(seed, losses=0.1 * (seed % 3))
    for _ in range(400):
        world.act()
    world.finish()
    world.check_end()
    if world.settings.node_keep_s.get("hour") == 0:
        for _ in range(600):
            world.node.maintain()
        world.compact_all()
        world.check_end()
        left = {
            replace(read_record_key(key), part=0)
            for key in world.node.rows
            if key_kind(key) is LogRecord
        }
        assert len(left) <= len(NAMES) * len(TIERS), "one for each volume and tier at most"


@pytest.mark.parametrize("damaged", [False, True])
def test_a_record_that_vanished_or_is_damaged_is_found_and_the_next_rung_taken(
    damaged: bool,
) -> None:
    world = World(4711)
    for _ in range(30):
        world.host.write()
        world.host.publish("v")
        world.node.step(50)
        world.node.commit()
    changelog = world.broker.partition(world.settings.topics.changelog, 0)
    records = [m for m in changelog.messages if key_kind(m.key or b"") is LogRecord]
    place = changelog.messages.index(records[len(records) // 2])
    lost = changelog.messages.pop(place)
    if damaged:
        flipped = bytearray(lost.value or b"")
        flipped[flipped.index(pack(decode(bytes(flipped), LogRecord).changed)) + 20] ^= 1
        changelog.messages.insert(place, replace(lost, value=bytes(flipped)))
    world.finish()
    assert {each.saved.rung for each in world.site.site.secondaries.values() if each.saved} & {
        Rung.ALLOCATED,
        Rung.FULL,
    }
    for name in NAMES:
        primary = world.host.primaries[name].pread(offset=0, length=BLOCK * BLOCKS)
        assert world.site.devices[name].reopen().pread(offset=0, length=BLOCK * BLOCKS) == primary


def test_a_hole_that_the_cleaner_makes_under_a_reader_isnt_believed() -> None:
    world = World(3, node_keep_s=dict.fromkeys(TIERS[:3], 0))
    topic = world.settings.topics.changelog

    def write(block: int) -> None:
        world.host.version += 1
        world.host.primaries["v"].pwrite(block * BLOCK, content(world.host.version))
        world.host.open_batches["v"].append((block, world.host.version))
        world.host.heartbeat()
        world.node.step(50)
        world.node.commit()

    for primary in world.host.primaries.values():
        primary.hook = None
    write(1)
    world.settle()
    read = world.broker.end_position(topic, 0)
    for block in range(2, 8):
        write(block)
    for _ in range(400):
        world.node.maintain()
    unread = [m for m in world.broker.messages(topic) if m.position >= read]
    part = next(m for m in unread if key_kind(m.key or b"") is LogRecord)
    mark = next(m for m in unread if key_kind(m.key or b"") is Watermark)
    world.broker.compact(topic, 0, mark.position)
    assert part not in world.broker.messages(topic)
    assert mark in world.broker.messages(topic)
    world.site.reader.at_once = (1,)
    world.site.site.run_once(0)
    for _ in range(200):
        world.site.site.run_once(0)
    world.finish()
    world.check_end()


def test_a_forked_volume_from_host_to_site() -> None:
    """The node, its roll-ups, the reader and the site as they are: what came by the fork isn't copied, nor after a restart."""
    world = World(11, node_keep_s=dict.fromkeys(TIERS[:3], 0))
    for primary in world.host.primaries.values():
        primary.hook = None
    world.settle()
    secondary = world.site.site.secondaries["v"]

    def write(block: int, outcome: ForkOutcome) -> None:
        world.host.version += 1
        devices = [
            world.host.primaries["v"],
            *([world.site.devices["v"].reopen()] if outcome is ForkOutcome.HAS else []),
        ]
        for device in devices:
            device.pwrite(block * BLOCK, content(world.host.version))
            device.flush()
        world.host.history["v"].append((world.host.acknowledged + 1, block, world.host.version))
        forks = (
            ForkOutcomes("a", bytes([outcome])),
            ForkOutcomes("b", bytes([ForkOutcome.MISSED])),
        )
        world.host.send("v", CommandKind.WRITES, [Extent(block * BLOCK, BLOCK)], forks)
        world.node.step(50)
        world.node.commit()
        world.site.site.run_once(0)

    def beat() -> None:
        for _ in range(3):
            world.host.heartbeat()
            world.node.step(50)
            world.site.site.run_once(0)

    for block in range(20):
        write(block, ForkOutcome.HAS if block % 4 else ForkOutcome.MISSED)
    write(21, ForkOutcome.OPEN)
    assert secondary.state in (SiteState.SETTLING, SiteState.SYNCING)
    write(21, ForkOutcome.HAS)
    beat()
    world.settle()
    assert secondary.blocks_copied == 5
    assert world.site.site.progress(secondary).behind_blocks == 0
    assert "v@b" not in world.site.site._ports.log.logs
    for _ in range(600):
        world.node.maintain()
    world.compact_all()
    names = Counter(
        read_record_key(key).volume for key in world.node.rows if key_kind(key) is LogRecord
    )
    assert names["v@a"] <= len(TIERS) and names["v@b"] <= len(TIERS)
    world.site.crash()
    beat()
    world.settle()
    assert world.site.site.secondaries["v"].blocks_copied == 0
    world.check_end()


def test_a_secondary_that_is_gone_stops_and_the_others_go_on() -> None:
    world = World(7)
    for _ in range(200):
        world.act()
    world.run_site()
    gone, opened = set(), world.site.site._ports.open_secondary

    def open_secondary(volume: Volume) -> BlockDevice:
        if volume.volume in gone:
            raise DeviceFailed("opening failed: No such file or directory", where=volume.volume)
        return opened(volume)

    world.site.site._ports = replace(world.site.site._ports, open_secondary=open_secondary)
    gone.add("v")
    for name in NAMES:
        world.host.open_batches[name].append((0, 1_000_000))
        world.host.primaries[name].pwrite(0, content(1_000_000))
    with pytest.raises(pytest.fail.Exception):
        world.finish()
    states = {name: each.state for name, each in world.site.site.secondaries.items()}
    assert states == {"u": SiteState.CONSISTENT, "v": SiteState.STOPPED, "w": SiteState.CONSISTENT}
    gone.clear()
    for _ in range(60):
        world.site.site.run_once(0)
        world.site.check_consistency()
    world.check_end()


def test_a_renewed_generation_takes_the_next_rung() -> None:
    world = World(42)
    for _ in range(60):
        world.act()
    world.host.heartbeat()
    while world.node.step(50):
        world.node.commit()
    renewed = Volume(
        volume="v",
        generation="33333333-3333-4333-8333-333333333333",
        size_bytes=BLOCK * BLOCKS,
        block_size=BLOCK,
        partition=0,
        origin_position=world.host.acknowledged,
        initially_zeroed=False,
        primary="x",
    )
    publisher = world.broker.publisher()
    publish_volume(publisher, world.settings.topics, renewed)
    publisher.flush(1)
    world.host.primaries["v"].pwrite(
        0, content(999_999)
    )  # untracked: that is why the generation was renewed
    world.host.history["v"].append((world.host.acknowledged, 0, 999_999))
    world.finish()
    state = world.site.states.load("v")
    assert state is not None
    assert state.generation == renewed.generation
    assert state.rung in (Rung.ALLOCATED, Rung.FULL)
    primary = world.host.primaries["v"].pread(offset=0, length=BLOCK * BLOCKS)
    assert world.site.devices["v"].reopen().pread(offset=0, length=BLOCK * BLOCKS) == primary
