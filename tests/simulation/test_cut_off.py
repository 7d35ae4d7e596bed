"""A site is cut off from its broker, from the primaries, or from both, for minutes.

Hosts write on, the node folds, rolls records up and lets Kafka compact them. While the site is cut
off it claims nothing that isn't true. When it is connected again, the log still reaches back to it:
it copies what changed, and nothing in full.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

import pytest

from mirrorlog.consumers.resync.command_ends import OwnCommandEnds
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.errors import KafkaFailed
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import Hook
from mirrorlog.simulation.world.host import BLOCK_BYTES, SIZE_BYTES
from mirrorlog.simulation.world.world import World


class CutOffWorld:
    """A world whose site may be cut off. The site's process ends when it can't go on.

    cuts: how often each kind of cut began.
    """

    def __init__(self, seed: int, **settings: object) -> None:
        self.world = world = World(seed, **settings)
        self.random = Random(seed)
        self.way = world.broker.other_way()
        world.site.connect(self.way)
        self.is_running = True
        self.cuts = {"broker": 0, "primaries": 0, "both": 0}
        self.cuts_at_read = False
        for primary in world.host.primaries.values():
            primary.hook = self.cut_at_read_after(primary.hook)

    def cut_at_read_after(self, hook: Hook | None) -> Hook:
        """Return a hook that calls `hook`, and cuts the broker off if a cut waits for a read."""

        def at_read(operation: str, offset: int, length: int) -> None:
            if hook is not None:
                hook(operation, offset, length)
            if operation == "pread" and self.cuts_at_read:
                self.way.is_away, self.cuts_at_read = True, False

        return at_read

    def run_site(self) -> None:
        """Start the site if it ended, and run a round of it. Five seconds pass."""
        site = self.world.site
        try:
            if not self.is_running:
                site.start()
                self.is_running = True
            site.clock.now_s += 5
            site.site.run_once(0)
        except KafkaFailed:
            assert self.way.is_away
            self.is_running = False

    def cut(self) -> None:
        """Cut a way, or both. That of the broker may be cut in the middle of the next cycle."""
        kind = self.random.choice(list(self.cuts))
        self.cuts[kind] += 1
        if kind != "primaries":
            self.cuts_at_read = self.random.random() < 0.5
            self.way.is_away = not self.cuts_at_read
        if kind != "broker":
            self.world.site.secondaries.missing_primaries.update(self.world.volumes)

    def crash_site(self) -> None:
        """Kill the site. It is started again in the next round."""
        self.world.site.lose_power()
        self.is_running = False

    def mend(self) -> None:
        """Connect the site again. Its process, if it ended, is started by its supervisor."""
        self.way.is_away = self.cuts_at_read = False
        self.world.site.secondaries.missing_primaries.clear()

    def check(self) -> None:
        """Check what is saved, and what a running site claims and reports."""
        self.world.site.check_consistency()
        if self.is_running:
            self.world.site.check_claims()
            self.world.site.check_reports()


def run(seed: int) -> None:
    """Cut the site off at any moment; each cut lasts for minutes of the site's clock."""
    cut_off = CutOffWorld(seed, site_consistency=("crash", "eventual")[seed % 2])
    world = cut_off.world
    acts: dict[Callable[[], object], float] = {
        world.host.write: 30,
        lambda: world.host.publish(world.host.draw_volume()): 12,
        world.host.heartbeat: 10,
        world.run_node: 14,
        world.node.commit: 6,
        world.maintain_node: 14,
        world.compact_some: 2,
        cut_off.run_site: 60,
        cut_off.crash_site: 1,
        cut_off.cut: 4,
        cut_off.mend: 3,
    }
    for _ in range(300):
        cut_off.random.choices(list(acts), list(acts.values()))[0]()
        cut_off.check()
    assert sum(cut_off.cuts.values())
    cut_off.mend()
    if not cut_off.is_running:
        world.site.start()
    world.finish()
    world.check_end()


@pytest.mark.parametrize("seed", range(6))
def test_a_site_that_is_cut_off_claims_nothing_untrue_and_follows_by_the_log(seed: int) -> None:
    run(seed)


@pytest.mark.parametrize("what", ["broker", "primaries", "both"])
def test_minutes_without_it_cost_a_copy_of_what_changed(what: str) -> None:
    read: list[tuple[str, int]] = []

    def note(name: str, operation: str, offset: int, length: int) -> None:
        if operation == "pread" and length < SIZE_BYTES:  # the checks read everything
            read.extend((name, at) for at in range(offset, offset + length, BLOCK_BYTES))

    cut_off = CutOffWorld(1)
    world, site = cut_off.world, cut_off.world.site
    world.hold_primaries_still()
    world.settle()
    if what != "primaries":
        cut_off.way.is_away = True
    if what != "broker":
        site.secondaries.missing_primaries.update(world.volumes)
    for block in (3, 7, 9):
        for _ in range(60):  # three minutes in all
            world.host.write_block("v", block)
            world.host.heartbeat()
            world.fold_and_commit()
            world.node.maintain()
            cut_off.run_site()
            cut_off.check()
    reasons = [secondary.status.reason or "" for secondary in site.site.secondaries.values()]
    if what == "primaries":
        assert [secondary.state for secondary in site.site.secondaries.values()].count(
            SiteState.STOPPED
        ) == 1 and any("Connection refused" in reason for reason in reasons)
    cut_off.mend()
    for name in world.volumes:
        world.host.primaries[name].hook = partial(note, name)
    cut_off.run_site()
    for _ in range(10):
        world.host.heartbeat()
        world.fold_and_commit()
        cut_off.run_site()
        cut_off.check()
    assert sorted(read) == [("v", block * BLOCK_BYTES) for block in (3, 7, 9)]
    assert all(site.secondary_equals_primary(name) for name in world.volumes)


def cut_off_while_it_reads() -> None:
    """Let the host write to a block after it was read, and cut the broker off at that moment."""
    cut_off = CutOffWorld(1)
    world, primary = cut_off.world, cut_off.world.host.primaries["v"]
    world.hold_primaries_still()
    world.settle()

    def write_and_cut(operation: str, *_: int) -> None:
        if operation == "pread":
            primary.hook = None
            cut_off.way.is_away = True
            world.host.write_block("v", 3)  # its batch is open

    world.host.write_block("v", 3)
    for _ in range(2):
        world.host.heartbeat()
    world.fold_and_commit()
    primary.hook = write_and_cut
    for _ in range(3):
        cut_off.run_site()
        cut_off.check()
    assert cut_off.way.is_away
    cut_off.mend()
    cut_off.run_site()
    world.finish()
    world.check_end()


def test_what_was_read_before_a_cut_is_proved_after_it() -> None:
    cut_off_while_it_reads()


def test_a_site_that_takes_an_old_end_for_the_present_one_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When no broker answers, the last known end of the commands proves nothing."""
    ask = OwnCommandEnds.ask

    def ask_or_remember(self: OwnCommandEnds, partition: int) -> int:
        assert isinstance(self._admin, MemoryBroker)
        if not self._admin.is_away:
            return ask(self, partition)
        self._number += 1
        self._answers[partition] = (self._number, self._answers[partition][1])
        return self._number

    monkeypatch.setattr(OwnCommandEnds, "ask", ask_or_remember)
    monkeypatch.setattr(MemoryBroker, "check_reached", lambda *_: None)
    with pytest.raises(AssertionError, match="consistent at"):
        cut_off_while_it_reads()
