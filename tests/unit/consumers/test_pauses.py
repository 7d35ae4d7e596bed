"""What an operator pauses stays as it is, survives restarts, and goes on when it is resumed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mirrorlog.consumers.state.pauses import PauseFile, Pauses
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.errors import BadUse, StateDamaged
from mirrorlog.simulation.world.host import BLOCKS
from mirrorlog.simulation.world.world import World


def follow(world: World, rounds: int = 6) -> None:
    for _ in range(rounds):
        world.host.heartbeat()
        world.fold_and_commit()
        world.site.site.run_once(0)
        world.site.check_claims()


def test_a_paused_secondary_stays_as_it_is_and_says_why() -> None:
    world = World(3)
    world.site.look_at_pauses = lambda: Pauses(volumes=frozenset({"v"}))
    for _ in range(2):
        follow(world)
        secondary = world.site.site.secondaries["v"]
        progress = world.site.site.progress(secondary)
        assert progress.state is SiteState.STOPPED
        assert progress.reason == "an operator has paused it"
        assert progress.next_action is not None
        assert "mirrorlog site resume v" in progress.next_action
        assert secondary.blocks_copied == 0
        world.site.crash()
    others = set(world.site.site.secondaries) - {"v"}
    assert all(world.site.secondary_equals_primary(name) for name in others)
    world.site.look_at_pauses = Pauses
    follow(world)
    world.settle()
    assert world.site.site.secondaries["v"].state is SiteState.CONSISTENT
    assert world.site.secondary_equals_primary("v")


def test_a_copy_that_runs_stops_when_it_is_paused() -> None:
    world = World(3)
    world.site.look_at_pauses = lambda: Pauses(is_all=True)
    for _ in range(100):
        world.act()
    looks = 0

    def look() -> Pauses:
        nonlocal looks
        looks += world.site.site.secondaries["v"].copying is not None
        return Pauses(is_all=looks > 1)

    world.site.look_at_pauses = look
    follow(world)
    secondary = world.site.site.secondaries["v"]
    assert secondary.state is SiteState.STOPPED
    assert 0 < secondary.blocks_copied < BLOCKS
    assert secondary.saved is not None and secondary.saved.cycle_through is not None
    world.site.look_at_pauses = Pauses
    world.hold_primaries_still()
    follow(world)
    world.settle()
    assert world.site.secondary_equals_primary("v")


def test_the_file_keeps_what_was_paused(tmp_path: Path) -> None:
    site, operator = PauseFile(tmp_path), PauseFile(tmp_path)
    assert site.look() == operator.load() == Pauses()
    operator.change(lambda now: now.paused("v").paused("w"))
    assert site.look() == site.look() == PauseFile(tmp_path).load()
    assert site.look().covers("v") and not site.look().covers("x")
    operator.change(lambda now: now.resumed("v"))
    assert site.look() == Pauses(volumes=frozenset({"w"}))
    operator.change(lambda now: now.paused(None))
    assert site.look().covers("x")
    with pytest.raises(BadUse, match="every secondary"):
        operator.load().resumed("w")
    operator.change(lambda now: now.resumed(None))
    assert site.look() == Pauses()


def test_no_change_is_lost_if_many_are_made_at_once(tmp_path: Path) -> None:
    names = [f"v{number}" for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        list(
            threads.map(
                lambda name: PauseFile(tmp_path).change(lambda now: now.paused(name)), names
            )
        )
    assert PauseFile(tmp_path).load().volumes == set(names)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"all":true,"volumes":[]}\n', b"[" * 100000])
def test_a_damaged_file_pauses_everything_and_says_so(tmp_path: Path, content: bytes) -> None:
    file = PauseFile(tmp_path)
    file.change(lambda _: Pauses())
    file.path.write_bytes(content)
    with pytest.raises(StateDamaged):
        file.load()
    assert file.look().covers("v")
    assert "paused.json" in str(file.look().damage)
    file.path.unlink()
    assert file.look() == Pauses()


def test_the_bytes_of_version_1(tmp_path: Path) -> None:
    file = PauseFile(tmp_path)
    file.change(lambda _: Pauses(volumes=frozenset({"w", "v"})))
    assert file.path.read_bytes() == (
        b'{"all":false,"crc32":847892104,"format":"mirrorlog.site_pauses","version":1,'
        b'"volumes":["v","w"]}\n'
    )


def test_no_file_is_made_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadUse, match="no such folder"):
        PauseFile(tmp_path / "nothing").change(lambda _: Pauses())
