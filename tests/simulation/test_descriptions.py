"""Commands that change a volume, with a node that is killed at each step and a site that follows.

The script: writes, a resize, writes into the grown part, a new generation, more writes. Commits lag
behind, so that a restart reads old commands again by a newer description. After each crash the
volume, the log and the secondary end as if there had been none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import pytest
from notation import GENERATION, OTHER_GENERATION, command, volume
from sources import FixedSource, NoCompaction, NoHistories

from mirrorlog.codec.events import decode, encode
from mirrorlog.codec.status_batches import read_statuses
from mirrorlog.consumers.resync.site import Site
from mirrorlog.consumers.resync.site_ports import SitePorts
from mirrorlog.domain.commands import CommandKind, CommandStatus, StatusCode, TrackingCommand
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.domain.volumes import EarlierSize, Volume, VolumeState
from mirrorlog.ports.streams import Message
from mirrorlog.reading.catalog import Catalog, publish_volume
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryReader
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.memory_secondaries import MemorySecondaries
from mirrorlog.simulation.memory_secondary_states import MemorySecondaryStates
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.fold.fold_batch import BatchFolder
from mirrorlog.streams.table.local_store import Row
from mirrorlog.streams.table.log_table import LogTable
from mirrorlog.streams.table.outgoing import Outgoing
from mirrorlog.streams.table.rebuild_check import check_records
from mirrorlog.streams.table.record_digests import RecordDigests
from mirrorlog.tracking_log.heads import VolumeHead
from mirrorlog.tracking_log.keys import key_kind
from mirrorlog.tracking_log.records import LogRecord

SETTINGS = Settings()
TOPICS = SETTINGS.topics
BLOCK = 4096
OLD, NEW = 4 * BLOCK + 512, 8 * BLOCK
VOLUME = volume(size_bytes=OLD)


class Crash(BaseException):
    """The node is killed, as by kill -9."""


RESIZE = command(f"{OLD}+{NEW - OLD}", kind=CommandKind.RESIZE, sequence=-1, size_bytes=NEW)
SCRIPT = {
    "inside": command(f"0+1 z{4 * BLOCK}+512", sequence=0),
    "outside": command(f"{OLD}+1", sequence=1),
    "resize": RESIZE,
    "grown": command(f"{6 * BLOCK}+1", sequence=2),
    "renew": command(
        "", kind=CommandKind.NEW_GENERATION, sequence=-1, new_generation=OTHER_GENERATION
    ),
    "renewed": command(f"{BLOCK}+1", sequence=3, generation=OTHER_GENERATION),
    "close": command("", kind=CommandKind.SESSION_CLOSE, sequence=4, generation=OTHER_GENERATION),
}
NAMES = list(SCRIPT)


class SlowReader(MemoryReader):
    """Returns messages only to a poll that waits."""

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
        return super().poll(timeout_s, max_messages=max_messages) if timeout_s else ()


class World:
    def __init__(self, script: Sequence[TrackingCommand]) -> None:
        self.broker = MemoryBroker()
        self.broker.create(TOPICS.specs(single_copy=True), 1)
        publisher = self.broker.publisher()
        publish_volume(publisher, TOPICS, VOLUME)
        publisher.flush(0)
        for event in script:
            self.broker.append(TOPICS.commands, 0, b"v", encode(event))
        self.rows: dict[bytes, bytes] = {}
        self.committed, self.steps, self.crash_at = 0, 0, -1
        self.primary = MemoryDevice(NEW)
        self.secondaries = MemorySecondaries({"v": MemoryDevice(OLD)}, {"v": self.primary})
        # Nobody knows what a grown region held before.
        self.primary.pwrite(OLD, b"older than the volume" * 100)

    def run(self, max_messages: int, crash_at: int = -1, keeps: bool = True) -> None:
        """Run a node to the end of the commands, or to its crash. Without a crash, commit."""
        if not keeps:
            self.rows = {}
        for message in self.broker.messages(TOPICS.changelog):
            self._put(message.key or b"", message.value)
        gate = CommitGate(TOPICS.commands)
        catalog = Catalog(self.broker.reader(), self.broker, TOPICS, ManualClock(look_s=10))
        catalog.refresh()
        gate.assign(0, position=self.committed)
        node = self.node(gate, catalog)
        self.steps, self.crash_at = 0, crash_at
        messages = [
            m for m in self.broker.messages(TOPICS.commands) if m.position >= self.committed
        ]
        for start in range(0, len(messages), max_messages):
            asyncio.run(
                node.record(EventBatch.from_messages(messages[start : start + max_messages]))
            )
        self.committed = gate.committable_offset(0) or self.committed

    def node(self, gate: CommitGate, catalog: Catalog) -> BatchFolder:
        return BatchFolder(
            LogTable(self._send, self, TOPICS, gate),
            gate,
            catalog,
            FixedSource(""),
            clock=ManualClock(look_s=10),
            record_max_bytes=9999,
            compactor=NoCompaction(),
            histories=NoHistories(),
        )

    async def _send(self, messages: Sequence[Outgoing]) -> list[int]:
        positions = []
        for message in messages:
            self._step()
            positions.append(
                self.broker.append(
                    message.topic, message.partition or 0, message.key, message.value
                )
            )
        self._step()
        return positions

    def _step(self) -> None:
        self.steps += 1
        if self.steps == self.crash_at:
            raise Crash

    def changelog_position(self, partition: int) -> int | None:
        return None

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def write(self, partition: int, rows: Sequence[Row], positions: Sequence[int]) -> None:
        for key, value in rows:
            self._step()
            self._put(key, value)

    def _put(self, key: bytes, value: bytes | None) -> None:
        if value is not None:
            self.rows[key] = value

    def described(self) -> Volume:
        catalog = Catalog(self.broker.reader(), self.broker, TOPICS, ManualClock(look_s=10))
        catalog.refresh()
        return catalog["v"]

    def statuses(self) -> dict[int, CommandStatus]:
        """Return the last status of each command, by position."""
        values = [message.value or b"" for message in self.broker.messages(TOPICS.status)]
        return {status.position: status for value in values for status in read_statuses(value)}

    def records(self) -> Iterator[LogRecord]:
        for message in self.broker.messages(TOPICS.changelog):
            if key_kind(message.key or b"") is LogRecord:
                yield decode(message.value or b"", LogRecord)

    def site(self) -> Site:
        ports = SitePorts(
            log=LogReader(self.broker.reader(), self.broker, TOPICS.changelog),
            catalog=Catalog(SlowReader(self.broker), self.broker, TOPICS, ManualClock(look_s=10)),
            admin=self.broker,
            publisher=self.broker.publisher(),
            states=MemorySecondaryStates(),
            secondaries=self.secondaries,
            open_reader=self.broker.reader,
            clock=ManualClock(look_s=10),
        )
        return Site("a", ports, SETTINGS)

    @property
    def secondary(self) -> MemoryDevice:
        return self.secondaries.devices["v"]

    def check_end(self) -> None:
        described, statuses = self.described(), self.statuses()
        assert described == replace(
            VOLUME,
            size_bytes=NEW,
            generation=OTHER_GENERATION,
            origin_position=NAMES.index("renew"),
            first_created_at_us=VOLUME.created_at_us,
            initially_zeroed=False,
            created_at_us=2,
            described_position=NAMES.index("renew"),
            earlier_sizes=(EarlierSize(before_position=NAMES.index("resize"), size_bytes=OLD),),
        )
        codes = {name: statuses[position].code for position, name in enumerate(NAMES)}
        assert codes == {
            name: StatusCode.REJECTED if name == "outside" else StatusCode.ACCEPTED
            for name in NAMES
        }
        table = [
            decode(value, LogRecord)
            for key, value in self.rows.items()
            if key_kind(key) is LogRecord
        ]
        for records in (list(self.records()), table):
            commands = self.broker.messages(TOPICS.commands)
            differences = list(
                check_records(
                    commands,
                    {"v": described},
                    RecordDigests(records),
                    where="here",
                    reread=partial(iter, records),
                )
            )
            assert differences == [], "\n".join(map(str, differences))
        dirty = {block for record in self.records() for block in record.changed}
        assert dirty == {0, 1, 4, 5, 6, 7}


def follow(site: Site) -> None:
    for _ in range(20):
        site.run_once(0)


def test_a_site_follows_each_change_while_it_happens() -> None:
    world = World(())
    site, rungs = world.site(), []
    for name, event in SCRIPT.items():
        world.broker.append(TOPICS.commands, 0, b"v", encode(event))
        world.run(10)
        follow(site)
        rungs.append(saved.rung if (saved := site.secondaries["v"].saved) else None)
        assert world.secondary.reopen().size_bytes == (
            OLD if NAMES.index(name) < NAMES.index("resize") else NEW
        )
    assert rungs == [*["changed"] * 4, "allocated", "allocated", "changed"]
    assert site.secondaries["v"].state is SiteState.CONSISTENT
    assert world.secondary.reopen().pread(offset=0, length=NEW) == world.primary.reopen().pread(
        offset=0, length=NEW
    )
    world.check_end()


@pytest.mark.parametrize("max_messages", [1, 2, 3, 10])
def test_a_node_that_dies_at_any_step_leaves_the_same(max_messages: int) -> None:
    undisturbed = World(list(SCRIPT.values()))
    undisturbed.run(max_messages)
    undisturbed.check_end()
    for crash_at in range(1, undisturbed.steps + 1):
        world = World(list(SCRIPT.values()))
        with pytest.raises(Crash):
            world.run(max_messages, crash_at)
        world.run(1 + crash_at % 3, keeps=crash_at % 2 == 0)
        world.check_end()
        follow(site := world.site())
        assert site.secondaries["v"].state is SiteState.CONSISTENT
        assert world.secondary.reopen().pread(offset=0, length=NEW) == world.primary.reopen().pread(
            offset=0, length=NEW
        ), f"step {crash_at}"


def test_a_grown_region_is_dirty_whatever_the_sender_knew_of_it() -> None:
    for extents in ("", f"{6 * BLOCK}+{2 * BLOCK}", f"{OLD}+{NEW - OLD}"):
        world = World([replace(RESIZE, extents=command(extents).extents)])
        world.run(10)
        assert {block for record in world.records() for block in record.changed} == {4, 5, 6, 7}, (
            extents
        )


def test_a_description_that_comes_late_takes_nothing_back() -> None:
    world = World(list(SCRIPT.values()))
    world.run(10)
    publisher = world.broker.publisher()
    for late in (VOLUME, replace(VOLUME, size_bytes=NEW, described_position=NAMES.index("resize"))):
        publish_volume(publisher, TOPICS, late)
    publisher.flush(0)
    assert world.described().generation == OTHER_GENERATION


@pytest.mark.parametrize("event", [RESIZE, command("", kind=CommandKind.RETIRE, sequence=-1)])
def test_what_others_described_outlives_a_change_by_the_node(event: TrackingCommand) -> None:
    """`volume move` and `rejoin` publish a description, and no node hears of that at once."""
    world = World([command("0+1", sequence=0)])
    gate = CommitGate(TOPICS.commands)
    catalog = Catalog(world.broker.reader(), world.broker, TOPICS, ManualClock(look_s=10))
    catalog.refresh()
    gate.assign(0, position=0)
    node = world.node(gate, catalog)
    moved = replace(VOLUME, primary="memory:moved", secondaries={"a": "memory:a"})
    publisher = world.broker.publisher()
    publish_volume(publisher, TOPICS, moved)
    publisher.flush(0)
    world.broker.append(TOPICS.commands, 0, b"v", encode(event))
    asyncio.run(node.record(EventBatch.from_messages(world.broker.messages(TOPICS.commands))))
    described = Catalog(world.broker.reader(), world.broker, TOPICS, ManualClock(look_s=10))
    described.refresh()
    assert described["v"].described_position == 1
    assert described["v"].primary == "memory:moved"
    assert described["v"].secondaries == {"a": "memory:a"}


def test_another_worker_takes_the_description_over() -> None:
    world = World([SCRIPT["inside"]])
    catalog = Catalog(world.broker.reader(), world.broker, TOPICS, ManualClock(look_s=10))
    catalog.refresh()  # long before it gets the partition
    world.run(10)
    for event in (SCRIPT["renew"], SCRIPT["renewed"]):
        world.broker.append(TOPICS.commands, 0, b"v", encode(event))
        world.run(10)
    gate = CommitGate(TOPICS.commands)
    gate.assign(0, position=world.committed)
    catalog.refresh()  # as PartitionHandover does
    node = world.node(gate, catalog)
    world.broker.append(TOPICS.commands, 0, b"v", encode(replace(SCRIPT["renewed"], sequence=4)))
    asyncio.run(
        node.record(
            EventBatch.from_messages(world.broker.messages(TOPICS.commands)[world.committed :])
        )
    )
    *_, newest = world.records()
    assert (newest.generation, newest.after) == (OTHER_GENERATION, 2)


def test_a_retired_volume_is_recorded_flagged_and_left_alone() -> None:
    world = World([SCRIPT["inside"]])
    site = world.site()
    world.run(10)
    follow(site)
    saved = site.secondaries["v"].saved
    late = command(f"{2 * BLOCK}+1", sequence=1)
    for event in (command("", kind=CommandKind.RETIRE, sequence=-1), late, RESIZE):
        world.broker.append(TOPICS.commands, 0, b"v", encode(event))
    world.run(10)
    follow(site)
    assert (world.described().state, world.described().size_bytes) == (VolumeState.RETIRED, OLD)
    status, refused = world.statuses()[2], world.statuses()[3]
    assert (status.code, status.text) == (
        StatusCode.ACCEPTED,
        "recorded, though the volume was retired at position 1",
    )
    assert (refused.code, refused.reason) == (StatusCode.REJECTED, "VOLUME_RETIRED")
    assert 2 in {block for record in world.records() for block in record.changed}
    secondary = site.secondaries["v"]
    assert (secondary.state, secondary.saved) == (SiteState.RETIRED, saved)
    assert "retired at position 1" in (site.progress(secondary).reason or "")
    new = world.site()
    world.secondaries.missing.add("v")
    follow(new)
    assert new.secondaries["v"].state is SiteState.RETIRED


def test_the_log_says_by_which_description_it_was_written() -> None:
    world = World(list(SCRIPT.values()))
    world.run(1)
    heads = [
        decode(m.value or b"", VolumeHead)
        for m in world.broker.messages(TOPICS.changelog)
        if key_kind(m.key or b"") is VolumeHead
    ]
    assert [head.described_position for head in heads] == [-1, -1, 2, 2, 4, 4, 4]
    assert heads[0].generation == GENERATION
