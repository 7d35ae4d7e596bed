"""A drill serves what was consistent, and nothing writes to it meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.image_locks import ImageUser, lock_image, lock_secondary, lock_still
from mirrorlog.consumers.drills import drill_copy
from mirrorlog.consumers.drills.drill_copy import copy_still
from mirrorlog.consumers.drills.holding import HoldPorts, NotHeld, holding
from mirrorlog.consumers.drills.still_secondaries import open_still_file
from mirrorlog.consumers.state.drill_holds import FORGOTTEN_S, DrillHolds
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.world.world import GENERATION, World

SIZE = 1 << 20
PROVED = SecondaryState("v", GENERATION, 7, consistent_position=7, rung=Rung.CHANGED)
RUNNING = SecondaryState("v", GENERATION, 7, cycle_through=9, rung=Rung.CHANGED)
UNPROVED = SecondaryState("v", GENERATION, 9, suspect_after=7, rung=Rung.CHANGED)
FIRST = SecondaryState("v", GENERATION)


# A site in memory, which a drill asks to hold a secondary.


def test_a_site_goes_on_until_the_secondary_is_consistent_and_then_leaves_it_alone() -> None:
    world = World(5)
    for _ in range(60):
        world.act()
    world.host.write_block("v", 3)
    world.host.publish("v")
    world.fold_and_commit()
    world.site.held_for_drills = frozenset("v")
    for _ in range(40):
        world.host.heartbeat()
        world.fold_and_commit()
        world.site.site.run_once(0)
        world.site.check_claims()
    secondary = world.site.site.secondaries["v"]
    assert secondary.state is SiteState.STOPPED
    progress = world.site.site.progress(secondary)
    assert "a drill holds it" in (progress.reason or "")
    state = world.site.states.load("v")
    assert state is not None and state.consistent_position is not None

    held = world.site.secondary("v").snapshot()
    for block in range(8):
        world.host.write_block("v", block)
        world.host.heartbeat()
        world.fold_and_commit()
        world.site.site.run_once(0)
    assert world.site.secondary("v").snapshot() == held
    assert world.site.states.load("v") == state
    others = [other.state for name, other in world.site.site.secondaries.items() if name != "v"]
    assert SiteState.STOPPED not in others

    world.site.held_for_drills = frozenset()
    world.finish()
    assert world.site.secondary_equals_primary("v")


@pytest.mark.parametrize("seed", range(6))
def test_a_held_secondary_is_at_rest_whatever_goes_on_beside_it(seed: int) -> None:
    world = World(seed)
    held: bytes | None = None
    for number in range(150):
        if number % 40 == 10:
            world.site.held_for_drills = frozenset("v")
        if number % 40 == 0:
            world.site.held_for_drills, held = frozenset(), None
        world.act()
        secondary = world.site.site.secondaries.get("v")
        if secondary is None or "a drill holds it" not in (secondary.status.reason or ""):
            continue
        state = world.site.states.load("v")
        assert state is not None and state.consistent_position is not None
        if world.site.held_for_drills:
            now = world.site.secondary("v").snapshot()
            assert held in (None, now)
            held = now
    world.site.held_for_drills = frozenset()
    world.finish()
    world.check_end()


# The file by which a drill asks, and the lock by which it knows.


def test_a_hold_ends_by_itself_if_its_drill_was_killed(tmp_path: Path) -> None:
    holds = DrillHolds(tmp_path)
    assert holds.look() == frozenset()
    holds.renew("v")
    holds.renew("w")
    (tmp_path / "drills" / "v.sock").touch()
    assert holds.look() == {"v", "w"}
    old = (tmp_path / "drills" / "w.hold").stat().st_mtime - FORGOTTEN_S - 1
    os.utime(tmp_path / "drills" / "w.hold", (old, old))
    assert holds.look() == {"v"}
    holds.renew("w")
    assert holds.look() == {"v", "w"}
    holds.end("v")
    holds.end("v")
    assert holds.look() == {"w"}
    with pytest.raises(DeviceFailed, match="--dir"):
        DrillHolds(tmp_path / "nothing").renew("v")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "v.img"
    with path.open("wb") as file:
        file.write(os.urandom(8192))
        file.truncate(SIZE)
    return path


def as_host(device: FileDevice) -> None:
    lock_image(device.fileno(), device.address)


def as_user(user: ImageUser) -> Callable[[FileDevice], None]:
    return lambda device: lock_secondary(device.fileno(), device.address, user)


@pytest.mark.parametrize(
    "lock",
    [as_host, as_user(ImageUser.SITE), as_user(ImageUser.FORK)],
    ids=["host", "site", "fork"],
)
def test_a_drill_and_a_writer_keep_each_other_off(
    image: Path, lock: Callable[[FileDevice], None]
) -> None:
    with FileDevice(image, writable=True) as writer:
        lock(writer)
        with FileDevice(image, writable=False) as drill:
            assert not lock_still(drill.fileno())
    with FileDevice(image, writable=False) as one, FileDevice(image, writable=False) as other:
        assert lock_still(one.fileno()) and lock_still(other.fileno())
        with FileDevice(image, writable=True) as writer, pytest.raises(BadUse):
            lock(writer)
    with FileDevice(image, writable=True) as writer:
        lock(writer)


def ports(
    image: Path, *states: SecondaryState | None, doubt: str | None = None, **more: Any
) -> HoldPorts:
    """Return ports whose looks at the saved state see `states`, the last one for ever."""
    left = list(states)

    def look() -> tuple[SecondaryState | None, str | None]:
        return left.pop(0) if len(left) > 1 else left[0], doubt

    holds = DrillHolds(image.parent)
    clock = ManualClock(look_s=0.1)
    return HoldPorts(
        where=str(image),
        holds=holds,
        open_still=lambda: open_still_file(image),
        look=lambda _: look(),
        clock=clock,
        sleep=lambda _: None,
        **more,
    )


def test_only_a_consistent_secondary_is_taken_and_the_site_goes_on_at_the_end(image: Path) -> None:
    taken = ports(image, None, FIRST, RUNNING, UNPROVED, PROVED)
    with holding("v", taken, wait_s=60, force=False) as (held, hold):
        assert (held.position, held.claims_nothing) == (7, None)
        assert taken.holds.look() == {"v"}
        with FileDevice(image, writable=True) as writer, pytest.raises(BadUse):
            lock_secondary(writer.fileno(), writer.address, ImageUser.SITE)
        hold.renew()
    assert taken.holds.look() == frozenset()
    with FileDevice(image, writable=True) as writer:
        lock_secondary(writer.fileno(), writer.address, ImageUser.SITE)


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (None, "its site has saved nothing of it"),
        (RUNNING, "a cycle through position 9 isn't finished"),
        (UNPROVED, "read after position 7 aren't proved"),
        (FIRST, "consistent at no position"),
    ],
)
def test_an_inconsistent_one_is_refused_or_by_force_served_with_the_reason(
    image: Path, state: SecondaryState | None, why: str
) -> None:
    with (
        pytest.raises(NotHeld, match=why),
        holding("v", ports(image, state), wait_s=5, force=False),
    ):
        pass
    assert DrillHolds(image.parent).look() == frozenset()
    with holding("v", ports(image, state), wait_s=5, force=True) as (held, _):
        assert held.position is None
        assert why in (held.claims_nothing or "")


def test_a_file_in_the_place_of_the_secondary_is_no_secondary(image: Path) -> None:
    other = ports(image, PROVED, doubt="it has another mark")
    with (
        pytest.raises(NotHeld, match="it has another mark"),
        holding("v", other, wait_s=5, force=False),
    ):
        pass


def test_a_secondary_that_somebody_writes_to_is_not_taken_not_even_by_force(image: Path) -> None:
    with FileDevice(image, writable=True) as writer:
        lock_secondary(writer.fileno(), writer.address, ImageUser.SITE)
        with (
            pytest.raises(NotHeld, match="has it open to write"),
            holding("v", ports(image, PROVED), wait_s=5, force=True),
        ):
            pass
    with (
        pytest.raises(NotHeld, match="stopped"),
        holding("v", ports(image, PROVED, stopped=lambda: True), wait_s=5, force=False),
    ):
        pass


# The copy.


def test_a_copy_is_the_same_and_nothing_of_it_is_left(image: Path, tmp_path: Path) -> None:
    folder = tmp_path / "drills"
    left = folder / "drill-old.img"
    folder.mkdir()
    left.touch()
    with FileDevice(image, writable=False) as device:
        copies = [copy_still(device, folder) for _ in range(2)]
        for copy in copies:
            assert copy.path.read_bytes() == image.read_bytes()
            assert copy.path.stat().st_blocks <= image.stat().st_blocks + 64
        os.pwrite(copies[0].fd, b"x", 5)
        assert copies[1].path.read_bytes() == image.read_bytes()
    assert not left.exists()
    for copy in copies:
        copy.close()
    assert list(folder.iterdir()) == []


def test_without_room_nothing_is_copied_and_the_error_says_what_else_to_do(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        f_bavail, f_frsize = 1, 512

    monkeypatch.setattr(drill_copy, "_FICLONE", 0)
    monkeypatch.setattr(os, "fstatvfs", lambda fd: Full)
    folder = tmp_path / "drills"
    with FileDevice(image, writable=False) as device, pytest.raises(DeviceFailed, match="--hold"):
        copy_still(device, folder)
    assert list(folder.iterdir()) == []


def test_a_copy_between_file_systems_reads_and_writes(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(drill_copy, "_FICLONE", 0)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    pieces = 0

    def on_piece() -> None:
        nonlocal pieces
        pieces += 1

    with FileDevice(image, writable=False) as device:
        copy = copy_still(device, tmp_path / "drills", on_piece=on_piece)
    assert copy.path.read_bytes() == image.read_bytes()
    assert pieces > 0 and not copy.is_reflink
    copy.close()
