"""A volume whose points are taken into a repository in memory, and what each must read as."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from notation import volume

from mirrorlog.consumers.backup.qcow2.format import ImageLayout
from mirrorlog.consumers.backup.repository.open_point import open_point
from mirrorlog.consumers.backup.repository.qcow2_files import Qcow2Files
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.consumers.backup.sources.hooks import Hooks
from mirrorlog.consumers.backup.sources.registration import Registrar
from mirrorlog.consumers.backup.sources.source_point import (
    BackupPosition,
    ChangesKnown,
    ChangesUnknown,
    ChosenBlocks,
    PointChanges,
    SourcePoint,
)
from mirrorlog.consumers.backup.taking.image_writers import Qcow2Writer
from mirrorlog.consumers.backup.taking.taking import (
    Opening,
    PointRequest,
    TakenPoint,
    TakingCalls,
    TakingPorts,
    take_point,
)
from mirrorlog.domain.backup_reports import BackupReport
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed, MirrorlogError, RepositoryFailed
from mirrorlog.reading.read_through import CompactedTopic, ReadPatience
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_backups import MemoryBackups
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.topics import Topics

BLOCK, BLOCKS = 4096, 48
NO_HOOKS = Hooks(before=None, after=None, timeout_s=9)


class Killed(BaseException):
    """The end of the process."""


@dataclass
class TakingWorld:
    """A volume `v`, its log, and a repository.

    content: the version of each block. log: the blocks that each position names. on_event: called
    with the name of each step, before it has an effect. It may raise: a failure, or a kill.
    is_consistent, changes: of the next points; changes of None: what the log says.
    """

    content: list[int] = field(default_factory=lambda: [0] * BLOCKS)
    log: list[set[int]] = field(default_factory=list)
    on_event: Callable[[str], object] = lambda _: None
    is_consistent: bool = True
    changes: PointChanges | None = None
    points: dict[str, list[int]] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    random: Random = field(default_factory=lambda: Random(11))

    def __post_init__(self) -> None:
        self.clock = ManualClock(now_s=1_700_000_000)
        self.store = MemoryBackups(self.clock)
        self.repository = Repository.create(self.store, Qcow2Files())
        self.store.before = self._store_event
        self.broker = MemoryBroker(clock=self.clock)
        self.topics = Topics()
        self.broker.create(self.topics.specs(single_copy=True), 1)
        self.volume = volume("v", BLOCK * BLOCKS)
        self.openings: list[Opening] = []

    def event(self, name: str) -> None:
        """Note a step."""
        self.events.append(name)
        self.on_event(name)

    def _store_event(self, step: str, name: str) -> None:
        kind = "lock" if name.startswith("locks/") else name.rpartition(".")[2]
        if step != "read":
            self.event(f"{step} {kind}")

    def write_some(self) -> None:
        """Write to a few blocks, under the next position."""
        blocks = {self.random.randrange(BLOCKS) for _ in range(4)}
        for block in blocks:
            self.content[block] = 0 if self.random.random() < 0.2 else self.random.getrandbits(60)
        self.log.append(blocks)
        self.clock.now_s += 60

    def at(self, position: int | None = None) -> BackupPosition:
        """Return a position; None: the last one."""
        return BackupPosition(
            position=len(self.log) - 1 if position is None else position,
            generation=self.volume.generation,
            history_id=None,
            anchor=None,
            is_consistent=self.is_consistent,
        )

    def registrar(self) -> RecordingRegistrar:
        patience = ReadPatience(self.clock, 1, "reading")
        real = Registrar(
            id=self.repository.repository_id,
            address="/backups",
            publisher=self.broker.publisher(),
            reader=CompactedTopic(
                self.broker.reader(), self.broker, self.topics.progress, patience
            ),
            topic=self.topics.progress,
            clock=self.clock,
            host="machine",
        )
        return RecordingRegistrar(real, self.event)

    def registered(self) -> BackupReport | None:
        """Return what is registered of the volume."""
        return self.registrar().real.registered().get("v")

    @contextmanager
    def open_point(self, opening: Opening) -> Iterator[SourcePoint]:
        self.openings.append(opening)
        self.event("open")
        opening.on_held()
        now = self.at()
        yield SourcePoint(
            volume=opening.volume,
            position=now,
            at_us=self.clock.now_us(),
            source="primary",
            reason=None if self.is_consistent else "it moved",
            reader=ReadContent(list(self.content), self.event),
            changes=self.changes or self._changes(opening.base, now),
            allocated=BlockSet(block for block in range(BLOCKS) if self.content[block]),
        )

    def _changes(self, base: BackupPosition | None, now: BackupPosition) -> PointChanges:
        if base is None:
            return ChangesUnknown("there is no earlier point")
        first, last = sorted((base.position, now.position))
        blocks = set[int]().union(*self.log[first + 1 : last + 1])
        zeroed = {block for block in blocks if not self.content[block]}
        return ChangesKnown(blocks=BlockSet(blocks), zeroed=BlockSet(zeroed))

    def describe(self, name: str) -> Volume:
        self.event("describe")
        return replace(self.volume, volume=name)

    def take(self, *, max_depth: int = 30, **request: Any) -> TakenPoint:
        """Take a point, and note what it must read as."""
        ports = TakingPorts(
            repository=Repository.open(self.store, Qcow2Files()),
            registrar=self.registrar(),
            describe=self.describe,
            open_point=self.open_point,
            images=Qcow2Writer(layout=ImageLayout.CLUSTERS),
            clock=self.clock,
            calls=TakingCalls(say=self.said.append),
            max_depth=max_depth,
        )
        wanted = PointRequest(volume="v", hooks=NO_HOOKS)
        taken = take_point(replace(wanted, **request), ports)
        self.points[taken.manifest.point] = list(self.content)
        return taken

    def names(self) -> list[str]:
        """Return the points that the repository has."""
        return [record.point for record in self.repository.catalog("v").points]

    def check(self) -> None:
        """Check that the repository has the points that were taken, byte for byte."""
        catalog = self.repository.catalog("v")
        assert {record.point for record in catalog.points} == set(self.points)
        for name, content in self.points.items():
            with open_point(self.repository, catalog, name, reads_all=True) as device:
                assert device.pread(offset=0, length=BLOCK * BLOCKS) == octets(content), name

    def reboot(self) -> None:
        """Start again after a kill: the lock of the killed process runs out."""
        self.on_event = lambda _: None
        self.clock.now_s += 3600


def octets(content: list[int]) -> bytes:
    """Return the bytes of blocks with these versions."""
    return b"".join(version.to_bytes(8, "big") * (BLOCK // 8) for version in content)


class ReadContent:
    """CopySource of blocks with versions."""

    def __init__(self, content: list[int], event: Callable[[str], None]) -> None:
        self.content, self.event = octets(content), event

    def pread(self, *, offset: int, length: int) -> bytes:
        self.event("read")
        return self.content[offset : offset + length]

    def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
        self.event("read")
        for offset, length, place in ranges:
            memory[place : place + length] = self.content[offset : offset + length]


class RecordingRegistrar:
    """A Registrar whose calls are events."""

    def __init__(self, real: Registrar, event: Callable[[str], None]) -> None:
        self.real, self.event = real, event

    def registered(self) -> dict[str, BackupReport]:
        self.event("registered")
        return dict(self.real.registered())

    def begin(
        self, known: BackupReport | None, base: BackupPosition | None, point: SourcePoint
    ) -> BackupReport:
        self.event("begin")
        return self.real.begin(known, base, point)

    def finished(
        self, begun: BackupReport, point: SourcePoint, chosen: ChosenBlocks, **more: Any
    ) -> BackupReport:
        self.event("finished")
        return self.real.finished(begun, point, chosen, **more)

    def failed(self, known: BackupReport, what: str) -> BackupReport:
        self.event("failed")
        return self.real.failed(known, what)


FAILURES: dict[str, MirrorlogError] = {
    "create lock": RepositoryFailed("the store refused", where="x"),
    "upload qcow2": RepositoryFailed("the disk is full", where="x"),
    "create json": RepositoryFailed("the store refused", where="x"),
    "read": DeviceFailed("the disk broke", where="x, offset 0"),
    "open": DeviceFailed("there is no primary", where="x, offset 0"),
    "describe": MirrorlogError("Kafka is away"),
    "registered": MirrorlogError("Kafka is away"),
    "begin": MirrorlogError("Kafka is away"),
}
"""What each step may raise."""
