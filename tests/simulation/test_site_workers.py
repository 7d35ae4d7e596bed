"""Several workers of one site, in any order: no two write, and what is called consistent is so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count

import pytest

from mirrorlog.consumers.resync.paused_secondaries import PausedSecondaries
from mirrorlog.consumers.resync.share_follower import ShareFollower
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.simulation.memory_locks import MemoryLocks
from mirrorlog.simulation.world.crashes import Crash
from mirrorlog.simulation.world.workers import WorkerModel, WorkersWorld

MODES = pytest.mark.parametrize("consistency", ["eventual", "crash"])


def run(seed: int, consistency: str | None = None) -> int:
    """Run a world. Return how often the partition was handed over."""
    consistency = consistency or ("crash", "eventual")[seed % 2]
    world = WorkersWorld(seed, site_consistency=consistency)
    for _ in range(300):
        world.act()
    world.finish()
    world.check_end()
    return world.site.handovers


@MODES
@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_kills_stops_and_handovers_ends_identical(seed: int, consistency: str) -> None:
    assert run(seed, consistency)


def written(world: WorkersWorld) -> None:
    """Let the host write to all volumes, and the node record it."""
    for name in world.volumes:
        for _ in range(4):
            world.host.write()
        world.host.publish(name)
    world.host.heartbeat()
    world.fold_and_commit()


def rounds_to_consistency(world: WorkersWorld) -> int:
    """Let host, node and site go on until all is consistent and equal. Return how many rounds."""
    for rounds in range(50):
        if world.site.is_consistent() and all(
            world.site.secondary_equals_primary(name)
            for name in world.volumes
            if name != world.site.failing
        ):
            return rounds
        world.host.heartbeat()
        world.fold_and_commit()
        world.run_round()
        world.site.check_consistency()
    raise AssertionError("the site comes to no end")


def two_workers(consistency: str) -> WorkersWorld:
    """Return a world in which one worker has much to copy, and the other one waits."""
    world = WorkersWorld(7, site_consistency=consistency)
    world.site.join()
    world.hold_primaries_still()
    written(world)
    world.run_round()
    rounds_to_consistency(world)
    written(world)
    return world


def stopped_at(world: WorkersWorld, step: int, other: WorkerModel) -> Callable[[], None]:
    """Return what lets the other worker run for a while at one step of the first one."""
    steps = count()

    def run_other() -> None:
        if next(steps) == step:
            for _ in range(4):
                world.site.run(other)
            assert other.share.held == frozenset()

    return run_other


def run_until(world: WorkersWorld, step: int, ending: str) -> bool:
    """Run the first worker until it is killed or stopped at a step. Return whether it got there."""
    site, (first, other) = world.site, world.site.workers
    if ending == "stopped":
        site.while_stopped = stopped_at(world, step, other)
    else:
        site.fuse.light_at(step)
    try:
        for _ in range(4):
            site.run(first)
            world.host.heartbeat()
            world.fold_and_commit()
    except Crash:
        site.kill(first) if ending == "killed" else site.crash()
        return True
    finally:
        site.fuse.put_out()
        site.while_stopped = lambda: None
    return False


@MODES
@pytest.mark.parametrize("ending", ["killed", "stopped", "power"])
def test_whatever_step_a_worker_ends_at_the_volumes_end_identical(
    consistency: str, ending: str
) -> None:
    steps = 0
    for step in range(0, 400, 3 if consistency == "eventual" else 2):
        world = two_workers(consistency)
        has_ended = run_until(world, step, ending)
        world.site.check_consistency()
        if not has_ended and (ending != "stopped" or step > 60):
            break
        steps += 1
        world.host.heartbeat()
        world.finish()
        world.check_end()
    assert steps > 4


@MODES
def test_a_secondary_that_fails_at_each_call_holds_up_no_other(consistency: str) -> None:
    rounds = list[int]()
    for failing in (None, "u"):
        world = two_workers(consistency)
        world.site.failing = failing
        world.run_round()
        rounds.append(rounds_to_consistency(world))
        for name in ("v", "w"):
            assert world.site.secondary_equals_primary(name)
        assert failing is None or world.site.site.secondaries["u"].state is SiteState.STOPPED
    assert rounds[0] == rounds[1]


def run_rounds(world: WorkersWorld, *workers: WorkerModel) -> None:
    """Let host and node go on, and these workers."""
    for _ in range(8):
        world.host.heartbeat()
        world.fold_and_commit()
        for worker in workers:
            world.site.run(worker)


def hand_over(consistency: str) -> None:
    """Let a worker join that waits for the lock of one that is stopped, and then gets it."""
    world = two_workers(consistency)
    first, holder = world.site.workers
    world.site.kill(first)
    rounds_to_consistency(world)
    written(world)
    joined = world.site.join()
    run_rounds(world, joined)
    assert (holder.share.held, joined.share.held) == ({0}, frozenset())
    run_rounds(world, holder, joined)
    assert (holder.share.held, joined.share.held) == (frozenset(), {0})
    world.finish()
    world.check_end()


@MODES
def test_a_worker_that_joins_waits_until_the_lock_is_free(consistency: str) -> None:
    hand_over(consistency)


@MODES
def test_a_worker_that_does_not_wait_for_the_lock_is_found_out(
    consistency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = MemoryLocks.lock_partition
    monkeypatch.setattr(MemoryLocks, "lock_partition", lambda *at: lock(*at) or True)
    with pytest.raises(AssertionError, match="without the lock"):
        hand_over(consistency)


@MODES
def test_a_worker_that_goes_on_after_it_unlocked_is_found_out(
    consistency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlock(self: ShareFollower, partitions: Iterable[int]) -> None:
        for partition in partitions:
            self._share._locks.unlock_partition(partition)  # type: ignore[attr-defined]

    monkeypatch.setattr(ShareFollower, "_give_back", unlock)
    with pytest.raises(AssertionError, match="without the lock"):
        hand_over(consistency)


# A drill beside the workers. It takes a secondary as it takes an export: by a lock that whichever
# worker has the volume gives up.


class Drill:
    """A drill of the volume `v`, whose lock is that of consumers/secondary_exports.py.

    holder: the worker that has the lock, the drill itself, or None. content: of the secondary, from
    the moment at which the drill had it.
    """

    def __init__(self, world: WorkersWorld) -> None:
        self.world, self.site = world, world.site
        self.holder: object = None
        self.content: bytes | None = None
        self.taken = 0

    def hold(self, volume: Volume) -> None:
        running = self.site.running_worker
        if volume.volume != "v" or running is None:
            return
        if self.holder not in (None, running) and self.holder in (self, *self.site.workers):
            raise DeviceFailed("another process uses this secondary", where="v, offset 0")
        self.holder = running

    def release(self, volume: Volume) -> None:
        if volume.volume == "v" and self.holder is self.site.running_worker:
            self.holder = None

    def ask(self) -> None:
        self.site.held_for_drills = frozenset("v")

    def look(self) -> None:
        """Take the secondary if no worker that lives has it, and it is consistent."""
        if self.holder is not self and self.holder not in self.site.workers:
            state = self.site.states.load("v")
            if state is not None and state.consistent_position is not None:
                self.holder, self.content = self, self.site.secondary("v").snapshot()
                self.taken += 1
        if self.holder is self:
            assert self.site.secondary("v").snapshot() == self.content, "written to in a drill"

    def end(self) -> None:
        self.site.held_for_drills = frozenset()
        self.holder = None if self.holder is self else self.holder


def run_with_drills(seed: int, consistency: str, monkeypatch: pytest.MonkeyPatch) -> Drill:
    """Let drills come and go while workers are killed, stopped, and hand over."""
    world = WorkersWorld(seed, site_consistency=consistency)
    drill = Drill(world)
    monkeypatch.setattr(world.site.secondaries, "hold", drill.hold)
    monkeypatch.setattr(world.site.secondaries, "release", drill.release)
    for number in range(400):
        if number % 80 == 20:
            drill.ask()
        if number % 80 == 0:
            drill.end()
        world.act()
        if world.site.held_for_drills:
            drill.look()
    drill.end()
    world.finish()
    world.check_end()
    return drill


@MODES
def test_whichever_worker_has_a_volume_leaves_it_to_a_drill(
    consistency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drills = [run_with_drills(seed, consistency, monkeypatch) for seed in range(3)]
    assert sum(drill.taken for drill in drills) > 5
    assert sum(drill.site.handovers for drill in drills)


@MODES
def test_a_worker_that_keeps_a_volume_from_a_drill_is_found_out(
    consistency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes on, as if there were neither the hold nor the lock."""
    monkeypatch.setattr(PausedSecondaries, "covers", lambda *_: False)
    monkeypatch.setattr(Drill, "hold", lambda *_: None)
    with pytest.raises(AssertionError, match="written to in a drill"):
        for seed in range(3):
            run_with_drills(seed, consistency, monkeypatch)
