"""A site with journals, on files: what it stages, applies, and leaves to the next start."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from file_sites import BLOCK, FileSiteRig

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.consumers import wiring, worker_wiring
from mirrorlog.consumers.failover.held_secondary import hold_secondary
from mirrorlog.consumers.journal import journal_folder
from mirrorlog.consumers.journal.apply_journal import apply_journal
from mirrorlog.consumers.resync import journaled_cycles
from mirrorlog.consumers.resync.paused_secondaries import PausedSecondaries
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.state.pauses import PauseFile, Pauses
from mirrorlog.consumers.worker_wiring import open_worker
from mirrorlog.consumers.workers.folder_locks import FolderLocks
from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.errors import DeviceFailed, KafkaFailed
from mirrorlog.ports.task_runner import OneAtATime
from mirrorlog.settings import Settings

CRASH = Settings(site_consistency="crash", site_journal_bytes=1 << 20)


class KilledError(Exception):
    """The process ends here."""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[FileSiteRig]:
    """A site whose secondary is consistent."""
    made = FileSiteRig(tmp_path, CRASH)
    made.write(1, 2)
    secondary = made.settle()
    assert secondary.state is SiteState.CONSISTENT
    assert made.is_equal()
    yield made
    made.stop()


def saved_position(secondary: Secondary) -> int | None:
    return None if secondary.saved is None else secondary.saved.consistent_position


def test_a_secondary_stays_at_its_position_until_the_next_is_proved(rig: FileSiteRig) -> None:
    before, position = rig.secondary.read_bytes(), saved_position(rig.site.secondaries["v"])
    rig.write(2, 3)
    secondary = rig.run(3)
    assert secondary.staged is not None
    assert secondary.state is SiteState.CONSISTENT
    assert saved_position(secondary) == position
    assert rig.secondary.read_bytes() == before
    progress = rig.site.progress(secondary)
    assert (progress.consistent_position, progress.behind_blocks) == (position, 2)
    assert "staged in the journal" in (progress.reason or "")
    rig.settle()
    assert rig.is_equal()
    assert secondary.staged is None
    assert rig.site.progress(secondary).behind_blocks == 0
    assert (rig.folder / "journals" / "v.journal").stat().st_size == 0


def test_blocks_that_change_meanwhile_are_staged_again(rig: FileSiteRig) -> None:
    before = rig.secondary.read_bytes()
    rig.write(2, 3)
    rig.run(3)
    for _ in range(5):
        rig.write(3)
        rig.run(3)
        assert rig.secondary.read_bytes() == before
        assert rig.site.secondaries["v"].state is SiteState.CONSISTENT
    rig.settle()
    assert rig.is_equal()


def test_a_cycle_that_does_not_fit_is_applied_in_place_and_says_so(tmp_path: Path) -> None:
    settings = CRASH.model_copy(update={"site_journal_bytes": 2 * BLOCK})
    rig = FileSiteRig(tmp_path, settings)
    rig.settle()
    rig.write(1, 2, 3)
    secondary = rig.run(3)
    assert secondary.state is SiteState.SETTLING
    assert saved_position(secondary) is None
    assert "applied in place: a journal holds 8.0 KiB" in (
        rig.site.progress(secondary).reason or ""
    )
    rig.settle()
    assert rig.is_equal()
    assert rig.site.progress(secondary).reason is None
    rig.stop()


@pytest.mark.parametrize("is_far", [False, True])
def test_more_of_a_journal_is_written_at_once_to_another_machine(
    rig: FileSiteRig, monkeypatch: pytest.MonkeyPatch, is_far: bool
) -> None:
    used = list[object]()

    def noting(*arguments: Any, **options: Any) -> None:
        used.append(arguments[3])
        apply_journal(*arguments, **options)

    monkeypatch.setattr(journaled_cycles, "apply_journal", noting)
    monkeypatch.setattr(FileDevice, "is_remote", is_far, raising=False)
    local, remote = OneAtATime(), OneAtATime()
    rig.more_ports = {"task_runner": local, "remote_task_runner": remote}
    rig.start()
    rig.write(4)
    rig.settle()
    assert rig.is_equal()
    assert used == [remote if is_far else local]


def test_a_full_disk_of_journals_stops_nobody(
    rig: FileSiteRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal_folder, "start_writeback", refuse)
    rig.write(4)
    secondary = rig.run(3)
    assert "disk of the journals is full" in (secondary.reason or "")
    rig.settle()
    assert rig.is_equal()


def test_a_disk_of_journals_that_fails_stops_the_volume_at_its_position(
    rig: FileSiteRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before, position = rig.secondary.read_bytes(), saved_position(rig.site.secondaries["v"])

    def fail(*_: object, **__: object) -> None:
        raise DeviceFailed("flushing a journal failed", where="offset 0")

    with monkeypatch.context() as patch:
        patch.setattr(journaled_cycles.JournalWriter, "seal", fail)
        rig.write(4)
        secondary = rig.settle()
        assert "v at a is stopped: flushing a journal failed" in caplog.text
        assert saved_position(secondary) == position
        assert rig.secondary.read_bytes() == before
    rig.settle()
    assert rig.is_equal()


def test_a_journal_that_cannot_be_emptied_stops_its_volume_alone(
    rig: FileSiteRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise DeviceFailed("emptying a journal failed", where="offset 0")

    with monkeypatch.context() as patch:
        patch.setattr(journal_folder.JournalFolder, "clear", fail)
        rig.write(4)
        rig.settle()
    assert "v at a is stopped: emptying a journal failed" in caplog.text
    rig.settle()
    assert rig.is_equal()
    assert rig.site.secondaries["v"].state is SiteState.CONSISTENT


def test_what_was_staged_before_a_full_disk_is_not_kept(
    rig: FileSiteRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.write(2, 3)
    assert rig.run(3).staged is not None
    with monkeypatch.context() as patch:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(journal_folder, "start_writeback", refuse)
        rig.write(3)
        secondary = rig.run(3)
        assert secondary.staged is None
        assert (rig.folder / "journals" / "v.journal").stat().st_size == 0
        assert "applied in place" in (secondary.reason or "")
    rig.settle()
    assert rig.is_equal()


def kill_while_applied(rig: FileSiteRig, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Kill the site when half of a journal is written; return what the primary held."""

    def apply_half(*arguments: object, **named: object) -> None:
        monkeypatch.undo()
        with rig.secondary.open("r+b") as file:
            file.seek(4 * BLOCK)
            file.write(b"half")
        raise KilledError

    monkeypatch.setattr(journaled_cycles, "apply_journal", apply_half)
    rig.write(4, 5)
    with pytest.raises(KilledError):
        rig.settle()
    return rig.primary.read_bytes()


def test_a_site_that_was_killed_ends_what_it_had_sealed(
    rig: FileSiteRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert journaled_cycles.apply_journal is apply_journal
    kill_while_applied(rig, monkeypatch)
    caplog.set_level(logging.WARNING)
    rig.start()
    secondary = rig.run(2)
    assert rig.is_equal()
    assert secondary.state is SiteState.CONSISTENT
    assert "the journal through position" in caplog.text


def test_without_kafka_and_primary_a_site_ends_what_it_had_sealed(
    rig: FileSiteRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = kill_while_applied(rig, monkeypatch)
    position = rig.log.through
    rig.stop()
    rig.primary.rename(rig.primary.with_name("gone"))

    def no_kafka(*_: object) -> None:
        raise KafkaFailed("the broker is away", next="")

    monkeypatch.setattr(wiring, "site_ports", no_kafka)
    half = rig.secondary.read_bytes()
    PauseFile(rig.folder).change(lambda _: Pauses(volumes=frozenset({"v"})))
    with pytest.raises(KafkaFailed), wiring.open_site("a", rig.folder, CRASH):
        pass
    assert rig.secondary.read_bytes() == half
    PauseFile(rig.folder).change(lambda _: Pauses())
    with pytest.raises(KafkaFailed), wiring.open_site("a", rig.folder, CRASH):
        pass
    assert rig.secondary.read_bytes() == expected
    rig.primary.with_name("gone").rename(rig.primary)
    rig.start()
    secondary = rig.run()
    assert secondary.state is SiteState.CONSISTENT
    assert (saved_position(secondary) or 0) >= position - 2
    assert rig.is_equal()


@pytest.mark.parametrize("has_fellow", [True, False])
def test_a_worker_that_starts_ends_what_was_sealed_where_no_other_one_works(
    rig: FileSiteRig, monkeypatch: pytest.MonkeyPatch, has_fellow: bool
) -> None:
    expected = kill_while_applied(rig, monkeypatch)
    rig.stop()
    half = rig.secondary.read_bytes()

    def no_kafka(*_: object) -> None:
        raise KafkaFailed("the broker is away", next="")

    monkeypatch.setattr(worker_wiring, "site_ports", no_kafka)
    fellow = FolderLocks(rig.folder)
    if has_fellow:
        assert fellow.lock_partition(rig.volume.partition)
    with pytest.raises(KafkaFailed), open_worker("a", rig.folder, CRASH, lambda _: None):
        pass
    assert rig.secondary.read_bytes() == (half if has_fellow else expected)
    fellow.close()
    fellow = FolderLocks(rig.folder)
    assert fellow.lock_partition(rig.volume.partition)
    fellow.close()


def test_a_secondary_that_is_held_for_its_promotion_has_what_was_sealed(
    rig: FileSiteRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved_position(rig.site.secondaries["v"])
    kill_while_applied(rig, monkeypatch)
    rig.stop()
    with hold_secondary("a", rig.folder, rig.volume, CRASH, patience_s=1) as held:
        assert held.doubt is None
        assert held.saved is not None
        assert (held.saved.consistent_position or 0) > (before or 0)
        assert rig.is_equal()


def test_a_sealed_journal_of_a_paused_secondary_waits(
    rig: FileSiteRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_while_applied(rig, monkeypatch)
    rig.start()
    with monkeypatch.context() as patch:
        patch.setattr(PausedSecondaries, "covers", lambda *_: True)
        rig.run(3)
        assert not rig.is_equal()
    rig.command(CommandKind.HEARTBEAT)
    rig.run()
    assert rig.is_equal()


def test_without_crash_consistency_nothing_is_staged_and_what_is_sealed_is_applied(
    rig: FileSiteRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_while_applied(rig, monkeypatch)
    rig.settings = CRASH.model_copy(update={"site_consistency": "eventual"})
    journals = rig.journals
    rig.start()
    assert journals is not None
    rig.run()
    rig.write(6)
    secondary = rig.run(3)
    assert secondary.staged is None
    assert secondary.state is SiteState.SETTLING
    rig.settle()
    assert rig.is_equal()
