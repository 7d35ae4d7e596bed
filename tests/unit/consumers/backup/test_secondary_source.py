"""A point of a secondary: it is held still, or read from a reflink while its site goes on."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from backup_positions import at
from logs import Log
from notation import GENERATION, command, volume

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.image_locks import ImageUser, lock_secondary
from mirrorlog.consumers.backup.sources import secondary_source
from mirrorlog.consumers.backup.sources.log_changes import position_facts
from mirrorlog.consumers.backup.sources.secondary_source import SecondarySource
from mirrorlog.consumers.backup.sources.source_point import (
    ChangesKnown,
    choose_blocks,
)
from mirrorlog.consumers.drills.drill_copy import DrillCopy
from mirrorlog.consumers.drills.holding import HoldPorts, NotHeld
from mirrorlog.consumers.drills.still_secondaries import open_still_file
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.domain.site_progress import Rung
from mirrorlog.errors import BadUse
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.simulation.manual_clock import ManualClock

BLOCK = 4096
PROVED = SecondaryState("v", GENERATION, 1, consistent_position=1, rung=Rung.CHANGED)
RUNNING = SecondaryState("v", GENERATION, 1, cycle_through=2, rung=Rung.CHANGED)
NEVER = SecondaryState("v", GENERATION)
DOUBT = "another secondary is in its place"


@dataclass
class Holds:
    """A double of DrillHolds that counts."""

    renewals: int = 0
    ends: int = 0

    def renew(self, volume: str) -> None:
        assert volume == "v"
        self.renewals += 1

    def end(self, volume: str) -> None:
        self.ends += 1


@dataclass
class Secondary:
    """The secondary of site `a`: a file, with what its site has saved of it."""

    path: Path
    state: SecondaryState | None = PROVED
    doubt: str | None = None
    holds: Holds = field(default_factory=Holds)
    clock: ManualClock = field(default_factory=lambda: ManualClock(look_s=0.01))

    def __post_init__(self) -> None:
        self.log = Log([volume()])
        self.log.publish([command(f"{n * BLOCK}+{BLOCK}", sequence=n) for n in range(3)])
        self.log.flush(2)
        self.log.flush(1)
        with FileDevice.create(self.path, volume().size_bytes) as device:
            for block in range(2):
                device.pwrite(block * BLOCK, bytes([block + 1]) * BLOCK)

    def source(self, *, force: bool = False, copy_folder: Path | None = None) -> SecondarySource:
        hold = HoldPorts(
            where=str(self.path),
            holds=self.holds,  # type: ignore[arg-type]
            open_still=lambda: open_still_file(self.path),
            look=lambda _: (self.state, self.doubt),
            clock=self.clock,
            sleep=lambda _: None,
        )
        return SecondarySource(
            volume=volume(),
            site="a",
            hold=hold,
            query=self.log.ports(),
            copy_folder=copy_folder,
            wait_s=0,
            force=force,
        )

    def is_free(self) -> bool:
        with FileDevice(self.path, writable=True) as device:
            try:
                lock_secondary(device.fileno(), str(self.path), ImageUser.SITE)
            except BadUse:
                return False
            return True


@pytest.fixture
def secondary(tmp_path: Path) -> Secondary:
    return Secondary(tmp_path / "v.img")


def test_a_point_says_what_it_is_and_what_changed(secondary: Secondary) -> None:
    with secondary.source().point(at(0)) as point:
        assert point.source == "site a"
        assert (point.is_consistent, point.reason) == (True, None)
        assert point.position.position == 1
        assert point.position.anchor == position_facts(volume(), 1, secondary.log.ports()).anchor
        assert isinstance(point.changes, ChangesKnown)
        assert list(point.changes.blocks) == [1]
        assert point.allocated is None
        assert point.reader.pread(offset=BLOCK, length=1) == b"\2"
        memory = memoryview(bytearray(2))
        point.reader.pread_ranges(RangeColumns.of([(0, 1), (BLOCK, 1)]), memory)
        assert bytes(memory) == b"\1\2"
        assert not secondary.is_free()
    assert secondary.is_free()
    assert secondary.holds.ends == 1


def test_the_first_point_holds_what_is_allocated(secondary: Secondary) -> None:
    with secondary.source().point(None) as point:
        assert point.allocated is not None and list(point.allocated) == [0, 1]
        assert choose_blocks(point, has_base=False).rung is Rung.ALLOCATED


def test_a_hold_is_renewed_for_as_long_as_a_point_is_read(secondary: Secondary) -> None:
    with secondary.source().point(None) as point:
        before = secondary.holds.renewals
        for _ in range(3):
            secondary.clock.now_s += 6
            point.reader.pread(offset=0, length=1)
        assert secondary.holds.renewals == before + 3


def test_the_site_goes_on_if_the_point_is_read_from_a_reflink(
    secondary: Secondary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copied(device: BlockDevice, folder: Path) -> DrillCopy:
        path = folder / "reflink"
        shutil.copy(secondary.path, path)
        return DrillCopy(path, os.open(path, os.O_RDONLY))

    monkeypatch.setattr(secondary_source, "reflink_still", copied)
    with secondary.source(copy_folder=tmp_path).point(at(0)) as point:
        assert secondary.is_free()
        assert secondary.holds.ends == 1
        with FileDevice(secondary.path, writable=True) as device:
            device.pwrite(BLOCK, bytes(BLOCK))
        assert point.reader.pread(offset=BLOCK, length=1) == b"\2"
    assert not (tmp_path / "reflink").exists()


def test_without_reflinks_the_secondary_is_read_itself(
    secondary: Secondary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secondary_source, "reflink_still", lambda *_: None)
    with secondary.source(copy_folder=tmp_path).point(None) as point:
        assert not secondary.is_free()
        assert point.reader.pread(offset=0, length=1) == b"\1"


def test_an_inconsistent_secondary_is_taken_by_force_only_and_says_so(
    secondary: Secondary,
) -> None:
    secondary.state = RUNNING
    with pytest.raises(NotHeld, match="a cycle through position 2"), secondary.source().point(None):
        pass
    with secondary.source(force=True).point(at(0)) as point:
        assert not point.is_consistent
        assert point.reason == "a cycle through position 2 isn't finished"
        assert point.position.position == 1
        assert isinstance(point.changes, ChangesKnown)
    assert secondary.is_free()


@pytest.mark.parametrize(("state", "doubt"), [(None, None), (NEVER, None), (PROVED, DOUBT)])
def test_what_nobody_knows_is_no_point_whatever_is_forced(
    secondary: Secondary, state: SecondaryState | None, doubt: str | None
) -> None:
    secondary.state, secondary.doubt = state, doubt
    point = secondary.source(force=True).point(None)
    with pytest.raises(NotHeld, match="nobody knows what the secondary holds"), point:
        pass
    assert secondary.is_free()
