"""Each point of a backup equals the volume as of its position, whatever goes on meanwhile."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from random import Random
from typing import Final

import pytest
from backing_up import BackedUpWorld, Image

from mirrorlog.consumers.backup.sources import log_changes, secondary_source
from mirrorlog.consumers.backup.sources.followed_log import FollowedLog
from mirrorlog.consumers.backup.sources.live_reads import LiveCopy, LiveReads
from mirrorlog.consumers.backup.sources.source_point import BackupPosition
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.site_progress import Rung
from mirrorlog.errors import KafkaFailed, OutOfRetention
from mirrorlog.simulation.world.world import VOLUMES, World


def chained(
    seed: int, *, act: str = "act", primary: bool = False, snapshots: bool = False
) -> BackedUpWorld:
    """Return a world in which points of secondaries were taken while everything moved.

    primary: points of primaries, too. snapshots: their host takes snapshots, some of which break.
    """
    world, random = World(seed), Random(seed)
    if snapshots:
        world.use_snapshots()
    backed_up = BackedUpWorld(world, random)
    backed_up.between = getattr(world, act)
    for _ in range(60):
        backed_up.between()
    for _ in range(6 if primary else 14):
        for _ in range(random.randint(0, 12)):
            backed_up.between()
        if random.random() < 0.7:
            bring_up_to_date(world)
        name = random.choice(VOLUMES)
        is_primary = primary and random.random() < 0.8
        back_up = backed_up.back_up_primary if is_primary else backed_up.back_up_secondary
        image = back_up(name)
        if image is not None:
            backed_up.check(name, image, histories=act != "act")
    return backed_up


@cache
def images_of(seed: int, *, primary: bool = False, snapshots: bool = False) -> tuple[Image, ...]:
    """Return the points of a world. Two tests look at each."""
    backed_up = chained(seed, primary=primary, snapshots=snapshots)
    return tuple(image for images in backed_up.images.values() for image in images)


def bring_up_to_date(world: World) -> None:
    """Let hosts, node and site do what they do within a few seconds.

    A process that ends with an error, because the topics broke, is started again.
    """
    for _ in range(4):
        world.host.heartbeat()
        try:
            world.run_node()
        except (KafkaFailed, OutOfRetention):
            world.restart_node()
        try:
            world.run_site()
        except (KafkaFailed, OutOfRetention):
            world.site.start()


@pytest.mark.parametrize("seed", range(8))
def test_each_point_of_a_secondary_equals_the_volume_as_of_its_position(seed: int) -> None:
    images_of(seed)


def test_points_of_both_kinds_stand_on_each_other() -> None:
    images = [image for seed in range(6) for image in images_of(seed)]
    kinds = Counter((image.chosen.rung, image.position.is_consistent) for image in images)
    assert kinds[Rung.CHANGED, True] > 10
    assert kinds[Rung.CHANGED, False] > 3


@pytest.mark.parametrize("seed", range(8))
def test_no_point_stands_on_one_of_another_history(seed: int) -> None:
    chained(seed, act="act_with_history_faults")


@pytest.mark.parametrize("snapshots", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_each_point_of_a_primary_equals_the_volume_as_of_its_position(
    seed: int, snapshots: bool
) -> None:
    images_of(seed, primary=True, snapshots=snapshots)


@pytest.mark.parametrize("seed", range(8))
def test_no_point_of_a_primary_outlives_the_history_in_which_it_was_taken(seed: int) -> None:
    chained(seed, act="act_with_history_faults", primary=True, snapshots=seed % 2 == 0)


@pytest.mark.parametrize("snapshots", [False, True])
def test_many_points_of_primaries_are_proved(snapshots: bool) -> None:
    images = [
        image for seed in range(5) for image in images_of(seed, primary=True, snapshots=snapshots)
    ]
    kinds = Counter((image.chosen.rung, image.position.is_consistent) for image in images)
    assert kinds[Rung.CHANGED, True] > 2, kinds


KEPT_SHORTLY: Final = {"second": 0, "minute": 0, "hour": 0, "day": 2}


def trimmed(seed: int, *, registers: bool) -> Counter[Rung]:
    """Return the rungs of points between which the log forgets all that nobody needs."""
    world = World(seed, node_keep_s=KEPT_SHORTLY)
    world.check_log = lambda: None  # type: ignore[method-assign]  # it knows of no retention
    backed_up = BackedUpWorld(world, Random(seed), registers=registers, only_last=True)
    backed_up.between = world.act
    for _ in range(5):
        for _ in range(60):
            world.act()
        bring_up_to_date(world)
        for _ in range(40):
            world.maintain_node()
        image = backed_up.back_up_secondary("v")
        if image is not None:
            backed_up.check("v", image)
    return Counter(image.chosen.rung for image in backed_up.images.get("v", []))


@pytest.mark.parametrize("seed", range(3))
def test_retention_keeps_what_the_next_point_needs(seed: int) -> None:
    rungs = trimmed(seed, registers=True)
    assert rungs.total() - rungs[Rung.CHANGED] <= 1  # the first one


def test_a_backup_that_is_not_registered_is_found_out() -> None:
    rungs = Counter[Rung]()
    for seed in range(3, 6):
        rungs += trimmed(seed, registers=False)
    assert rungs.total() - rungs[Rung.CHANGED] > 3


def found_out(act: str = "act", **kinds: bool) -> bool:
    for seed in range(30):
        try:
            chained(seed, act=act, **kinds)
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
    assert found_out("act_with_history_faults", primary=True)


def test_points_that_claim_to_be_proved_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    position = secondary_source._position

    def proved(*args: object) -> BackupPosition:
        return replace(position(*args), is_consistent=True)  # type: ignore[arg-type]

    monkeypatch.setattr(secondary_source, "_position", proved)
    assert found_out()


def test_reads_that_do_not_wait_for_open_batches_are_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FollowedLog, "is_settled", lambda self, end_position: True)
    assert found_out(primary=True)


def test_reads_that_forget_what_changed_meanwhile_are_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = LiveReads.run

    def proved(self: LiveReads, *args: BlockSet, is_whole: bool) -> LiveCopy:
        return replace(run(self, *args, is_whole=is_whole), reason=None)

    monkeypatch.setattr(LiveReads, "run", proved)
    assert found_out(primary=True)
