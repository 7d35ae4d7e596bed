"""Each change of a secondary's state is told once, and never a block."""

from __future__ import annotations

from notation import volume

from mirrorlog.consumers.resync.copy_counts import CopyCounts
from mirrorlog.consumers.resync.cycle_steps import Idle, Resync
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.resync.state_changes import SecondaryChange, StateChanges
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.simulation.manual_clock import ManualClock

NO_STATE = SecondaryState("v", volume().generation)


class World:
    """One secondary, and what is told of it."""

    def __init__(self) -> None:
        self.clock, self.told = ManualClock(), list[SecondaryChange]()
        self.secondary = Secondary(volume())
        self.changes = StateChanges(self.clock, self.told.append)

    def cycle(self, rung: Rung = Rung.CHANGED, reason: str | None = None) -> None:
        """Run a cycle that copies three runs of one block in 2 s."""
        blocks = BlockSet([1, 2, 3]) if rung is Rung.CHANGED else None
        self.secondary.begin_cycle(reason)
        self.changes.begin_cycle(self.secondary, Resync(rung, NO_STATE, NO_STATE, blocks, reason))
        for _ in range(3):
            self.secondary.note_copied(CopyCounts(1, 4096, 4096), self.clock.now_s)
        self.clock.now_s += 2
        self.secondary.end_cycle()
        self.changes.look(self.secondary)

    def idle(self, state: SiteState, reason: str | None = None) -> None:
        self.secondary.go_idle(Idle(state, reason))
        self.changes.look(self.secondary)

    def states(self) -> list[SiteState]:
        return [change.state for change in self.told]


def test_the_first_copy_is_told_with_its_rung_bytes_and_duration() -> None:
    world = World()
    world.idle(SiteState.WAITING, "the log has no entry of the volume")
    world.idle(SiteState.WAITING, "the log has no entry of the volume")
    world.cycle(Rung.FULL, "nothing is known")
    world.cycle()
    world.idle(SiteState.CONSISTENT)
    waiting, syncing, settling, again, settling_again, consistent = world.told
    assert waiting.before is None
    assert waiting.reason == "the log has no entry of the volume"
    assert (syncing.before, syncing.rung, syncing.reason) == (
        SiteState.WAITING,
        Rung.FULL,
        "nothing is known",
    )
    assert syncing.to_copy_bytes == volume().size_bytes
    assert again.to_copy_bytes == 3 * volume().block_size
    assert [settling.state, settling_again.state] == [SiteState.SETTLING] * 2
    assert consistent.duration_s == 4.0
    assert consistent.copied == CopyCounts(6, 6 * 4096, 6 * 4096)
    assert not any(change.is_routine for change in world.told)


def test_a_secondary_that_follows_new_writes_is_routine_until_a_gap() -> None:
    world = World()
    world.idle(SiteState.CONSISTENT)
    world.cycle()
    world.cycle()
    world.idle(SiteState.CONSISTENT)
    assert [change.is_routine for change in world.told] == [False] + [True] * 5
    world.told.clear()
    world.cycle(Rung.ALLOCATED, "the log has a hole")
    world.idle(SiteState.CONSISTENT)
    assert not any(change.is_routine for change in world.told)


def test_a_stop_is_told_once_for_each_reason() -> None:
    world = World()
    for reason in ("no space", "no space", "it is gone", "it is gone"):
        world.secondary.stop(reason, retry_at_s=5.0)
        world.changes.look(world.secondary)
    world.idle(SiteState.CONSISTENT)
    assert [change.reason for change in world.told] == ["no space", "it is gone", None]
    assert world.told[-1].before is SiteState.STOPPED
