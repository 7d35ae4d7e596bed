"""Databases under load restore and recover from every point of a repository.

A real host exports their volume and takes snapshots; the broker and the node are real ones. Points
are taken while the database commits. When all are there, each one is restored and opened as after a
power cut: it has every transaction that was acknowledged before the point was begun, and none that
began after its snapshot was taken.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import postgres
import pytest
from databases import Ledger, check_ledger
from deadlines import DEADLINE_S
from exporting import exported
from kept_points import KeptPoints

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.changed.ask import query_ports
from mirrorlog.cli.demo.run import Run
from mirrorlog.consumers.backup.qcow2.chain_reader import ChainReader
from mirrorlog.consumers.backup.sources.source_point import BackupPosition, choose_blocks
from mirrorlog.consumers.backup.sources.wiring import open_primary_source
from mirrorlog.domain.site_progress import Rung
from mirrorlog.simulation.memory_devices import MemoryDevice

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit isn't installed"),
]
POINTS = 31
SQLITE_SIZE = 8 << 20


class Load(Protocol):
    """A database that commits numbered transactions in a thread of its own."""

    begun: int
    acknowledged: int

    def check(self) -> None: ...
    def wait_for(self, number: int) -> None: ...


@dataclass
class DatabaseBackup:
    """Backs up the volume `base`, which is exported at `uri`.

    bounds: by point, the last transaction that was acknowledged before, and that began before its
    bytes were read.
    """

    world: Run
    uri: str
    kept: KeptPoints
    positions: list[BackupPosition] = field(default_factory=list)
    bounds: list[tuple[int, int]] = field(default_factory=list)

    def take_points(self, count: int, load: Load) -> None:
        """Take points while the load goes on: at least a few transactions lie between two."""
        settings = self.world.settings.model_copy(update={"site_primaries": {"base": self.uri}})
        staging = self.kept.folder.with_name("staging")
        with query_ports(settings, DEADLINE_S) as query:
            for _ in range(count):
                load.wait_for(load.acknowledged + 5)
                query.catalog.refresh()
                described, acknowledged = query.catalog["base"], load.acknowledged
                base = self.positions[-1] if self.positions else None
                with (
                    open_primary_source(
                        settings, described, query, staging=staging, wait_s=DEADLINE_S
                    ) as source,
                    source.point(base) as point,
                ):
                    self.bounds.append((acknowledged, load.begun))
                    assert point.is_consistent, point.reason
                    assert not staging.exists()  # it is a snapshot: nothing was read live
                    chosen = choose_blocks(point, has_base=base is not None)
                    assert base is None or chosen.rung is Rung.CHANGED
                    self.kept.add(point.reader, chosen.data, chosen.zeros, position=point.position)
                self.positions.append(point.position)
        load.check()

    def check(self, recover: Callable[[ChainReader], int]) -> None:
        """Let the database recover from each point. Check the number of its last transaction."""
        numbers = []
        for point, (first, last) in enumerate(self.bounds):
            with self.kept.opened(point) as reader:
                numbers.append(recover(reader))
            assert first <= numbers[-1] <= last, (point, first, numbers[-1], last)
        assert numbers == sorted(numbers)
        assert len(set(numbers)) > len(numbers) // 2


def restored(reader: ChainReader, path: Path) -> Path:
    """Write a point to a new sparse file."""
    path.unlink(missing_ok=True)
    with FileDevice.create(path, reader.size_bytes) as device:
        for start, length in reader.allocated():
            device.pwrite(start, reader.pread(offset=start, length=length))
        device.flush()
    return path


def test_sqlite_recovers_from_each_point(world: Run, tmp_path: Path) -> None:
    world.start_node()
    world.wait_ready("node")
    with exported(world, SQLITE_SIZE) as uri:
        ledger = Ledger(partial(open_device, uri, writable=True))
        backup = DatabaseBackup(world, uri, KeptPoints(tmp_path / "points", SQLITE_SIZE))
        with ledger.writing():
            backup.take_points(POINTS, ledger)

    def recover(reader: ChainReader) -> int:
        device = MemoryDevice(reader.size_bytes)
        device.pwrite(0, reader.pread(offset=0, length=reader.size_bytes))
        device.flush()
        return check_ledger(device, at_least=0)

    backup.check(recover)


def needs_postgres(test: Callable[..., None]) -> Callable[..., None]:
    """Skip a test where PostgreSQL can't run on a mounted volume."""
    for mark in postgres.MARKS:
        test = mark(test)
    return test


@pytest.fixture
def folder() -> Iterator[Path]:
    with postgres.open_folder() as path:
        yield path


@needs_postgres
def test_postgres_recovers_from_each_point(run: Run, folder: Path) -> None:
    run.start_node()
    run.wait_ready("node")
    postgres.prepare(run.folder / "base.img", folder)
    sockets = folder / "sockets"
    with exported(run, postgres.SIZE) as uri, ExitStack() as stack:
        mounted = stack.enter_context(postgres.on_volume(uri, folder / "fuse"))
        stack.enter_context(postgres.postgres(mounted / "data", sockets))
        create = "CREATE TABLE ledger (number int PRIMARY KEY, filling text)"
        assert postgres.asked(sockets, create) == ""
        inserts = postgres.Inserts(sockets)
        stack.callback(inserts.end)
        backup = DatabaseBackup(run, uri, KeptPoints(folder / "points", postgres.SIZE))
        backup.take_points(POINTS, inserts)

    def recover(reader: ChainReader) -> int:
        highest, count = postgres.recovered(restored(reader, folder / "restored"), folder)
        assert count == highest
        return highest

    backup.check(recover)
