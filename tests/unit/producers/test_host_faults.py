"""A host on real files, with a full disk or a damaged activity log."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers.durable.activity_format import SLOT_BYTES
from mirrorlog.producers.durable.activity_log import FILE_NAME
from mirrorlog.producers.durable.disk_folder import DiskFolder
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryPublisher

SECTOR, SIZE = 512, 64 * 512
SETTINGS = Settings(
    region_bytes=SECTOR, hot_regions=4, host_batch_extents=3, host_away_s=0.01, host_queue_bytes=300
)


class SilentPublisher(MemoryPublisher):
    """A publisher to which Kafka never answers."""

    def poll(self, timeout_s: float) -> None: ...


@dataclass
class Rig:
    """A host, with its state folder and its volume on disk."""

    folder: Path
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    reports: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.broker.create(SETTINGS.topics.specs(single_copy=True), 1)
        self.volume = Volume(
            volume="v",
            generation="g",
            size_bytes=SIZE,
            block_size=SECTOR,
            partition=0,
            origin_position=-1,
            initially_zeroed=True,
            primary=str(self.folder / "primary"),
        )
        self.device = FileDevice.create(self.folder / "primary", SIZE)
        self.log = self.folder / "state" / FILE_NAME

    def host(self, publisher: MemoryPublisher | None = None) -> Host:
        state = DiskFolder(self.folder / "state")
        ports = HostPorts(state, publisher or self.broker.publisher(), SystemClock(), open_device)
        return Host(
            "h",
            ports,
            SETTINGS,
            {"v": self.volume},
            report=self.reports.append,
            log_slots=8,
            deadline_s=5.0,
        )

    def open(self, host: Host, *, new: bool = True) -> TrackedVolume:
        return host.open(self.volume, self.device, newly_created=new)

    def write(self, volume: TrackedVolume, *sectors: int) -> None:
        for sector in sectors:
            volume.pwrite(bytes([sector + 1]) * SECTOR, sector * SECTOR)

    def named(self) -> set[int]:
        """Return the sectors that commands name."""
        return {
            sector
            for message in self.broker.messages(SETTINGS.topics.commands)
            for extent in decode(message.value or b"", TrackingCommand).extents
            for sector in range(extent.offset // SECTOR, -(-extent.end // SECTOR))
        }

    def written(self) -> set[int]:
        """Return the sectors of the primary that aren't zeros."""
        content = (self.folder / "primary").read_bytes()
        return {at // SECTOR for at in range(0, SIZE, SECTOR) if any(content[at : at + SECTOR])}


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


@contextmanager
def disk_full_behind(size_bytes: int) -> Iterator[None]:
    """Cut off writes to files at `size_bytes`, as a full disk does (setrlimit(2), RLIMIT_FSIZE)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def truncated(content: bytes, random: Random) -> bytes | None:
    return content[
        : random.choice((random.randrange(len(content)), random.randrange(9) * SLOT_BYTES))
    ]


def flipped(content: bytes, random: Random) -> bytes | None:
    changed = bytearray(content)
    changed[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return bytes(changed)


def deleted(content: bytes, random: Random) -> bytes | None:
    return None


@pytest.mark.parametrize("damage", [truncated, flipped, deleted])
@pytest.mark.parametrize("seed", range(12))
def test_whatever_damages_the_activity_log_no_write_counts_as_published(
    rig: Rig, damage: Callable[[bytes, Random], bytes | None], seed: int
) -> None:
    """Only the opening of the dead session reached Kafka.

    The next session must name the dead session's writes.
    """
    random = Random(seed)
    host = rig.host()
    volume = rig.open(host)
    rig.write(
        volume, *(random.sample(range(2), 1) if seed % 3 == 0 else random.sample(range(64), 4))
    )
    host.abandon()
    content = damage(rig.log.read_bytes(), random)
    if content is None:
        rig.log.unlink()
    else:
        rig.log.write_bytes(content)
    again = rig.host()
    rig.open(again, new=False).close()
    again.close()
    assert rig.written()
    assert rig.written() <= rig.named()


def test_a_log_that_cannot_be_written_at_the_start_leaves_the_old_one(rig: Rig) -> None:
    host = rig.host()
    rig.write(rig.open(host), 3)
    host.abandon()
    before = rig.log.read_bytes()
    with disk_full_behind(1000), pytest.raises(DeviceFailed, match="File too large") as failed:
        rig.host()
    assert str(rig.log) in failed.value.where
    assert rig.log.read_bytes() == before
    rig.host().close()
    assert rig.named() == {3}


def test_a_log_that_cannot_grow_stops_only_writes_to_new_regions(rig: Rig) -> None:
    host = rig.host()
    volume = rig.open(host)
    rig.write(volume, 0)
    with disk_full_behind(SLOT_BYTES * 3):
        with pytest.raises(DeviceFailed):
            rig.write(volume, *range(1, 3), *range(2), *range(2, 6))
        rig.write(volume, *(sector for sector in rig.written() if sector == 0))
        now = rig.written()
        with pytest.raises(DeviceFailed, match="can't remember"):
            rig.write(volume, 5)
    assert rig.written() == now
    with suppress(DeviceFailed):
        host.close()
    rig.host().close()
    assert rig.written() <= rig.named()


def test_a_full_primary_fails_only_the_write_that_does_not_fit(rig: Rig) -> None:
    host = rig.host()
    volume = rig.open(host)
    with disk_full_behind(10 * SECTOR + 100):
        rig.write(volume, 1)
        with pytest.raises(DeviceFailed, match="File too large") as failed:
            rig.write(volume, 10)
        assert failed.value.where.endswith(f"offset {10 * SECTOR + 100}")
        rig.write(volume, 2)
    assert rig.device.pread(offset=10 * SECTOR, length=SECTOR) == bytes([11]) * 100 + bytes(412)
    rig.write(volume, 20)
    host.close()
    assert rig.named() == {1, 2, 10, 20}


def test_with_a_full_disk_under_the_spool_no_write_fails_and_the_volume_is_dirty(rig: Rig) -> None:
    """Kafka is away after the opening, and the spool has room for few commands."""
    publisher = rig.broker.publisher()
    host = rig.host(publisher)
    volume = rig.open(host)
    publisher.poll = SilentPublisher(rig.broker).poll  # type: ignore[method-assign]
    with disk_full_behind(9 * SLOT_BYTES):
        rig.write(volume, *(list(range(8)) * 20))
    assert [report for report in rig.reports if "dirty as a whole" in report]
    assert rig.written() == set(range(8))
    host.abandon()
    rig.host().close()
    assert rig.named() == set(range(64))


def test_a_second_session_of_the_host_is_refused_and_changes_nothing(rig: Rig) -> None:
    host = rig.host()
    volume = rig.open(host)
    rig.write(volume, 1, 2)
    before = {path.name: path.read_bytes() for path in (rig.folder / "state").iterdir()}
    sent = len(rig.broker.messages(SETTINGS.topics.commands))
    with pytest.raises(BadUse, match="another process keeps its state"):
        rig.host()
    assert {path.name: path.read_bytes() for path in (rig.folder / "state").iterdir()} == before
    assert len(rig.broker.messages(SETTINGS.topics.commands)) == sent
    rig.write(volume, 3)
    host.close()
    assert rig.named() == {1, 2, 3}
    rig.host().close()
