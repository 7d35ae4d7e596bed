"""A site whose secondaries are files: whatever becomes of a file, no untrue claim is made of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from file_sites import BLOCK, BLOCKS, MARKS, FileSiteRig
from notation import volume

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.image_locks import ImageUser, lock_image, lock_secondary
from mirrorlog.adapters.secondary_marks import mark_path, read_mark
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.site_devices import SiteDevices
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.consumers.state.state_files import SecondaryStateFiles
from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.primary_marks import new_mark
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.errors import DeviceFailed


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[FileSiteRig]:
    """A rig whose secondary has gone through two cycles and is consistent."""
    rig = FileSiteRig(tmp_path)
    rig.run()
    rig.write(*range(8))
    rig.settle()
    rig.write(1, 2, 9)
    assert rig.settle().state is SiteState.CONSISTENT and rig.is_equal()
    rig.stop()
    yield rig
    rig.stop()


def copied_all(rig: FileSiteRig, reason: str) -> None:
    """Check that the site counts nothing as known, copies everything, and is right then."""
    rig.start()
    reasons = set()
    for _ in range(12):
        rig.site.run_once(0)
        rig.check_claim()
        reasons.add(rig.site.progress(rig.site.secondaries["v"]).reason or "")
    secondary = rig.settle()
    assert (secondary.state, rig.is_equal()) == (SiteState.CONSISTENT, True)
    assert secondary.saved is not None and secondary.saved.rung in (Rung.ALLOCATED, Rung.FULL)
    assert any(reason in text for text in reasons), reasons


def stopped(rig: FileSiteRig, reason: str) -> Secondary:
    """Check that the site stops the secondary at once and each time that it tries again."""
    rig.start()
    for _ in range(30):
        rig.site.run_once(0)
        secondary = rig.site.secondaries["v"]
        assert secondary.state in (SiteState.STOPPED, SiteState.WAITING)
    assert reason in (secondary.status.reason or "")
    return secondary


def test_a_restart_finds_the_secondary_as_it_was_and_copies_nothing(rig: FileSiteRig) -> None:
    rig.start()
    secondary = rig.settle()
    assert (secondary.state, secondary.blocks_copied) == (SiteState.CONSISTENT, 0)


def test_a_secondary_that_was_cut_off_is_not_grown(rig: FileSiteRig) -> None:
    os.truncate(rig.secondary, BLOCK * 5)
    stopped(rig, "20480 bytes")
    assert rig.secondary.stat().st_size == BLOCK * 5
    os.truncate(rig.secondary, BLOCK * BLOCKS)  # by its operator
    copied_all(rig, "")


def test_a_secondary_that_is_gone_is_not_made_again(rig: FileSiteRig) -> None:
    shutil.move(rig.secondary, rig.folder / "elsewhere")
    stopped(rig, "gone")
    assert not rig.secondary.exists()
    shutil.move(rig.folder / "elsewhere", rig.secondary)
    rig.start()
    secondary = rig.settle()
    assert (secondary.state, secondary.blocks_copied) == (SiteState.CONSISTENT, 0)


def test_a_secondary_that_vanishes_while_the_site_is_idle_is_noticed(rig: FileSiteRig) -> None:
    rig.start()
    assert rig.settle().state is SiteState.CONSISTENT
    rig.secondary.unlink()
    states = [rig.run(1).state for _ in range(60)]
    assert states[-1] is SiteState.STOPPED


def test_a_secondary_and_its_mark_restored_from_an_old_backup(rig: FileSiteRig) -> None:
    for path in (rig.secondary, mark_path(rig.secondary)):
        shutil.copy(path, rig.folder / f"{path.name}.bak")
    rig.start()
    rig.write(3)
    assert rig.settle().state is SiteState.CONSISTENT
    rig.stop()
    for path in (rig.secondary, mark_path(rig.secondary)):
        path.write_bytes((rig.folder / f"{path.name}.bak").read_bytes())  # the inode stays
    copied_all(rig, "gone back")


def test_a_secondary_restored_without_its_mark(rig: FileSiteRig) -> None:
    backup = rig.secondary.read_bytes()
    rig.start()
    rig.write(3)
    assert rig.settle().state is SiteState.CONSISTENT
    rig.stop()
    rig.secondary.write_bytes(backup)  # the inode and the mark stay
    copied_all(rig, "gone back")


def test_another_file_in_the_secondarys_place(rig: FileSiteRig) -> None:
    content = rig.secondary.read_bytes()
    rig.secondary.unlink()
    rig.secondary.write_bytes(content)
    copied_all(rig, "another file")


def test_a_state_folder_older_than_the_secondary(rig: FileSiteRig) -> None:
    state = rig.folder / "states" / "v.json"
    old = state.read_bytes()
    rig.start()
    for block in (3, 4):
        rig.write(block)
        assert rig.settle().state is SiteState.CONSISTENT
    rig.stop()
    state.write_bytes(old)
    copied_all(rig, "older")


def test_a_state_folder_that_is_one_cycle_old(rig: FileSiteRig) -> None:
    state = rig.folder / "states" / "v.json"
    old = state.read_bytes()
    rig.start()
    rig.write(3)
    rig.settle()
    rig.stop()
    state.write_bytes(old)
    rig.start()
    secondary = rig.settle()
    assert (secondary.state, rig.is_equal()) == (SiteState.CONSISTENT, True)
    assert secondary.blocks_copied == 1  # that cycle is repeated


def test_a_lost_mark(rig: FileSiteRig) -> None:
    mark_path(rig.secondary).unlink()
    copied_all(rig, "mark is gone")
    assert read_mark(mark_path(rig.secondary)) is not None


def test_a_state_of_an_older_release_adopts_its_secondary(
    rig: FileSiteRig, caplog: pytest.LogCaptureFixture
) -> None:
    mark_path(rig.secondary).unlink()
    states = SecondaryStateFiles(rig.folder / "states")
    saved = states.load("v")
    assert saved is not None
    states.save(replace(saved, identity=None, samples=()))
    rig.start()
    secondary = rig.settle()
    assert (secondary.state, secondary.blocks_copied) == (SiteState.CONSISTENT, 0)
    assert "marked now" in caplog.text
    assert read_mark(mark_path(rig.secondary)) is not None
    os.truncate(rig.secondary, BLOCK)
    stopped(rig, "4096 bytes")


@pytest.mark.parametrize("link", ["path", "symbolic", "hard"])
def test_a_secondary_that_is_the_primary_is_refused_before_anything_is_written(
    tmp_path: Path, link: str
) -> None:
    address = tmp_path / "again"
    if link == "path":
        address = tmp_path / "primary"
    rig = FileSiteRig(tmp_path, secondaries={"a": str(address)})
    if link == "symbolic":
        address.symlink_to(rig.primary)
    if link == "hard":
        os.link(rig.primary, address)
    rig.write(1)
    before = rig.primary.read_bytes()
    stopped(rig, "is the volume's primary")
    assert rig.primary.read_bytes() == before
    assert not mark_path(rig.primary).exists() and not mark_path(address).exists()


def test_a_primary_that_is_not_there_is_not_made_as_a_secondary(tmp_path: Path) -> None:
    rig = FileSiteRig(tmp_path, secondaries={"a": str(tmp_path / "primary")})
    rig.primary.unlink()
    stopped(rig, "address of the volume's primary")
    assert not rig.primary.exists()


@pytest.mark.parametrize("address", ["http://x/y", "{tmp}/circle", "{tmp}", "{tmp}/none/v.img"])
def test_an_address_that_leads_nowhere_stops_its_volume_only(tmp_path: Path, address: str) -> None:
    (tmp_path / "circle").symlink_to("circle")
    rig = FileSiteRig(tmp_path, secondaries={"a": address.replace("{tmp}", str(tmp_path))})
    stopped(rig, "")


@pytest.mark.parametrize("address", ["http://x/y", "{tmp}/circle", "{tmp}", "{tmp}/none"])
def test_a_primary_that_can_not_be_reached_is_tried_again(rig: FileSiteRig, address: str) -> None:
    (rig.folder / "circle").symlink_to("circle")
    saved = SecondaryStateFiles(rig.folder / "states").load("v")
    rig.describe(primary=address.replace("{tmp}", str(rig.folder)))
    rig.start()
    assert rig.run().state is SiteState.CONSISTENT  # nothing is to be copied
    rig.write(3)
    stopped(rig, "")
    assert SecondaryStateFiles(rig.folder / "states").load("v") == saved
    rig.describe(primary=str(rig.primary))
    rig.start()
    assert rig.settle().state is SiteState.CONSISTENT and rig.is_equal()


def test_a_primary_that_is_shorter_than_its_volume_is_not_copied(rig: FileSiteRig) -> None:
    whole, saved = rig.primary.read_bytes(), SecondaryStateFiles(rig.folder / "states").load("v")
    os.truncate(rig.primary, BLOCK * 5)
    rig.describe(generation="33333333-3333-4333-8333-333333333333")
    rig.command(CommandKind.MARK_DIRTY)
    stopped(rig, "20480 bytes")
    assert rig.secondary.read_bytes() == whole
    assert SecondaryStateFiles(rig.folder / "states").load("v") == saved


def test_another_file_at_the_primarys_address_is_not_mixed_in(rig: FileSiteRig) -> None:
    before = rig.secondary.read_bytes()
    rig.primary.unlink()
    rig.primary.write_bytes(bytes([255]) * (BLOCK * BLOCKS))
    rig.write(3)
    stopped(rig, "another file or device is at the primary's address")
    assert rig.secondary.read_bytes() == before
    rig.describe(generation="33333333-3333-4333-8333-333333333333", initially_zeroed=False)
    copied_all(rig, "generation")


def mark_primary(path: Path, name: str, **described: object) -> None:
    with FileDevice(path, writable=True) as device:
        mark = new_mark(volume(name, **described), device.identity.lasting, str(UUID(int=1)))
        MARKS.write([(device, mark)])


def test_the_primary_of_another_volume_is_neither_read_nor_written_to(rig: FileSiteRig) -> None:
    before = rig.secondary.read_bytes()
    mark_primary(rig.primary, "w")
    rig.write(3)
    stopped(rig, "the primary of volume w")
    mark_primary(rig.primary, "v", created_at_us=5)
    stopped(rig, "the primary of an earlier volume v")
    mark_primary(rig.primary, "v")
    mark_primary(rig.secondary, "w")
    stopped(rig, "marked as the primary of volume w")
    assert rig.secondary.read_bytes() == before


def test_one_secondary_for_two_sites_and_for_two_volumes(rig: FileSiteRig) -> None:
    rig.describe(secondaries={"b": str(rig.secondary)})
    rig.start("b")
    assert "volume v at site a" in (rig.run().status.reason or "")
    assert mark_path(rig.secondary).exists() and rig.is_equal()


def test_a_locked_secondary_is_left_alone(rig: FileSiteRig) -> None:
    with rig.secondary.open("r+b") as file:
        lock_secondary(file.fileno(), "", ImageUser.SITE)
        stopped(rig, "another process on this machine")
    rig.start()
    rig.write(3)
    assert rig.settle().state is SiteState.CONSISTENT
    with rig.secondary.open("r+b") as file, pytest.raises(Exception, match="mirrorlog host"):
        lock_image(file.fileno(), "")  # a host, although the site is idle
    with rig.secondary.open("r+b") as file:
        lock_secondary(file.fileno(), "", ImageUser.FORK)


def test_a_volume_that_grew_grows_its_secondary(rig: FileSiteRig) -> None:
    rig.start()
    os.truncate(rig.primary, BLOCK * 20)
    rig.describe(size_bytes=BLOCK * 20)
    rig.write(17)
    secondary = rig.settle()
    assert (secondary.state, rig.is_equal()) == (SiteState.CONSISTENT, True)
    assert secondary.blocks_copied == 1


def test_a_start_reads_at_most_64_mib_of_a_secondary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = FileSiteRig(tmp_path)
    size = 96 << 20
    os.truncate(rig.primary, size)
    rig.describe(size_bytes=size)
    rig.primary.write_bytes(os.urandom(1 << 20) * 96)
    rig.command(CommandKind.MARK_DIRTY, f"0+{size}")
    assert rig.settle().state is SiteState.CONSISTENT
    read = 0
    real = FileDevice.pread

    def counted(device: FileDevice, *, offset: int, length: int) -> bytes:
        nonlocal read
        read += length
        return real(device, offset=offset, length=length)

    monkeypatch.setattr(FileDevice, "pread", counted)
    rig.start()
    assert rig.settle().state is SiteState.CONSISTENT
    assert 0 < read <= 64 << 20
    rig.stop()


def test_a_cycle_whose_mark_can_not_be_written_stops_its_volume_only(
    rig: FileSiteRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.start()
    rig.settle()

    def fail(*_: object) -> None:
        raise DeviceFailed("writing the mark failed", where="here")

    assert rig.files is not None
    monkeypatch.setattr(rig.files, "write_marks", fail)
    rig.write(3)
    assert rig.run().state is SiteState.STOPPED
    monkeypatch.undo()
    assert rig.settle().state is SiteState.CONSISTENT and rig.is_equal()


@pytest.mark.parametrize("die_at", range(8))
def test_a_kill_between_any_two_steps_of_a_cycle_is_repeated_by_the_log(
    rig: FileSiteRig, monkeypatch: pytest.MonkeyPatch, die_at: int
) -> None:
    """Neither the mark nor the state alone tells what was written; together they do."""

    class Killed(BaseException):
        pass

    rig.start()
    rig.settle()
    steps = 0

    def step_before(name: str, owner: type) -> None:
        real = getattr(owner, name)

        def counted(*arguments: object, **more: object) -> object:
            nonlocal steps
            steps += 1
            if steps == die_at + 1:
                raise Killed
            return real(*arguments, **more)

        monkeypatch.setattr(owner, name, counted)

    for name, owner in (
        ("write_marks", SiteDevices),
        ("save_all", SecondaryStateFiles),
        ("pwrite", FileDevice),
        ("flush", FileDevice),
    ):
        step_before(name, owner)
    rig.write(3, 5)
    with suppress(Killed):
        rig.run(4)
    monkeypatch.undo()
    rig.start()
    secondary = rig.settle()
    assert (secondary.state, rig.is_equal()) == (SiteState.CONSISTENT, True)
    saved: SecondaryState | None = secondary.saved
    assert saved is not None and saved.rung is Rung.CHANGED
