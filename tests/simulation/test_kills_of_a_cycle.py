"""A site is killed before each step of a cycle, from its first read to its report.

The steps: the mark and the state of the cycle, each read of the primary, what is staged and sealed
in a journal, each write to the secondary, its flush, the new position, and the report that names
it. A kill is a power cut: of what wasn't flushed, any sectors survive.
"""

from __future__ import annotations

import pytest

from mirrorlog.consumers.journal import apply_journal
from mirrorlog.consumers.journal.journal_format import EntriesPlace
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.memory_secondary_states import MemorySecondaryStates
from mirrorlog.simulation.world.crashes import Crash
from mirrorlog.simulation.world.world import World

IN_PLACE = {"primary pread", "pwrite", "flush", "mark", "write", "rename", "sync", "publish"}
STAGED = IN_PLACE | {"create", "journal pwrite", "journal sync", "clear"}
BLOCKS = (3, 4, 9, 40)


class KilledCycle:
    """A world whose volume "v" has changed, and a site that is killed before one step.

    is_new: the site hasn't met its secondaries yet. killed_at: the name of that step; None while
    the site lives. steps_left: before the kill. saved: each mark and state that was written of "v".
    """

    def __init__(
        self, seed: int, consistency: str, steps_left: int, *, is_new: bool = False
    ) -> None:
        self.world = world = World(
            seed,
            site_consistency=consistency,
            site_journal_bytes=1 << 20,
        )
        self.killed_at: str | None = None
        self.steps_left: int | None = None
        self.saved: list[str] = []
        way = world.broker.other_way()
        append = way.append

        def step_and_append(*arguments: object) -> int:
            self.step("publish")
            return append(*arguments)  # type: ignore[arg-type]

        way.append = step_and_append  # type: ignore[assignment, method-assign]
        world.site.connect(way)
        world.hold_primaries_still()
        world.fold_and_commit()
        if not is_new:
            world.settle()
        for block in BLOCKS:
            world.host.write_block("v", block)
        self.beat()
        site = world.site
        site.secondaries.hook = site.states.hook = site.journals.hook = self.step
        site.secondaries.devices["v"].hook = self.step
        world.host.primaries["v"].hook = lambda operation, *_: self.step(f"primary {operation}")
        self.steps_left = steps_left

    def beat(self) -> None:
        self.world.host.heartbeat()
        self.world.fold_and_commit()

    def step(self, name: str, *of: object) -> None:
        """Count a step of the site; kill it if it is the one."""
        if self.steps_left is None:
            return
        if name in ("mark", "write") and of[0] == "v":
            self.saved.append(name)
        self.steps_left -= 1
        if self.steps_left < 0:
            self.steps_left, self.killed_at = None, name
            raise Crash

    def run(self) -> None:
        """Let the site run the cycle, and go on if it is killed in it."""
        world = self.world
        for _ in range(12):
            try:
                world.site.site.run_once(0)
            except Crash:
                world.site.lose_power()
                self.check()
                world.site.start()
            self.check()
            self.steps_left, left = None, self.steps_left
            self.beat()
            self.steps_left = left
        self.steps_left = None
        world.finish()
        world.check_end()

    def check(self) -> None:
        """Check what is saved, without a step of the site."""
        self.steps_left, left = None, self.steps_left
        self.world.site.check_consistency()
        self.steps_left = left


def kill_at_each_step(consistency: str, seeds: range = range(1)) -> set[str]:
    """Kill the site at each step of a cycle. Return the names of the steps."""
    names = set[str]()
    for seed in seeds:
        for step in range(400):
            cycle = KilledCycle(seed, consistency, step)
            cycle.run()
            if cycle.killed_at is None:
                break
            names.add(cycle.killed_at)
        assert 20 < step < 399
    return names


@pytest.mark.parametrize(("consistency", "steps"), [("eventual", IN_PLACE), ("crash", STAGED)])
def test_killed_at_each_step_of_a_cycle_a_site_goes_on_by_the_log(
    consistency: str, steps: set[str]
) -> None:
    assert kill_at_each_step(consistency) >= steps


def test_killed_at_each_step_of_its_first_cycle_a_site_goes_on_by_the_log() -> None:
    """The first cycle has the epoch of the new mark, and the state before it isn't saved."""
    names = set[str]()
    for step in range(400):
        cycle = KilledCycle(0, "eventual", step, is_new=True)
        cycle.run()
        if cycle.killed_at is None:
            break
        names.add(cycle.killed_at)
    assert names >= IN_PLACE
    assert 20 < step < 399
    assert cycle.saved == ["mark", "write", "write", "write"]  # running, durable, proved


# Each bug must be found


def test_a_position_that_is_stored_before_its_data_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The secondary isn't flushed, so data, samples and position are torn apart by the kill."""
    flush = MemoryDevice.flush

    def lazy(self: MemoryDevice) -> None:
        if self.hook is not None and getattr(self.hook, "__func__", None) is KilledCycle.step:
            self.hook("flush", 0, 0)
        else:
            flush(self)

    monkeypatch.setattr(MemoryDevice, "flush", lazy)
    with pytest.raises(AssertionError, match=r"consistent at|a hole where"):
        kill_at_each_step("eventual")


def test_a_cycle_that_writes_before_it_says_so_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bitmap is cleared, so to say, before the data are there: a cycle isn't announced."""
    save = MemorySecondaryStates.save

    def save_results(self: MemorySecondaryStates, state: SecondaryState) -> None:
        if state.cycle_through is None:
            save(self, state)

    monkeypatch.setattr(MemorySecondaryStates, "save", save_results)
    with pytest.raises(AssertionError, match="consistent at"):
        kill_at_each_step("eventual")


def test_a_journal_that_is_applied_half_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_half(self: apply_journal._Writes, place: EntriesPlace) -> tuple[int, int]:
        ranges = apply_journal._ranges_at(self._journal, self._file, place)
        for offset, length, data in ranges[: len(ranges) // 2]:
            self._secondary.pwrite(offset, bytes(length) if data is None else data)
        return 0, 0

    monkeypatch.setattr(apply_journal._Writes, "write", write_half)
    with pytest.raises(AssertionError, match="consistent at"):
        kill_at_each_step("crash")
