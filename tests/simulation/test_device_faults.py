"""Secondaries and primaries that fail while the site runs: no claim is untrue, all goes on after.

mirrorlog.simulation.world.device_faults has the faults: a secondary that is full, read-only or bad
in one sector, and a primary that is unreachable, slow, bad in one sector or has become shorter.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from mirrorlog.consumers.resync import cycle_copier
from mirrorlog.consumers.resync.read_ends import ReadEnds
from mirrorlog.consumers.resync.restoration import Copied, restore_changed
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.errors import DeviceFailed
from mirrorlog.simulation.world.device_faults import DeviceFaults
from mirrorlog.simulation.world.host import BLOCKS
from mirrorlog.simulation.world.world import World

FAULTS = (
    "secondary full",
    "secondary read-only",
    "secondary with a bad sector",
    "primary unreachable",
    "primary slow",
    "primary with a bad sector",
    "primary shrunk",
)


def run(seed: int) -> set[str]:
    """Let devices fail at any moment. Return which faults made themselves felt."""
    world = World(seed, site_consistency=("crash", "eventual")[seed % 2])
    if seed % 3 == 0:
        world.use_snapshots()
    random = Random(seed)
    faults = DeviceFaults(world.site, world.host, random)

    def run_site() -> None:
        world.site.clock.now_s += 2  # a volume that failed is tried again after 5 s
        for _ in range(3):
            world.site.site.run_once(0)

    acts: dict[Callable[[], object], float] = {
        world.host.write: 30,
        lambda: world.host.publish(world.host.draw_volume()): 12,
        world.host.heartbeat: 8,
        world.run_node: 14,
        world.node.commit: 6,
        world.maintain_node: 10,
        run_site: 40,
        world.run_site: 6,
        faults.strike: 9,
        faults.mend: 5,
    }
    for _ in range(200):
        random.choices(list(acts), list(acts.values()))[0]()
        with faults.unseen():
            world.site.check_consistency()
            world.site.check_claims()
    faults.mend()
    world.finish()
    world.check_end()
    return faults.happened


def test_whatever_device_fails_at_any_moment_a_site_claims_nothing_untrue() -> None:
    happened = set[str]().union(*(run(seed) for seed in range(6)))
    assert len(happened) >= 5


@pytest.mark.parametrize("consistency", ["eventual", "crash"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_minutes_stops_its_volume_alone_and_says_why(
    fault: str, consistency: str
) -> None:
    world = World(5, site_consistency=consistency)
    world.hold_primaries_still()
    world.settle()
    faults = DeviceFaults(world.site, world.host, Random(1))
    faults.strike(fault, "v")
    began_s = world.site.clock.now_s
    reasons = set[str]()
    for _ in range(6):
        for name in world.volumes:
            for block in range(BLOCKS):
                world.host.write_block(name, block)
        for _ in range(5):
            world.host.heartbeat()
            world.fold_and_commit()
            world.site.clock.now_s += 5
            world.site.site.run_once(0)
            with faults.unseen():
                world.site.check_consistency()
                world.site.check_reports()
        states = {name: secondary.state for name, secondary in world.site.site.secondaries.items()}
        if states["v"] is SiteState.STOPPED:
            reasons.add(world.site.site.secondaries["v"].status.reason or "")
    assert world.site.clock.now_s - began_s > 120
    settled = {name: world.site.site.secondaries[name].counts.written_bytes for name in "uw"}
    assert all(settled.values()), "the other volumes wait for the one that fails"
    if fault != "primary slow":
        assert reasons and all(fault in reason or "refused" in reason for reason in reasons)
    faults.mend()
    world.finish()
    world.check_end()


# Each bug must be found


def test_a_site_that_takes_an_error_for_the_end_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def careless(*arguments: object, **more: object) -> Copied:
        try:
            return restore_changed(*arguments, **more)  # type: ignore[arg-type]
        except DeviceFailed:
            return Copied(Rung.CHANGED, 0, 0)

    monkeypatch.setattr(cycle_copier, "restore_changed", careless)
    with pytest.raises(AssertionError):
        for seed in range(6):
            run(seed)


def follow_a_slow_primary() -> None:
    """Let the host publish while a block is read, and write to it before the read returns."""
    world = World(1)
    world.hold_primaries_still()
    world.settle()
    world.host.write_block("v", 40)
    world.host.heartbeat()
    world.fold_and_commit()
    faults = DeviceFaults(world.site, world.host, Random(1))
    faults.strike("primary slow", "v")
    for _ in range(8):
        world.site.site.run_once(0)
        world.fold_and_commit()
        with faults.unseen():
            world.site.check_consistency()
    faults.mend()
    world.finish()
    world.check_end()


def test_what_is_written_while_a_slow_primary_is_read_is_read_again() -> None:
    follow_a_slow_primary()


def test_a_site_that_asks_for_the_end_before_its_reads_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    note_reading = ReadEnds.note_reading

    def ask_first(self: ReadEnds, volume: str) -> None:
        note_reading(self, volume)
        self._numbers[volume] = self._ends.ask(0)

    monkeypatch.setattr(ReadEnds, "note_over", lambda *_: None)
    monkeypatch.setattr(ReadEnds, "note_reading", ask_first)
    with pytest.raises(AssertionError, match="consistent at"):
        follow_a_slow_primary()
