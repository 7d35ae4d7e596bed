"""Measures the size of the tracking log of a volume of 1 TiB with random writes.

There are 10,000 writes of 4 KiB a second, in simulated time. Bytes are those of keys and values,
uncompressed, and 10 more for each message in the changelog, which is what a record of Kafka's
format costs inside a large batch (DefaultRecord, KIP-98).

Two parts are simulated with the node's own code (BatchFolder, LogTable, LogCompactor); only Kafka
and RocksDB are in memory:
- Some minutes of commands of 500 extents, with a flush each 0.25 s, are rolled up to minutes. The
  result is flush records, heads, watermarks, position times, minutes' records and the tombstones of
  their parts.
- An hour of minutes' records, each of 600,000 random blocks, is rolled up to the hour's record by
  LogCompactor, step by step.

A day's record isn't rolled up from 24 hours. Its blocks are drawn with the density that 864 million
random writes give, and it is split and encoded by the same code. The rest is arithmetic: the bytes
that a tier writes, divided by the writes that it covers; and the maximum of the state, just before
the ticks at the end of day 30. That state has the default retention of the tiers: 6 minutes of
flushes and one more until the next tick, 180 minutes, 48 hours and 30 days, each as large as the
one that was encoded.

    python benchmarks/bench_log_size.py [MINUTES]      takes some minutes on one core
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sortedcontainers import SortedDict

from mirrorlog.codec.events import encode
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.domain.volumes import Volume
from mirrorlog.reading.catalog import Catalog, publish_volume
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.streams.compaction.compactor import CompactionSettings, LogCompactor
from mirrorlog.streams.compaction.retention import DEFAULT_KEEP_S
from mirrorlog.streams.compaction.rollups import RangeBlocks, cut_to_size
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.fold.fold_batch import BatchFolder
from mirrorlog.streams.table.local_store import Row
from mirrorlog.streams.table.log_table import LogTable
from mirrorlog.streams.table.outgoing import Outgoing
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import key_kind, read_record_key, record_key, watermark_key
from mirrorlog.tracking_log.records import LogRecord
from mirrorlog.tracking_log.tiers import TIERS

VOLUME_BYTES, BLOCK = 1 << 40, 4096
BLOCKS = VOLUME_BYTES // BLOCK
WRITES_A_SECOND, FLUSH_S, EXTENTS_A_COMMAND = 10_000, 0.25, 500
FRAMING_BYTES = 10
GENERATION = "11111111-1111-4111-8111-111111111111"
VOLUME = Volume(
    volume="vol-0001",
    generation=GENERATION,
    size_bytes=VOLUME_BYTES,
    block_size=BLOCK,
    partition=0,
    origin_position=-1,
    initially_zeroed=True,
    primary="nbd://primary",
)
TOPIC = Settings().topics.changelog
LIMIT_BYTES_A_WRITE, LIMIT_STATE_FRACTION = 12.0, 0.003


class Clock:
    """A simulated clock. Only the time that a step takes is real."""

    def __init__(self) -> None:
        self.s = 1_800_000_000.0
        self.began_s = time.perf_counter()

    def now_us(self) -> int:
        return int(self.s * 1e6)

    def monotonic_s(self) -> float:
        return self.s + time.perf_counter() - self.began_s


class Changelog:
    """The local store, and the bytes that were sent to the changelog, by kind."""

    def __init__(self) -> None:
        self.rows: SortedDict[bytes, bytes] = SortedDict()
        self.sent: Counter[str] = Counter()
        self._end = 0

    async def send(self, messages: Sequence[Outgoing]) -> list[int]:
        for message in messages:
            if message.topic == TOPIC:
                size = message.size_bytes + FRAMING_BYTES
                self.sent[_kind_of(message.key or b"", message.value)] += size
        start, self._end = self._end, self._end + len(messages)
        return list(range(start, self._end))

    def changelog_position(self, partition: int) -> int | None:
        return None

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def keys(
        self, partition: int, start: bytes, end: bytes, limit: int | None = None
    ) -> list[bytes]:
        return list(self.rows.irange(start, end, inclusive=(True, False)))[:limit]

    def empty_write_buffer(self, partition: int, *, wait: bool) -> None: ...

    def write(self, partition: int, rows: Sequence[Row], positions: Sequence[int]) -> None:
        for key, value in rows:
            self.rows.pop(key, None) if value is None else self.rows.update({key: value})

    def records(self, tier: int) -> int:
        """Return the bytes of the tier's records in the state."""
        keys = [
            key
            for key in self.rows
            if key_kind(key) is LogRecord and read_record_key(key).tier == tier
        ]
        return sum(len(key) + len(self.rows[key]) for key in keys)


def _kind_of(key: bytes, value: bytes | None) -> str:
    """Return the kind of a message, as the results name it."""
    if key_kind(key) is not LogRecord:
        return "heads, watermarks, moments"
    return "tombstones" if value is None else TIERS[read_record_key(key).tier]


class _WholeSource:
    """A commands topic without gaps."""

    def gap_reason(self, partition: int, *, first: int, end: int) -> str | None:
        return None

    def batches(self, partition: int, *, first: int, end: int) -> Iterator[EventBatch]:
        raise AssertionError("nothing is folded again")


class _OneHistory:
    """A history that never ends."""

    async def doubt(self, partition: int) -> str | None:
        return None

    async def renew(self, partition: int, reason: str) -> int:
        raise AssertionError(reason)


class _NoSites:
    """No site reports progress."""

    def refresh(self) -> None: ...

    def of(self, volume: str) -> Sequence[SiteProgress]:
        return []


@dataclass
class Bench:
    """A node whose only partition has one volume."""

    def __post_init__(self) -> None:
        settings = Settings()
        broker = MemoryBroker()
        broker.create(settings.topics.specs(single_copy=True), 1)
        publisher = broker.publisher()
        publish_volume(publisher, settings.topics, VOLUME)
        publisher.flush(1)
        self.clock, self.log = Clock(), Changelog()
        gate = CommitGate(settings.topics.commands)
        gate.assign(0, position=0)
        table = LogTable(self.log.send, self.log, settings.topics, gate)
        catalog = Catalog(broker.reader(), broker, settings.topics, self.clock)
        catalog.refresh()
        compaction_settings = CompactionSettings(
            settings.node_tiers_s,
            dict.fromkeys(TIERS[:3], 0.0),
            None,
            settings.node_record_max_bytes,
            settings.node_table_file_s,
        )
        self.compactor = LogCompactor(table, catalog, _NoSites, self.clock, compaction_settings)
        self.node = BatchFolder(
            table,
            gate,
            catalog,
            _WholeSource(),
            clock=self.clock,
            record_max_bytes=settings.node_record_max_bytes,
            compactor=self.compactor,
            histories=_OneHistory(),
        )
        self.random = np.random.default_rng(1)
        self.position = 0

    async def maintain(self) -> float:
        """Do all maintenance that is due. Return the seconds of the longest step."""
        longest = 0.0
        while True:
            start_s = time.perf_counter()
            rest_s = await self.node.maintain(0)
            longest = max(longest, time.perf_counter() - start_s)
            if rest_s:
                return longest

    async def flush(self) -> None:
        """Record the commands of a flush, and advance the clock."""
        values: list[bytes | None] = []
        for _ in range(int(WRITES_A_SECOND * FLUSH_S) // EXTENTS_A_COMMAND):
            offsets = self.random.integers(0, BLOCKS, EXTENTS_A_COMMAND).astype(
                np.uint64
            ) * np.uint64(BLOCK)
            extents = ExtentColumns(offsets, np.full(EXTENTS_A_COMMAND, BLOCK, np.uint64))
            at_us, number = self.clock.now_us(), self.position + len(values)
            command = TrackingCommand(
                volume=VOLUME.volume,
                generation=GENERATION,
                host="host-01",
                session="5e55",
                sequence=number,
                kind=CommandKind.WRITES,
                extents=extents,
                first_at_us=at_us,
                last_at_us=at_us,
            )
            values.append(encode(command))
        positions = range(self.position, self.position + len(values))
        await self.node.record(
            EventBatch("commands", 0, positions, [b"vol-0001"] * len(values), values)
        )
        self.position += len(values)
        self.clock.s += FLUSH_S

    def put(self, tier: int, after: int, through: int, changed: BlockSet, writes: int) -> None:
        """Put a record of these blocks into the state, split and encoded as LogCompactor does it.

        The compactor notices it as it notices the record of a flush.
        """
        parts = [
            piece
            for piece in cut_to_size(_block_sets(changed), Settings().node_record_max_bytes)
            if piece
        ]
        for number, (blocks, zeroed) in enumerate(parts):
            record = LogRecord(
                volume=VOLUME.volume,
                generation=GENERATION,
                tier=tier,
                after=after,
                through=through,
                block_size=BLOCK,
                changed=blocks,
                zeroed=zeroed,
                first_at_us=self.clock.now_us() - 60_000_000,
                last_at_us=self.clock.now_us(),
                commands=writes // EXTENTS_A_COMMAND,
                writes=writes,
                bytes_written=writes * BLOCK,
                hosts=("host-01",),
                part=number,
                parts=len(parts),
            )
            self.log.rows[record_key(record)] = encode(record)


def _block_sets(changed: BlockSet) -> list[RangeBlocks]:
    """Return the blocks in sets that each cover a range of 2^26 blocks."""
    block_sets = []
    for start in range(0, BLOCKS, 1 << 26):
        mask = BlockSet()
        mask.add_range(start, start + (1 << 26))
        if blocks := changed & mask:
            block_sets.append(RangeBlocks(blocks, BlockSet()))
    return block_sets


def drawn(random: np.random.Generator, writes: int) -> BlockSet:
    """Return the blocks that `writes` random writes change."""
    if writes < 1 << 22:
        return BlockSet(array("Q", random.integers(0, BLOCKS, writes).astype(np.uint64).tobytes()))
    density, blocks = 1 - np.exp(-writes / BLOCKS), BlockSet()
    for start in range(0, BLOCKS, 1 << 24):
        here: npt.NDArray[np.int64] = np.flatnonzero(random.random(1 << 24, np.float32) < density)
        blocks |= BlockSet(array("Q", (here + start).astype(np.uint64).tobytes()))
    return blocks


async def minutes(count: int) -> tuple[Counter[str], int, float]:
    """Simulate `count` minutes of flushes.

    Return the bytes that were sent by kind, the bytes of the flush records in the state, and the
    seconds of the longest step of maintenance.
    """
    bench = Bench()
    await bench.maintain()
    longest = 0.0
    for _ in range(count):
        for _ in range(int(60 / FLUSH_S)):
            await bench.flush()
        flushed = bench.log.records(0)
        longest = max(longest, await bench.maintain())
    return bench.log.sent, flushed, longest


async def hour() -> tuple[Counter[str], int, int, float, float]:
    """Simulate the roll-up of an hour.

    Return the bytes that were sent by kind, the bytes of the minutes' records in the state, the
    bytes of the hour's record, the seconds of the roll-up, and those of its longest step.
    """
    bench = Bench()
    a_minute = 60 * WRITES_A_SECOND
    for number in range(60):
        bench.put(
            1, number * 1200 - 1, number * 1200 + 1199, drawn(bench.random, a_minute), a_minute
        )
    held = bench.log.records(1)
    bench.log.rows[watermark_key(0)] = encode(
        Watermark(partition=0, through=60 * 1200 - 1, at_us=bench.clock.now_us())
    )
    await bench.maintain()
    bench.clock.s += 3600
    began = time.perf_counter()
    longest = await bench.maintain()
    return bench.log.sent, held, bench.log.records(2), time.perf_counter() - began, longest


def main() -> None:
    """Print the result as one JSON object, and its figures on stderr."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    began = time.perf_counter()
    sent, flushed, minute_step_s = asyncio.run(minutes(count))
    print(f"{count} minutes of flushes: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    hour_sent, minutes_held, hour_held, hour_took_s, hour_step_s = asyncio.run(hour())
    print(f"an hour of minutes: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    bench = Bench()
    bench.put(
        3,
        -1,
        24 * 72_000 - 1,
        drawn(bench.random, 86_400 * WRITES_A_SECOND),
        86_400 * WRITES_A_SECOND,
    )
    day_held, day_parts = bench.log.records(3), len(bench.log.rows)
    hour_parts = -(-hour_held // Settings().node_record_max_bytes)

    writes = count * 60 * WRITES_A_SECOND
    key_bytes = len(next(iter(bench.log.rows))) + FRAMING_BYTES
    a_write = {name: size / writes for name, size in sent.items()}
    a_write["hour"] = hour_sent["hour"] / (3600 * WRITES_A_SECOND)
    a_write["tombstones"] += hour_sent["tombstones"] / (3600 * WRITES_A_SECOND)
    a_write["day"] = (day_held + day_parts * FRAMING_BYTES) / (86_400 * WRITES_A_SECOND)
    a_write["tombstones"] += 24 * hour_parts * key_bytes / (86_400 * WRITES_A_SECOND)
    state = {
        "second": flushed / 60 * (60 + 60 + DEFAULT_KEEP_S["second"]),
        "minute": minutes_held / 60 * (60 + DEFAULT_KEEP_S["minute"] / 60),
        "hour": hour_held * (24 + DEFAULT_KEEP_S["hour"] / 3600),
        "day": day_held * 30,
    }
    total, size = sum(a_write.values()), sum(state.values())
    for name, bytes_a_write in a_write.items():
        print(f"changelog, {name:<27} {bytes_a_write:8.3f} B a write", file=sys.stderr)
    for name, tier_bytes in state.items():
        print(f"state, {name:<31} {tier_bytes / 2**20:8.1f} MiB", file=sys.stderr)
    cases = {
        "changelog_bytes_a_write": {
            "median": round(total, 3),
            "unit": "B",
            "limit": LIMIT_BYTES_A_WRITE,
        },
        "state_after_30_days": {"median": round(size / 2**20, 1), "unit": "MiB"},
        "hour_roll_up": {"median": round(hour_took_s, 2), "unit": "s"},
        "longest_turn": {"median": round(max(minute_step_s, hour_step_s), 3), "unit": "s"},
    }
    for name, bytes_a_write in a_write.items():
        cases[f"changelog_{name.replace(', ', '_')}"] = {
            "median": round(bytes_a_write, 3),
            "unit": "B",
        }
    ratios = {
        "state_of_volume": round(size / VOLUME_BYTES, 5),
        "bytes_a_write_of_limit": round(total / LIMIT_BYTES_A_WRITE, 3),
        "state_of_limit": round(size / VOLUME_BYTES / LIMIT_STATE_FRACTION, 3),
    }
    print(json.dumps({"bench": "log_size", "cases": cases, "ratios": ratios}))


if __name__ == "__main__":
    main()
