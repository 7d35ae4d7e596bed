"""Each point of a backup equals the volume as of its position, whatever goes on meanwhile."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from backing_up import BackedUpWorld

from mirrorlog.consumers.backup.sources import log_changes, secondary_source
from mirrorlog.consumers.backup.sources.source_point import BackupPosition
from mirrorlog.domain.site_progress import Rung
from mirrorlog.simulation.world.world import VOLUMES, World


def chained(seed: int, *, act: str = "act") -> BackedUpWorld:
    """Return a world in which points of secondaries were taken while everything moved."""
    world, random = World(seed), Random(seed)
    backed_up = BackedUpWorld(world, random)
    backed_up.between = getattr(world, act)
    for _ in range(60):
        backed_up.between()
    for _ in range(14):
        for _ in range(random.randint(0, 12)):
            backed_up.between()
        if random.random() < 0.7:
            bring_up_to_date(world)
        name = random.choice(VOLUMES)
        image = backed_up.back_up_secondary(name)
        if image is not None:
            backed_up.check(name, image, histories=act != "act")
    return backed_up


def bring_up_to_date(world: World) -> None:
    """Let hosts, node and site do what they do within a few seconds."""
    for _ in range(4):
        world.host.heartbeat()
        world.run_node()
        world.run_site()


@pytest.mark.parametrize("seed", range(8))
def test_each_point_of_a_secondary_equals_the_volume_as_of_its_position(seed: int) -> None:
    chained(seed)


def test_points_of_both_kinds_stand_on_each_other() -> None:
    images = [
        image for seed in range(6) for images in chained(seed).images.values() for image in images
    ]
    kinds = Counter((image.chosen.rung, image.position.is_consistent) for image in images)
    assert kinds[Rung.CHANGED, True] > 10
    assert kinds[Rung.CHANGED, False] > 3


@pytest.mark.parametrize("seed", range(8))
def test_no_point_stands_on_one_of_another_history(seed: int) -> None:
    chained(seed, act="act_with_history_faults")


def found_out(act: str = "act") -> bool:
    for seed in range(20):
        try:
            chained(seed, act=act)
        except AssertionError:
            return True
    return False


def test_changes_that_leave_a_position_out_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    start_of = log_changes._start_of

    def late(state: BackupPosition, *args: object) -> object:
        start = start_of(state, *args)  # type: ignore[arg-type]
        return start + 1 if isinstance(start, int) else start

    monkeypatch.setattr(log_changes, "_start_of", late)
    assert found_out()


def test_points_that_do_not_ask_for_the_history_are_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_changes, "_history_reason", lambda *_: None)
    monkeypatch.setattr(log_changes, "_start_of", lambda state, _: state.position)
    assert found_out("act_with_history_faults")


def test_points_that_claim_to_be_proved_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    position = secondary_source._position

    def proved(*args: object) -> BackupPosition:
        return replace(position(*args), is_consistent=True)  # type: ignore[arg-type]

    monkeypatch.setattr(secondary_source, "_position", proved)
    assert found_out()
