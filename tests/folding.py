"""An independent fold of the commands topic, and the proof that changelog and tables equal it.

The fold uses only the product's codec of events. What a site sees is read with the site's reader.
"""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, TopicPartition
from deadlines import DEADLINE_S, wait_until
from rocksdict import AccessType, Options, Rdict
from running import run_cli

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.cli.support.lookup import load_volumes
from mirrorlog.codec.events import decode
from mirrorlog.domain.bitmaps import BlockSet, union
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import ExtentKind
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings

_OF_FAUST = b"__faust\0"
"""The first bytes of the keys that a table has beside its rows."""
_WITHOUT_EXTENTS = {
    CommandKind.HEARTBEAT,
    CommandKind.SESSION_OPEN,
    CommandKind.SESSION_CLOSE,
    CommandKind.BARRIER,
}


@dataclass(frozen=True, slots=True)
class Event:
    """One message of a partition."""

    position: int
    key: bytes | None
    value: bytes | None


def read_all(settings: Settings, topic: str, partition: int) -> Iterator[Event]:
    """Yield every message that the partition holds now."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.bootstrap_servers,
            **settings.kafka,
            "group.id": "test",
            "enable.partition.eof": True,
            "isolation.level": "read_uncommitted",
        }
    )
    try:
        first, end = consumer.get_watermark_offsets(
            TopicPartition(topic, partition), timeout=DEADLINE_S
        )
        consumer.assign([TopicPartition(topic, partition, first)])
        until = time.monotonic() + DEADLINE_S
        reached = first
        while reached < end:
            assert time.monotonic() < until, f"{topic} {partition}: {reached} of {end}"
            if (message := consumer.poll(0.5)) is None:
                continue
            reached = message.offset() + (message.error() is None)
            if message.error() is None:
                yield Event(message.offset(), message.key(), message.value())
    finally:
        consumer.close()


class Marked:
    """The blocks of a volume that lie in any added range.

    The array holds at each block how many ranges begin there, less how many end there.
    """

    def __init__(self, count: int) -> None:
        self._edges = np.zeros(count + 1, np.int32)

    def add(self, firsts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> None:
        """Add the ranges [first, end)."""
        real = firsts < ends
        np.add.at(self._edges, firsts[real], 1)
        np.add.at(self._edges, ends[real], -1)

    def blocks(self) -> npt.NDArray[np.int64]:
        """Return the blocks in any range, ascending."""
        return np.flatnonzero(np.cumsum(self._edges)[:-1])


@dataclass(frozen=True, slots=True)
class Folded:
    """The blocks that the commands changed and zeroed in one volume."""

    changed: Marked
    zeroed: Marked

    def sets(self) -> tuple[BlockSet, BlockSet]:
        """Return (changed, zeroed) as sets."""
        return (
            BlockSet(array("Q", self.changed.blocks())),
            BlockSet(array("Q", self.zeroed.blocks())),
        )


def fold(settings: Settings, volumes: Mapping[str, Volume], partition: int) -> dict[str, Folded]:
    """Fold the commands of one partition one at a time; return the result by volume.

    All extents must lie inside their volumes.
    """
    folded = {
        name: Folded(*(Marked(-(-volume.size_bytes // volume.block_size)) for _ in range(2)))
        for name, volume in volumes.items()
        if volume.partition == partition
    }
    for event in read_all(settings, settings.topics.commands, partition):
        try:
            command = decode(event.value or b"", TrackingCommand)
        except BadInput:
            continue
        if command.kind in _WITHOUT_EXTENTS:
            continue
        assert command.kind in (CommandKind.WRITES, CommandKind.MARK_DIRTY), command.kind
        volume, blocks = volumes[command.volume], folded[command.volume]
        offsets, lengths = (
            command.extents.offsets.astype(np.int64),
            command.extents.lengths.astype(np.int64),
        )
        ends, size = offsets + lengths, volume.block_size
        assert ends.max() <= volume.size_bytes and event.position > volume.origin_position
        blocks.changed.add(offsets // size, -(-ends // size))
        if command.extents.kinds is not None and command.kind is CommandKind.WRITES:
            zeros = command.extents.kinds != ExtentKind.WRITE
            blocks.zeroed.add(-(-offsets[zeros] // size), ends[zeros] // size)
    return folded


def _read_only(path: Path) -> Rdict | None:
    """Return RocksDB's folder opened. None if one of its files isn't there at the moment."""
    try:
        return Rdict(str(path), options=Options(raw_mode=True), access_type=AccessType.read_only())
    except Exception as error:
        if "No such file or directory" in str(error):
            return None
        raise


def table_rows(path: Path) -> dict[bytes, bytes]:
    """Return the rows in one partition's RocksDB folder, which a worker may be writing to."""
    table = wait_until(lambda: _read_only(path))
    assert table is not None
    try:
        return {
            bytes(key): bytes(value)
            for key, value in table.items()
            if not bytes(key).startswith(_OF_FAUST)
        }
    finally:
        table.close()


def changelog_rows(settings: Settings, partition: int) -> dict[bytes, bytes]:
    """Return the rows that compaction would leave of the changelog."""
    rows: dict[bytes, bytes] = {}
    for event in read_all(settings, settings.topics.changelog, partition):
        assert event.key is not None
        rows.pop(event.key, None)
        if event.value is not None:
            rows[event.key] = event.value
    return rows


def table_folder(settings: Settings, worker: str, partition: int) -> Path:
    """Return the folder of a worker's table of the partition."""
    (folder,) = (settings.state_dir / worker).glob(f"**/tables/log-{partition}.db")
    return folder


class Proof:
    """Asserts that everything is the same once the log is complete."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.volumes = settings, load_volumes(settings)
        admin = KafkaAdmin(settings.kafka_client())
        self.partitions = range(admin.partitions(settings.topics.commands))
        self.ends = {p: admin.end_position(settings.topics.commands, p) for p in self.partitions}
        admin.close()
        self._folded: dict[str, Folded] = {}

    @property
    def folded(self) -> dict[str, Folded]:
        """The folded commands by volume. They are folded at the first access."""
        if not self._folded:
            for partition in self.partitions:
                self._folded |= fold(self.settings, self.volumes, partition)
        return self._folded

    def of_the_changelog(self) -> None:
        """Assert that a site reads every folded block, without a hole, to the commands' end."""
        reader, admin = (
            KafkaReader(self.settings.kafka_client()),
            KafkaAdmin(self.settings.kafka_client()),
        )
        log = LogReader(reader, admin, self.settings.topics.changelog)
        until = time.monotonic() + DEADLINE_S

        def complete(partition: int, end: int) -> bool:
            mark = log.watermarks.get(partition)
            return mark is not None and mark.through >= end - 1

        while not all(end == 0 or complete(partition, end) for partition, end in self.ends.items()):
            assert time.monotonic() < until, (
                f"complete through {log.watermarks}, the commands end at {self.ends}"
            )
            log.poll(0.2)
        reader.close()
        admin.close()
        for name, blocks in self.folded.items():
            volume, volume_log = self.volumes[name], log.logs[name]
            end = self.ends[volume.partition]
            assert volume_log.hole(after=volume.origin_position, through=end - 1) is None, name
            changed, zeroed = blocks.sets()
            assert volume_log.changed(after=volume.origin_position, through=end - 1) == changed, (
                name
            )
            records = [part for whole in volume_log.complete_records() for part in whole]
            assert union(record.changed for record in records) == changed, name
            assert union(record.zeroed for record in records) == zeroed, name

    def of_a_table(self, worker: str, partition: int) -> None:
        """Assert that the worker's table equals the changelog within the deadline, in each byte."""
        until = time.monotonic() + DEADLINE_S
        while True:
            wanted = changelog_rows(self.settings, partition)
            rows = table_rows(table_folder(self.settings, worker, partition))
            if rows == wanted:
                return
            if time.monotonic() > until:
                differing = [key for key in {*wanted, *rows} if wanted.get(key) != rows.get(key)]
                surplus, missing = (
                    len(rows.keys() - wanted.keys()),
                    len(wanted.keys() - rows.keys()),
                )
                raise AssertionError(
                    f"{worker}'s table of partition {partition}: "
                    f"{len(differing)} of {len(wanted)} rows differ, "
                    f"{missing} are missing, {surplus} too many: {sorted(differing)[:3]}"
                )

    def by_rebuild(self, worker: str) -> None:
        """Assert that `mirrorlog log rebuild --check --all` accepts a worker's tables."""
        settings = self.settings.model_copy(update={"node_name": worker})
        done = run_cli(settings, "log", "rebuild", "--check", "--all")
        assert done.returncode == 0, (worker, done.stdout, done.stderr)
        assert json.loads(done.stdout.splitlines()[-1])["ok"] is True

    def all(self, holders: Mapping[int, str]) -> None:
        """Assert all of it: the changelog, the table of each partition's worker, and `log rebuild`.

        holders: the worker of each partition. `log rebuild` reads the tables of one of them.
        """
        self.of_the_changelog()
        for partition, worker in holders.items():
            self.of_a_table(worker, partition)
        self.by_rebuild(min(holders.values()))
