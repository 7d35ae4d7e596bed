"""A site that stages its cycles is killed at every step: the secondary is never in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import pytest

from mirrorlog.consumers import journal_recovery
from mirrorlog.consumers.journal.apply_journal import staged_ranges
from mirrorlog.consumers.journal.journal_format import SealedJournal, read_journal
from mirrorlog.consumers.journal.redo import refuse_redo
from mirrorlog.consumers.resync import journaled_cycles, left_journals
from mirrorlog.consumers.resync.journaled_cycles import CycleJournals
from mirrorlog.consumers.resync.left_journals import LeftJournals
from mirrorlog.domain.commands import ForkOutcome, ForkOutcomes
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.errors import DeviceFailed
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.memory_journals import _MemoryJournal
from mirrorlog.simulation.world.crashes import Crash
from mirrorlog.simulation.world.host import BLOCK_BYTES, BLOCKS, SIZE_BYTES
from mirrorlog.simulation.world.world import VOLUMES, World

CRASH = {"site_consistency": "crash", "site_journal_bytes": 1 << 20}


def sealed_journal(world: World) -> SealedJournal | None:
    """Return the journal of "v", if it is sealed."""
    content = world.site.journals.content("v")
    return read_journal(lambda offset, length: content[offset : offset + length])


def openable_content(world: World, name: str) -> tuple[int, bytes]:
    """Return what the secondary holds when the site has started without anything else.

    The first result is the position to which that belongs.
    """
    saved = world.site.states.load(name)
    assert saved is not None
    held = bytearray(world.site.secondary(name).pread(offset=0, length=SIZE_BYTES))
    if saved.consistent_position is not None:
        return saved.consistent_position, bytes(held)
    file = world.site.journals.open(name)
    assert file is not None, f"{name} is inconsistent, and has no journal"
    journal = read_journal(file.pread)
    assert journal is not None, f"{name} is inconsistent, and its journal isn't sealed"
    assert refuse_redo(journal, saved) is None
    for offset, length, data in staged_ranges(journal, file):
        held[offset : offset + length] = bytes(length) if data is None else data
    return journal.through, bytes(held)


def check_openable(world: World) -> None:
    """Check that each secondary that was consistent once is so, or gets there alone."""
    for name in VOLUMES:
        if world.site.states.load(name) is None:
            continue
        position, content = openable_content(world, name)
        versions = world.host.versions_at(name, position)
        for block in range(BLOCKS):
            version = int.from_bytes(content[block * BLOCK_BYTES : block * BLOCK_BYTES + 8], "big")
            assert version == versions.get(block, 0), (name, block, position)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count what happens to journals."""
    counts: Counter[str] = Counter()

    def counted(kind: type[CycleJournals | LeftJournals], name: str) -> None:
        method = getattr(kind, name)

        def call(self: object, *arguments: object) -> object:
            result = method(self, *arguments)
            size = len(result[0]) if kind is LeftJournals else 1
            counts[name] += size
            return result

        monkeypatch.setattr(kind, name, call)

    counted(CycleJournals, "stage")
    counted(CycleJournals, "seal")
    counted(LeftJournals, "sealed")
    return counts


def test_whenever_the_site_is_killed_its_secondaries_can_be_opened(calls: Counter[str]) -> None:
    for seed in (0, 2, 6):
        world = World(seed, **CRASH)
        for _ in range(200):
            world.act()
            check_openable(world)
        world.finish()
        world.check_end()
    assert calls["stage"] > calls["seal"] > 10
    assert calls["sealed"] > 0


def ready_world(**overrides: object) -> World:
    """Return a world whose secondaries are consistent, and whose volume "v" has changed since."""
    world = World(3, **{**CRASH, **overrides})
    world.hold_primaries_still()
    world.fold_and_commit()
    world.settle()
    for block in (3, 4, 9):
        world.host.write_block("v", block)
    world.host.publish("v")
    world.fold_and_commit()
    return world


def position_of(world: World) -> int:
    """Return the position at which the secondary of "v" is consistent, by its saved state."""
    saved = world.site.states.load("v")
    assert saved is not None and saved.consistent_position is not None
    return saved.consistent_position


def run_cycle(world: World) -> None:
    """Let the site stage, prove, seal and apply what changed."""
    for _ in range(50):
        world.site.site.run_once(0)
        world.host.heartbeat()
        world.fold_and_commit()
        if world.site.is_consistent() and world.site.secondary_equals_primary("v"):
            return
    raise AssertionError("the cycle has no end")


def kill_at_each_step(is_alone: bool) -> None:
    """Kill the site before each step of a cycle, and let it go on.

    The steps: read, stage, seal, mark, state, apply, flush, state, empty. is_alone: it starts
    without Kafka and the primary first.
    """
    reached = set[int]()
    for step in range(200):
        world = ready_world()
        before = position_of(world)
        world.site.fuse.light_at(step)
        try:
            run_cycle(world)
        except Crash:
            world.site.lose_power()
        else:
            break
        check_openable(world)
        if is_alone:
            world.site.recover_journals()
            world.site.check_consistency()
            reached.add(position_of(world) - before)
        world.site.start()
        run_cycle(world)
        world.check_end()
    assert 15 < step < 199
    assert not is_alone or len(reached) == 2


@pytest.mark.parametrize("is_alone", [False, True])
def test_killed_at_each_step_of_a_cycle_it_is_at_a_position_of_the_cycle(is_alone: bool) -> None:
    kill_at_each_step(is_alone)


class FailsOnce:
    """A hook of a device, or of journals, that fails at its `at`-th call."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, operation: str, *_: object) -> None:
        self.left -= 1
        if self.left == -1:
            raise DeviceFailed(f"{operation} failed: Input/output error", where="memory, offset 0")


@pytest.mark.parametrize("part", ["secondary", "primary", "journals"])
def test_a_device_that_fails_at_any_step_leaves_the_secondary_openable(part: str) -> None:
    for at in range(60):
        world, hook = ready_world(), FailsOnce(at)
        parts = {
            "secondary": world.site.secondaries.devices["v"],
            "primary": world.host.primaries["v"],
            "journals": world.site.journals,
        }
        for _ in range(6):
            parts[part].hook = hook
            world.site.site.run_once(0)
            parts[part].hook = None  # what the checks read doesn't count
            check_openable(world)
            world.host.heartbeat()
            world.fold_and_commit()
        run_cycle(world)
        world.check_end()
        if hook.left >= 0:
            break
    assert 1 < at < 59


def test_a_site_that_applies_before_it_seals_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The closing record is written, and isn't durable when the first entry is applied."""
    monkeypatch.setattr(_MemoryJournal, "sync", lambda _: None)
    with pytest.raises(AssertionError, match="isn't sealed"):
        kill_at_each_step(is_alone=False)


def test_a_site_that_writes_before_it_says_so_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state goes on to claim the old position while the journal is applied."""
    monkeypatch.setattr(journaled_cycles, "applying_state", lambda saved, _: saved)
    with pytest.raises(AssertionError):
        kill_at_each_step(is_alone=False)


def run_with_faults(seed: int) -> None:
    world = World(seed, **CRASH)
    world.site.recovers_first = bool(seed % 2)
    for _ in range(300):
        world.act_with_faults()
    world.finish_after_faults()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_becomes_of_its_files_a_site_with_journals_claims_nothing_untrue(
    seed: int,
) -> None:
    run_with_faults(seed)


def world_with_sealed_journal() -> tuple[World, bytes, bytes, SecondaryMark]:
    """Return a world whose site was killed when it had sealed a journal of "v", and not applied it.

    Also the content of the secondary, its state and its mark, as they were one cycle before.
    """
    for step in range(200):
        world = ready_world()
        content = world.site.secondary("v").pread(offset=0, length=SIZE_BYTES)
        state, mark = world.site.states.contents["v"], world.site.secondaries.marks["v"]
        run_cycle(world)
        before = position_of(world)
        world.host.write_block("v", 20)
        world.host.publish("v")
        world.fold_and_commit()
        world.site.fuse.light_at(step)
        with suppress(Crash):
            run_cycle(world)
            break
        world.site.lose_power()
        journal = sealed_journal(world)
        if journal is not None and journal.header.after == before:
            return world, content, state, mark
    raise AssertionError("no journal was sealed")


def swap_secondary(recovers_first: bool) -> None:
    """Another device is in the place of the secondary when the site starts again."""
    world, *_ = world_with_sealed_journal()
    world.site.recovers_first = recovers_first
    world.site.secondaries.devices["v"] = MemoryDevice(SIZE_BYTES)
    world.site.start()
    for _ in range(10):
        world.site.site.run_once(0)
        world.site.check_claims()


def restore_all_but_the_journal(recovers_first: bool) -> None:
    """The secondary, its mark and its state are those of one cycle before."""
    world, content, state, mark = world_with_sealed_journal()
    world.site.recovers_first = recovers_first
    device = world.site.secondary("v")
    device.pwrite(0, content)
    device.flush()
    world.site.states.restore("v", state)
    world.site.secondaries.restore_mark("v", mark)
    world.site.start()
    for _ in range(10):
        world.site.site.run_once(0)
        world.site.check_claims()


def begin_to_fork(world: World) -> None:
    """Let a host that forks start, write, and wait for the site."""
    forks = (ForkOutcomes("a", bytes([ForkOutcome.MISSED])),)
    for block in (20, 21):
        world.host.write_forked("v", block, [], forks)
    world.fold_and_commit()


def test_a_sealed_journal_is_dropped_once_the_log_names_a_fork(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The host may write to the secondary as soon as the site reports that it is SYNCING."""
    world, *_ = world_with_sealed_journal()
    begin_to_fork(world)
    world.site.start()
    monkeypatch.setattr(journaled_cycles, "apply_journal", None)
    run_cycle(world)
    assert sealed_journal(world) is None


def test_a_staged_cycle_is_dropped_once_the_log_names_a_fork(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = ready_world()
    for _ in range(20):
        world.site.site.run_once(0)
    assert world.site.site.secondaries["v"].staged is not None
    begin_to_fork(world)
    monkeypatch.setattr(journaled_cycles, "apply_journal", None)
    run_cycle(world)


FAULTS = (swap_secondary, restore_all_but_the_journal)


@pytest.mark.parametrize("recovers_first", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_journal_is_never_applied_to_another_secondary_or_at_another_position(
    fault: Callable[[bool], None], recovers_first: bool
) -> None:
    fault(recovers_first)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_site_that_takes_any_journal_for_its_own_is_found_out(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[bool], None]
) -> None:
    monkeypatch.setattr(left_journals, "refuse_redo", lambda *_: None)
    monkeypatch.setattr(journal_recovery, "refuse_redo", lambda *_: None)
    with pytest.raises(AssertionError, match="consistent at"):
        fault(False)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_becomes_of_the_topics_a_site_with_journals_claims_nothing_untrue(
    seed: int,
) -> None:
    world = World(seed, **CRASH)
    world.site.recovers_first = bool(seed % 2)
    for _ in range(300):
        world.act_with_history_faults()
    world.finish_after_history_faults()
