"""Real recordings, imported and asked for by their own times, against the recordings themselves.

The expected blocks come from the bytes of the files by numpy and the csv module, without the
project's readers.
"""

from __future__ import annotations

import bz2
import csv
import io
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
from archiving import ArchiveWorld
from compacting import CompactorModel, FakeTable
from logs import Log
from notation import volume

from mirrorlog.archive.archive import Archive
from mirrorlog.archive.archived_topic import ArchivedTopic
from mirrorlog.changed.points import AtTime
from mirrorlog.changed.query import changed_blocks
from mirrorlog.codec.events import encode
from mirrorlog.domain.commands import IMPORTED
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers.importers import (
    FitOptions,
    ImportCounts,
    ImportSession,
    import_batches,
    recording_source,
)
from mirrorlog.reading.catalog import publish_volume
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.streams.table.local_store import Row
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import key_kind, read_record_key, watermark_key
from mirrorlog.tracking_log.records import LogRecord

BLOCK: Final = 4096
IMPORTED_S: Final = 1_800_000_000.0
BEGAN_US: Final = 1_700_000_000_123_456
"""When cloudphysics begins: its own times count from an unknown moment."""
U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Recorded:
    """The writes of a recording: times in microseconds since 1970, offsets and lengths in bytes."""

    times_us: npt.NDArray[np.int64]
    offsets: U64
    lengths: U64

    def blocks(self, *, after_us: int, through_us: int) -> set[int]:
        """Return the blocks of 4 KiB with a byte that was written in the range of times."""
        chosen = (self.times_us > after_us) & (self.times_us <= through_us)
        first = self.offsets[chosen] // np.uint64(BLOCK)
        end = (self.offsets[chosen] + self.lengths[chosen] - np.uint64(1)) // np.uint64(BLOCK)
        return {
            block
            for start, last in zip(first.tolist(), end.tolist(), strict=True)
            for block in range(start, last + 1)
        }

    def pair(self, random: Random) -> tuple[int, int]:
        """Return two times: moments of writes, moments beside them, or any."""
        span = int(self.times_us.min()), int(self.times_us.max())
        times = []
        for _ in range(2):
            near = int(random.choice(self.times_us)) + random.choice([-1, 0, 0, 1])
            times.append(random.choice([near, random.randint(span[0] - 100, span[1] + 100)]))
        return min(times), max(times)


def cloudphysics(path: Path) -> Recorded:
    """Records of 32 bytes; the opcodes of writes are WRITE(6), (10), (12) and (16)."""
    fields = [("serial", "<u4"), ("length", "<u4"), ("segments", "<u4")]
    fields += [("opcode", "<u2"), ("version", "<u2"), ("block", "<u8"), ("time", "<u8")]
    rows = np.fromfile(path, np.dtype(fields))
    rows = rows[np.isin(rows["opcode"], [0x0A, 0x2A, 0xAA, 0x8A])]
    times = rows["time"].astype(np.int64)
    return Recorded(
        times - times[0] + BEGAN_US,
        rows["block"] * np.uint64(512),
        rows["length"].astype(np.uint64),
    )


def msr(path: Path) -> Recorded:
    """Tenths of microseconds since 1601, and bytes."""
    rows = [row for row in csv.reader(path.open(newline="")) if row[3] == "Write"]
    epoch = 11_644_473_600 * 10**6
    return recorded_of([(int(row[0]) // 10 - epoch, int(row[4]), int(row[5])) for row in rows])


def tencent(path: Path) -> tuple[str, Recorded]:
    """Seconds since 1970, and sectors of 512 bytes. Return the volume with the most writes, too."""
    text = io.StringIO(bz2.decompress(path.read_bytes()).decode())
    rows = [row for row in csv.reader(text) if row[3] == "1"]
    busiest, _ = Counter(row[4] for row in rows).most_common(1)[0]
    chosen = [row for row in rows if row[4] == busiest]
    writes = [(int(row[0]) * 10**6, int(row[1]) * 512, int(row[2]) * 512) for row in chosen]
    return f"vol{busiest}", recorded_of(writes)


def recorded_of(rows: Sequence[tuple[int, int, int]]) -> Recorded:
    times, offsets, lengths = zip(*rows, strict=True)
    return Recorded(
        np.array(times, np.int64), np.array(offsets, np.uint64), np.array(lengths, np.uint64)
    )


class LoggedTable(FakeTable):
    """A table whose rows go to the changelog of a log in memory, as the node's do."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log
        for row in log.broker.messages(log.topics.changelog):
            assert row.key is not None
            if row.value is None:
                self.rows.pop(row.key, None)
            else:
                self.rows[row.key] = row.value
        self.through = log.through

    async def append(self, partition: int, rows: Sequence[Row]) -> None:
        await super().append(partition, rows)
        for row in rows:
            self._log.broker.append(self._log.topics.changelog, partition, *row)

    async def repeat_watermark(self, partition: int) -> None:
        mark = Watermark(partition=partition, through=self.through, at_us=99)
        topic = self._log.topics.changelog
        self._log.broker.append(topic, partition, watermark_key(partition), encode(mark))

    def tiers(self) -> Counter[int]:
        """Return the number of records in each tier."""
        return Counter(read_record_key(key).tier for key in self.rows if key_kind(key) is LogRecord)


def import_recording(log: Log, described: Volume, kind: str, path: Path, **fields: Any) -> Volume:
    """Import a recording into the volume, as `mirrorlog import` does. Return its description."""
    options = FitOptions(began_us=fields.pop("began_us", None))
    source, counts = recording_source(kind, path, **fields), ImportCounts()
    now_us = SystemClock().now_us()

    def batches(tally: ImportCounts) -> Any:
        return import_batches(
            source, described, options, now_us=now_us, max_extents=500, counts=tally
        )

    for _ in batches(counts):
        pass
    described = replace(described, recorded_since_us=counts.recorded_since_us)
    publisher = log.broker.publisher()
    publish_volume(publisher, log.topics, described)
    log.volumes["v"] = described
    session = ImportSession(
        publisher,
        described,
        topic=log.topics.commands,
        host=f"{IMPORTED}{kind}:1",
        session="s",
        clock=ManualClock(IMPORTED_S),
    )
    session.publish(batches(ImportCounts()), "a note")
    return described


def roll_up(log: Log, described: Volume) -> Counter[int]:
    """Roll the log up until nothing is left to roll up. Return the records of each tier."""
    model = CompactorModel()
    table = LoggedTable(log)
    model.table, model.volumes = table, {"v": described}
    model.restart()
    for _ in range(2):
        model.after(2 * 86_400, 60)
    return table.tiers()


def archive_half(log: Log) -> ArchivedTopic:
    """Archive all commands, and let the topic drop the first half of them."""
    world = ArchiveWorld()
    world.broker, world.topics, world.clock = log.broker, log.topics, log.broker_clock
    world.record()
    world.archiver(range_bytes=1 << 16).run_partition(0)
    end = log.broker.end_position(log.topics.commands, 0)
    log.broker.trim(log.topics.commands, 0, end // 2 + 1)
    identity = log.broker.identity(log.topics.commands)
    return ArchivedTopic(Archive(world.store), identity)


def assert_equal(
    log: Log,
    recorded: Recorded,
    pairs: Sequence[tuple[int, int]],
    *,
    archived: ArchivedTopic | None = None,
) -> None:
    ports = replace(log.ports(), archived=archived)
    for after_us, through_us in pairs:
        answer = changed_blocks("v", AtTime(after_us), AtTime(through_us), ports, 0)
        expected = recorded.blocks(after_us=after_us, through_us=through_us)
        assert set(answer.changed) == expected, (after_us, through_us)


@pytest.mark.traces
@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("msr", 200),
        ("tencent", 200),
        ("cloudphysics", 4),
        pytest.param("cloudphysics", 200, marks=pytest.mark.slow),
    ],
)
def test_the_answer_is_what_the_recording_wrote_then_block_for_block(
    name: str, pairs: int, recordings: Path
) -> None:
    options: dict[str, Any] = {}
    match name:
        case "cloudphysics":
            path = recordings / "cloudphysics/cloudPhysicsIO.vscsi"
            kind, recorded, options["began_us"] = "vscsi", cloudphysics(path), BEGAN_US
        case "msr":
            path = recordings / "msr/msr-cambridge1-sample.csv"
            kind, recorded = "msr", msr(path)
        case _:
            path = recordings / "tencent/cloud_storage-sample.bz2"
            kind = "tencent"
            options["device"], recorded = tencent(path)
    random = Random(pairs)
    log = Log([described := volume("v", 2 << 40, created_at_us=int(IMPORTED_S * 1e6))])
    log.broker_clock.now_s = IMPORTED_S
    described = import_recording(log, described, kind, path, **options)
    while log.next < log.broker.end_position(log.topics.commands, 0):
        log.flush(random.randint(1, 9))
    asked = [recorded.pair(random) for _ in range(pairs)]
    assert_equal(log, recorded, asked)
    trimmed = deepcopy(log)
    assert_equal(trimmed, recorded, asked, archived=archive_half(trimmed))
    flushed = LoggedTable(log).tiers().total()
    tiers = roll_up(log, described)
    assert flushed == 1 or tiers.total() < flushed
    assert_equal(log, recorded, asked)
    assert_equal(log, recorded, asked, archived=archive_half(log))
