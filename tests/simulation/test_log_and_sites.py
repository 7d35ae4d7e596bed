"""The whole world in memory: hosts, node and site are killed between any two of their steps.

mirrorlog.simulation.world says what is checked all the time and at the end.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from mirrorlog.codec.events import decode
from mirrorlog.domain.bitmaps import pack
from mirrorlog.domain.commands import ForkOutcome, ForkOutcomes
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.simulation.memory_broker import MemoryReader
from mirrorlog.simulation.world.host import BLOCK_BYTES
from mirrorlog.simulation.world.world import VOLUMES, World
from mirrorlog.streams.compaction.partition_records import PartitionRecords
from mirrorlog.streams.compaction.rollups import RangeBlocks, RollUpSource
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import RecordKey, key_kind, read_record_key
from mirrorlog.tracking_log.records import LogRecord
from mirrorlog.tracking_log.site_log import SiteLog
from mirrorlog.tracking_log.tiers import TIERS


def record_keys(world: World) -> list[RecordKey]:
    """Return the keys of all records in the node's table."""
    return [read_record_key(key) for key in world.node.store.rows[0] if key_kind(key) is LogRecord]


@pytest.mark.parametrize("seed", [*range(40), 20297, 20483])
def test_any_order_of_writes_flushes_and_crashes_ends_identical(seed: int) -> None:
    world = World(seed, losses=0.1 * (seed % 3))
    for _ in range(400):
        world.act()
    world.finish()
    world.check_end()
    if world.settings.node_keep_s.get("hour") == 0:
        for _ in range(600):
            world.node.maintain()
        world.compact()
        world.check_end()
        records = {replace(key, part=0) for key in record_keys(world)}
        assert len(records) <= len(VOLUMES) * len(TIERS), "one for each volume and tier at most"


@pytest.mark.parametrize("seed", range(8))
def test_positions_without_a_message_hold_nobody_up(seed: int) -> None:
    """Strangers' transactions end in the topics, in the end behind the last command, too."""
    world = World(seed, markers=8)
    for _ in range(400):
        world.act()
    world.finish()
    world.check_end()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_record_that_vanished_or_is_damaged_is_found_and_the_next_rung_taken(
    damaged: bool,
) -> None:
    world = World(4711)
    for _ in range(30):
        world.host.write()
        world.host.publish("v")
        world.node.fold(50)
        world.node.commit()
    changelog = world.broker.partition(world.settings.topics.changelog, 0)
    records = [m for m in changelog.messages if key_kind(m.key or b"") is LogRecord]
    index = changelog.messages.index(records[len(records) // 2])
    lost = changelog.messages.pop(index)
    if damaged:
        flipped = bytearray(lost.value or b"")
        flipped[flipped.index(pack(decode(bytes(flipped), LogRecord).changed).bitmap) + 20] ^= 1
        changelog.messages.insert(index, replace(lost, value=bytes(flipped)))
    world.finish()
    saved = [secondary.saved for secondary in world.site.site.secondaries.values()]
    assert {state.rung for state in saved if state} & {Rung.ALLOCATED, Rung.FULL}
    for name in VOLUMES:
        assert world.site.secondary_equals_primary(name)


def test_a_hole_that_the_cleaner_makes_under_a_reader_isnt_believed() -> None:
    read_while_it_is_cleaned()


def test_a_site_that_acts_before_it_is_at_the_end_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MemoryReader, "at_end", lambda *_: True)
    monkeypatch.setattr(SiteLog, "hole", lambda self, *, after, through: None)
    with pytest.raises(AssertionError):
        read_while_it_is_cleaned()


def read_while_it_is_cleaned() -> None:
    """Let a site read row by row while records that it hasn't read are rolled up and removed."""
    world = World(3, node_keep_s=dict.fromkeys(TIERS[:3], 0))
    topic = world.settings.topics.changelog

    def write(block: int) -> None:
        world.host.write_block("v", block)
        world.host.heartbeat()
        world.node.fold(50)
        world.node.commit()

    world.hold_primaries_still()
    write(1)
    for _ in range(3):
        world.site.site.run_once(0)
    read = world.broker.end_position(topic, 0)
    for block in range(2, 8):
        write(block)
    for _ in range(400):
        world.node.maintain()
    unread = [message for message in world.broker.messages(topic) if message.position >= read]
    part = next(message for message in unread if key_kind(message.key or b"") is LogRecord)
    watermark = next(message for message in unread if key_kind(message.key or b"") is Watermark)
    world.compact(watermark.position)
    assert part not in world.broker.messages(topic)
    assert watermark in world.broker.messages(topic)
    world.site.reader.batch_sizes = (1,)
    for _ in range(201):
        world.site.site.run_once(0)
    world.finish()
    world.check_end()


def test_a_forked_volume_from_host_to_site() -> None:
    """What came by the fork isn't copied, not even after a restart of the site."""
    world = World(11, node_keep_s=dict.fromkeys(TIERS[:3], 0))
    world.hold_primaries_still()
    world.settle()
    secondary = world.site.site.secondaries["v"]

    def write(block: int, outcome: ForkOutcome) -> None:
        secondaries = [world.site.secondary("v")] if outcome is ForkOutcome.HAS else []
        forks = (
            ForkOutcomes("a", bytes([outcome])),
            ForkOutcomes("b", bytes([ForkOutcome.MISSED])),
        )
        world.host.write_forked("v", block, secondaries, forks)
        world.node.fold(50)
        world.node.commit()
        world.site.site.run_once(0)

    def beat() -> None:
        for _ in range(3):
            world.host.heartbeat()
            world.node.fold(50)
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
    assert "v@b" not in world.site.log.logs
    for _ in range(600):
        world.node.maintain()
    world.compact()
    names = Counter(key.volume for key in record_keys(world))
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
    world.site.secondaries.missing.add("v")
    for name in VOLUMES:
        world.host.write_block(name, 0)
    with pytest.raises(AssertionError, match="not consistent"):
        world.finish()
    states = {name: secondary.state for name, secondary in world.site.site.secondaries.items()}
    assert states == {"u": SiteState.CONSISTENT, "v": SiteState.STOPPED, "w": SiteState.CONSISTENT}
    world.site.secondaries.missing.clear()
    for _ in range(60):
        world.site.site.run_once(0)
        world.site.check_consistency()
    world.check_end()


def test_a_secondary_that_is_gone_is_logged_once_then_at_growing_intervals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(7)
    for _ in range(200):
        world.act()
    world.run_site()
    world.site.secondaries.missing.add("v")
    for number in range(2000):
        if number % 100 == 0:
            world.host.write_block("v", 0)
            world.host.heartbeat()
            world.fold_and_commit()
        world.site.site.run_once(0)
    lines = [message for message in caplog.messages if "opening failed" in message]
    assert len(lines) < 8
    assert re.search(r"\([0-9]{2,} failures in [0-9.]+ min\)$", lines[-1])
    world.site.secondaries.missing.clear()
    world.finish()
    world.run_site()
    assert [message for message in caplog.messages if "v at a works again after" in message]


def test_a_renewed_generation_takes_the_next_rung() -> None:
    world = World(42)
    for _ in range(60):
        world.act()
    world.host.heartbeat()
    world.fold_and_commit()
    renewed = replace(
        world.described("v"),
        generation="33333333-3333-4333-8333-333333333333",
        origin_position=world.host.acknowledged,
        initially_zeroed=False,
    )
    world.publish_volume(renewed)
    world.host.write_untracked("v", 0)  # this is why the generation was renewed
    world.finish()
    state = world.site.states.load("v")
    assert state is not None
    assert state.generation == renewed.generation
    assert state.rung in (Rung.ALLOCATED, Rung.FULL)
    assert world.site.secondary_equals_primary("v")


def test_after_a_gap_a_copy_that_compares_writes_only_what_differs() -> None:
    world = World(42, site_checksum=True)
    for _ in range(60):
        world.act()
    world.hold_primaries_still()
    for _ in range(20):
        world.host.heartbeat()
        world.fold_and_commit()
        world.run_round()
    assert world.site.is_consistent()
    renewed = replace(
        world.described("v"),
        generation="33333333-3333-4333-8333-333333333333",
        origin_position=world.host.acknowledged,
        initially_zeroed=False,
    )
    world.publish_volume(renewed)
    for block in (0, 5):
        world.host.write_untracked("v", block)
    written = set[int]()

    def hook(operation: str, offset: int, length: int) -> None:
        if operation in ("pwrite", "zero"):
            written.update(range(offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES)))

    world.site.secondary("v").hook = hook
    world.finish()
    state = world.site.states.load("v")
    assert state is not None and state.rung in (Rung.ALLOCATED, Rung.FULL)
    assert written == {0, 5}
    assert world.site.secondary_equals_primary("v")


def test_a_roll_up_that_lacks_what_came_last_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its range covers all records that it merges. What the newest of them says is lost."""
    united = PartitionRecords.united

    def without_the_last(
        self: PartitionRecords, volume: str, sources: Sequence[RollUpSource]
    ) -> Iterator[RangeBlocks | None]:
        return united(self, volume, sources[:-1] or sources)

    monkeypatch.setattr(PartitionRecords, "united", without_the_last)
    with pytest.raises(AssertionError):
        for seed in range(10):
            world = World(seed, node_keep_s=dict.fromkeys(TIERS[:3], 0))
            for _ in range(200):
                world.act()
            world.finish()
            world.check_end()
