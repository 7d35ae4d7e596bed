"""A point of the primary: from a snapshot, or from a copy that is made until it is proved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from backup_positions import at
from logs import Log
from notation import GENERATION, OTHER_GENERATION, command, volume

from mirrorlog.consumers.backup.sources.followed_log import FollowedLog
from mirrorlog.consumers.backup.sources.live_reads import SourceChanged
from mirrorlog.consumers.backup.sources.primary_source import PrimarySource
from mirrorlog.consumers.backup.sources.source_point import (
    BackupPosition,
    SourcePoint,
    choose_blocks,
)
from mirrorlog.consumers.backup.sources.staging import open_staging
from mirrorlog.consumers.resync.secondaries import FoundDevice, TakenSnapshot
from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.snapshots import SnapshotExport
from mirrorlog.domain.volumes import EarlierSize, Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.reading.catalog import publish_volume
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_devices import MemoryDevice

BLOCK = 4096
SNAPSHOT = SnapshotExport(
    volume="v", session="s", generation=GENERATION, history_id=None, position=0, number=1
)


@dataclass
class Primary:
    """The primary of a volume whose host publishes each write at once, outside of its session.

    is_open: the session is open, and silent. Otherwise it is closed.
    snapshot: returns one. on_read: called before each read of the primary itself, with its offset.
    """

    volume: Volume = field(default_factory=volume)
    snapshot: Callable[[], TakenSnapshot] | None = None
    on_read: Callable[[int], object] = lambda _: None
    is_open: bool = False

    def __post_init__(self) -> None:
        self.log = Log([self.volume])
        self.device = MemoryDevice(self.volume.size_bytes)
        self.device.hook = self._hook
        self.is_reading = False
        kind = CommandKind.SESSION_OPEN if self.is_open else CommandKind.SESSION_CLOSE
        self.log.publish([command(kind=kind)])
        self.log.flush(1)

    def _hook(self, operation: str, offset: int, length: int) -> None:
        if operation == "pread" and not self.is_reading:
            self.is_reading = True
            self.on_read(offset)
            self.is_reading = False

    def write(self, block: int, value: int) -> None:
        self.device.pwrite(block * BLOCK, bytes([value]) * BLOCK)
        self._publish(f"{block * BLOCK}+{BLOCK}")

    def discard(self, block: int) -> None:
        self.device.zero(offset=block * BLOCK, length=BLOCK)
        self._publish(f"d{block * BLOCK}+{BLOCK}")

    def _publish(self, extent: str) -> None:
        self.log.publish([command(extent, sequence=-1)])
        self.log.flush(1)

    # PrimaryDevices

    def find(self, of: Volume) -> FoundDevice:
        return FoundDevice(size_bytes=of.size_bytes, identity=self.device.identity, is_zeroed=False)

    def open(self, of: Volume) -> MemoryDevice:
        return self.device.reopen(writable=False)

    def has_snapshots(self, of: Volume) -> bool:
        return self.snapshot is not None

    def take_snapshot(self, of: Volume) -> TakenSnapshot:
        assert self.snapshot is not None
        return self.snapshot()

    def freeze(self, **more: Any) -> TakenSnapshot:
        """Return a snapshot of the primary as it is now."""
        frozen = MemoryDevice(self.volume.size_bytes)
        self.is_reading = True
        frozen.pwrite(0, self.device.pread(offset=0, length=self.volume.size_bytes))
        self.is_reading = False
        return TakenSnapshot(frozen, replace(SNAPSHOT, position=self.log.through, **more))

    def source(self, **options: Any) -> PrimarySource:
        @contextmanager
        def follow(of: Volume) -> Iterator[FollowedLog]:
            reader = LogReader(
                self.log.open_reader(), self.log.broker, self.log.topics.changelog, [0]
            )
            yield FollowedLog(reader, of)

        defaults: dict[str, Any] = {
            "volume": self.volume,
            "primaries": self,
            "query": replace(self.log.ports(), clock=ManualClock(look_s=0.1)),
            "follow": follow,
            "open_staging": MemoryDevice,
            "wait_s": 2,
        }
        return PrimarySource(**(defaults | options))


def content(point: SourcePoint, blocks: int = 4, *, has_base: bool = False) -> list[int | None]:
    """Return the first bytes of the blocks that an image of the point holds; None for no byte."""
    chosen = choose_blocks(point, has_base=has_base)
    return [
        point.reader.pread(offset=block * BLOCK, length=1)[0]
        if block in chosen.data
        else (0 if block in chosen.zeros else None)
        for block in range(blocks)
    ]


def test_a_primary_at_rest_is_proved_in_one_round() -> None:
    primary = Primary()
    primary.write(0, 1)
    primary.write(2, 3)
    with primary.source().point(None) as point:
        assert (point.is_consistent, point.reason, point.source) == (True, None, "primary")
        assert point.position.position == 2
        assert content(point) == [1, None, 3, None]
        assert choose_blocks(point, has_base=False).rung is Rung.ALLOCATED
    with primary.source().point(at(1)) as point:
        assert content(point, has_base=True) == [None, None, 3, None]


def test_what_changes_while_it_is_read_is_read_again() -> None:
    primary = Primary()
    primary.write(0, 1)
    writes = iter([(3, 7), (0, 8)])
    primary.on_read = lambda _: [primary.write(*write) for write in writes]
    with primary.source().point(at(-1)) as point:
        assert point.is_consistent
        assert point.position.position == 3
        assert content(point, has_base=True) == [8, None, None, 7]


def test_a_volume_that_never_rests_is_called_inconsistent_with_the_reason() -> None:
    primary = Primary()
    primary.write(0, 1)
    primary.on_read = lambda _: primary.write(0, 9)
    held: list[bool] = []
    with primary.source(rounds=3, on_held=lambda: held.append(True)).point(at(0)) as point:
        assert not point.is_consistent
        assert point.reason == (
            "the volume was written to while it was read: 1 block changed again in the last of 3 "
            "rounds"
        )
        assert point.position.position == 3
        assert content(point, 1, has_base=True) == [9]
    assert held == [True]


def test_a_block_that_is_discarded_while_the_rest_is_read_was_not_zeros_before() -> None:
    """It isn't allocated when the copy looks, so it isn't read: all the same it isn't proved."""
    primary = Primary()
    primary.write(0, 1)
    primary.write(1, 2)
    allocated = MemoryDevice.allocated

    def late(device: MemoryDevice, start: int = 0) -> Iterator[tuple[int, int]]:
        primary.discard(1)
        return allocated(device, start)

    device = primary.device
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryDevice, "allocated", late)
        with primary.source(rounds=1).point(None) as point:
            assert (point.is_consistent, point.position.position) == (False, 2)
    primary = Primary()
    primary.write(0, 1)
    assert device is not primary.device
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryDevice, "allocated", late)
        with primary.source(rounds=2).point(None) as point:
            assert (point.is_consistent, point.position.position) == (True, 2)
            assert content(point, 2) == [1, 0]


def test_what_was_zeroed_is_not_read_unless_it_is_written_meanwhile() -> None:
    primary = Primary()
    for block in range(3):
        primary.write(block, 5)
    base = at(primary.log.through)
    primary.write(0, 6)
    primary.discard(1)
    primary.discard(2)
    writes = iter([0, 2])
    primary.on_read = lambda _: [primary.write(block, 7) for block in writes]
    with primary.source().point(base) as point:
        assert point.is_consistent
        chosen = choose_blocks(point, has_base=True)
        assert (list(chosen.data), list(chosen.zeros)) == ([0, 2], [1])
        assert content(point, has_base=True) == [7, 0, 7, None]


def test_a_session_of_which_nothing_is_heard_leaves_the_point_unproved() -> None:
    primary = Primary(is_open=True)
    with primary.source().point(None) as point:
        assert not point.is_consistent
        assert point.reason == (
            "nothing was heard of session s of host h, which may have written meanwhile"
        )


def test_a_node_that_does_not_run_leaves_the_point_unproved() -> None:
    primary = Primary()
    primary.log.publish([command("0+4096")])
    with primary.source().point(None) as point:
        assert "see whether the node runs" in (point.reason or "")
        assert point.position.position == 0


def described_anew(primary: Primary, **more: Any) -> Callable[[int], None]:
    """Return what publishes another description of the volume."""

    def publish(_: int) -> None:
        publisher = primary.log.broker.publisher()
        publish_volume(publisher, primary.log.topics, replace(primary.volume, **more))
        publisher.flush(0)

    return publish


def test_the_history_that_a_new_volume_gets_does_not_end_the_backup() -> None:
    primary = Primary()
    primary.write(0, 1)
    primary.on_read = described_anew(primary, history_id=OTHER_GENERATION)
    with primary.source().point(None) as point:
        assert content(point, 1) == [1]


def test_a_promotion_meanwhile_ends_the_backup() -> None:
    primary = Primary()
    primary.write(0, 1)
    primary.on_read = described_anew(
        primary, generation=OTHER_GENERATION, log_generation=GENERATION
    )
    with pytest.raises(SourceChanged, match="generation changed"), primary.source().point(None):
        pass


@pytest.mark.parametrize("base", [None, at(0)])
def test_a_point_before_a_growth_has_the_size_of_then(base: BackupPosition | None) -> None:
    """The node has published the new description, and its log isn't that far yet."""
    grown = volume(
        earlier_sizes=(EarlierSize(before_position=5, size_bytes=2 * BLOCK),), described_position=5
    )
    primary = Primary(grown)
    primary.write(0, 1)
    primary.write(1, 2)
    primary.device.pwrite(3 * BLOCK, bytes([9]) * BLOCK)
    with primary.source().point(base) as point:
        assert (point.position.position, point.volume.size_bytes) == (2, 2 * BLOCK)
        assert content(point, has_base=base is not None) == [1, 2, None, None]


# Snapshots


def test_a_snapshot_is_the_volume_as_of_its_position() -> None:
    primary = Primary()
    primary.write(0, 1)
    primary.snapshot = primary.freeze
    held: list[bool] = []
    with primary.source(on_held=lambda: held.append(True)).point(at(0)) as point:
        primary.write(0, 9)
        assert held == [True]
        assert (point.is_consistent, point.position.position) == (True, 1)
        assert content(point, has_base=True) == [1, None, None, None]


def test_the_first_point_of_a_snapshot_holds_what_was_allocated_before_it_or_written_since() -> (
    None
):
    primary = Primary()
    primary.write(0, 1)
    primary.write(1, 2)

    def freeze() -> TakenSnapshot:
        primary.write(2, 3)
        taken = primary.freeze()
        primary.device.zero(offset=BLOCK, length=BLOCK)  # the host publishes it later
        return taken

    primary.snapshot = freeze
    with primary.source().point(None) as point:
        assert point.is_consistent
        assert choose_blocks(point, has_base=False).rung is Rung.ALLOCATED
        assert content(point) == [1, 2, 3, None]


def test_a_snapshot_is_taken_again_if_it_turns_out_that_nobody_knows_what_changed() -> None:
    primary = Primary()
    primary.write(0, 1)
    taken: list[TakenSnapshot] = []

    def freeze() -> TakenSnapshot:
        taken.append(primary.freeze())
        return taken[-1]

    primary.snapshot = freeze
    with primary.source().point(replace(at(0), generation=OTHER_GENERATION)) as point:
        assert choose_blocks(point, has_base=True).rung is Rung.ALLOCATED
        assert content(point) == [1, None, None, None]
        with pytest.raises(DeviceFailed):
            taken[0].device.pread(offset=0, length=1)
    assert len(taken) == 2


@pytest.mark.parametrize(
    ("more", "shared"),
    [
        ({"generation": OTHER_GENERATION}, False),
        ({"history_id": OTHER_GENERATION}, False),
        ({}, True),
    ],
)
def test_a_snapshot_that_may_not_be_the_whole_volume_is_not_used(
    more: dict[str, str], shared: bool
) -> None:
    primary = Primary(volume(shared=shared))
    primary.write(0, 1)

    def freeze() -> TakenSnapshot:
        taken = primary.freeze(**more)
        taken.device.pwrite(0, b"\7" * BLOCK)
        return taken

    primary.snapshot = freeze
    with primary.source().point(None) as point:
        assert point.is_consistent
        assert content(point, 1) == [1]


def test_a_snapshot_beside_another_open_session_is_not_used() -> None:
    primary = Primary(is_open=True)
    primary.snapshot = lambda: primary.freeze(session="another")
    with primary.source().point(None) as point:
        assert not point.is_consistent
    primary.snapshot = primary.freeze
    with primary.source().point(None) as point:
        assert point.is_consistent


def test_a_refused_snapshot_leaves_live_reads() -> None:
    primary = Primary()
    primary.write(0, 1)

    def refuse() -> TakenSnapshot:
        raise DeviceFailed("no room", where="v, offset 0")

    primary.snapshot = refuse
    with primary.source().point(None) as point:
        assert point.is_consistent


def test_a_broken_snapshot_never_returns_newer_data() -> None:
    primary = Primary()
    primary.write(0, 1)

    def breaking() -> TakenSnapshot:
        taken = primary.freeze()

        def broken(*_: object) -> None:
            raise DeviceFailed("the snapshot broke", where="v, offset 0")

        taken.device.hook = broken  # type: ignore[attr-defined]
        return taken

    primary.snapshot = breaking
    with primary.source().point(None) as point, pytest.raises(DeviceFailed, match="broke"):
        content(point)
    with primary.source(uses_snapshots=False).point(None) as point:
        assert content(point, 1) == [1]


def test_staging_leaves_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "staging"
    with open_staging(folder, 1 << 20) as device:
        device.pwrite(BLOCK, b"x" * BLOCK)
        assert device.pread(offset=0, length=1) == b"\0"
        assert device.size_bytes == 1 << 20
        assert list(folder.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(DeviceFailed, match="enough space"):
        open_staging(tmp_path / "file", 1)
