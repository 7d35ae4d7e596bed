"""The next step of a site with one secondary, as a pure function of its saved state and of the log.

The states of a secondary, the reason to leave them, and the step. W is the watermark; the secondary
hasn't applied the positions (applied, W] yet. "All" is the rung ALLOCATED, or FULL.

    nothing saved
        both sides are known to be zeros      SkipInitialCopy   --> CONSISTENT
        otherwise                             Resync all        --> SYNCING --> SETTLING
    a copy of everything that was cut off
        the log covers all since its begin    Resync the rest   --> SYNCING --> SETTLING
        otherwise                             Resync all        --> SYNCING --> SETTLING
    CONSISTENT
        the log names blocks that it missed   Resync changed    --> SYNCING --> SETTLING
        all that changed came by the fork     MarkConsistent    --> CONSISTENT
            while an outcome is still open    AdvancePosition   --> SETTLING
    SETTLING
        settled, no unproved block changed    MarkConsistent    --> CONSISTENT
        the log names blocks that it missed   Resync changed    --> SYNCING --> SETTLING
    CONSISTENT, SETTLING
        the primary is read as of P           Resync changed    --> SYNCING --> CONSISTENT at P
    any state
        a hole in the log, a new generation   Resync all        --> SYNCING, with a warning
        another copy was promoted             ContinueLog       --> as its blocks are (parting.py)
        this copy was promoted                Idle              --> DETACHED; the site keeps off it
        another history of the partition      Resync all        --> SYNCING, with a warning
        a device fails                        tried again later --> STOPPED; the others go on
        an operator pauses it                 Idle              --> STOPPED, until it is resumed
        the volume is retired                 Idle              --> RETIRED; the copy stays as it is

Rules:

- A cycle that died begins again from the applied position, and covers at least what it covered
  before (invariants 6 and 8).
- A log that ends below the position that the secondary has reached lost something. The site stops
  there and reports it (invariant 7).
- "Settled at W": each open session closed a batch after the site's last read, and the log holds
  that batch (invariant 8).
- A block is unproved (in the saved state: suspect) if it was read from the moving primary since the
  secondary was last proved consistent. The next cycle may begin before the proof of the last one.
  A copy of the whole volume is the exception: it is proved first, because all its blocks are
  unproved.
- A cycle copies the blocks that the secondary has missed in (applied, W]. It also copies again the
  unproved blocks that changed in (applied, W], missed or not: a forked write may have arrived
  between the site's read and its write. Without a fork the secondary misses all that changes, so
  the second set is a part of the first (docs/decisions/forked-writes.md).
- The unproved blocks are saved as positions, and never as fewer blocks than were read: all blocks
  missed in (suspect_after, applied], and all blocks changed through changed_through. If the log has
  a hole there, all blocks of the volume are unproved. suspect_after is as low as the records reach
  on which a cycle stood: they then name the same blocks even after a roll-up.
- While a host doesn't know the outcome of a write at this secondary (OPEN), the site claims nothing
  new. It doesn't either before the log is settled since the site's start: the secondary may have
  lost forked writes that weren't flushed, and a host reports that in the batch that it closes then.
- With a fork, a secondary that has missed a write may hold newer writes beside it. It then equals
  the primary at no position.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from mirrorlog.consumers.resync.cycle_steps import (
    AdvancePosition,
    ContinueLog,
    CycleInput,
    CycleStep,
    Idle,
    MarkConsistent,
    Resync,
    SkipInitialCopy,
)
from mirrorlog.consumers.resync.parting import continued_state, unknown_parting
from mirrorlog.consumers.resync.snapshot_step import snapshot_step
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.commands import LEFT_OUT_SESSIONS
from mirrorlog.domain.replica_states import FIRST_COPY, NOTHING_KNOWN
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.tracking_log.coverage import Hole
from mirrorlog.tracking_log.site_log import SiteLog


def next_step(saved: SecondaryState | None, cycle_input: CycleInput) -> CycleStep:
    """Return the next step for one secondary. `saved` is None if nothing is known of it.

    SecondarySteps.advance takes the step. It hands each Resync to InPlaceCycles.run.
    """
    if cycle_input.volume.is_retired or not cycle_input.is_other_history:
        return _in_history(_next_step(saved, cycle_input), saved, cycle_input)
    return Idle(
        SiteState.WAITING,
        "the log is of another history than the volume's description: the node renews the history, "
        "or its log isn't read that far yet",
    )


def _next_step(saved: SecondaryState | None, cycle_input: CycleInput) -> CycleStep:
    """Return the next step, whose states don't name the history yet."""
    volume, watermark = cycle_input.volume, cycle_input.watermark
    if not volume.is_followed_by(cycle_input.log.site):
        return _unfollowed(volume)
    if saved is None:
        if volume.initially_zeroed and cycle_input.secondary_zeroed:
            unsynced = SecondaryState(volume.volume, volume.generation)
            return SkipInitialCopy(_consistent_at(unsynced, volume.origin_position))
        return _resync_all(cycle_input, NOTHING_KNOWN)
    if saved.generation != volume.generation:
        return _step_of_new_generation(saved, cycle_input)
    if reason := _history_reason(saved, cycle_input):
        return _resync_all(cycle_input, reason)
    if saved.applied_position is None:
        return _finish_copy(saved, cycle_input)
    reached = max(saved.applied_position, saved.cycle_through or saved.applied_position)
    if watermark is None or watermark < reached:
        if reached == volume.origin_position:
            return Idle(_idle_state(saved, is_sure=cycle_input.log.fork is None))
        return Idle(
            SiteState.STOPPED,
            f"the log ends at {watermark}, and the secondary has reached {reached}",
        )
    if hole := cycle_input.log.hole(after=saved.applied_position, through=watermark):
        return _hole_step(saved, hole, cycle_input)
    return _step_by_log(saved, saved.applied_position, watermark, cycle_input)


def _unfollowed(volume: Volume) -> Idle:
    """Return the step of a secondary that its site keeps off (Volume.is_followed_by)."""
    if volume.is_retired:
        reason = f"the volume was retired at position {volume.described_position}"
        return Idle(SiteState.RETIRED, reason)
    return Idle(SiteState.DETACHED, "the secondary of this site is the volume's primary now")


def _step_of_new_generation(saved: SecondaryState, cycle_input: CycleInput) -> CycleStep:
    """Return the next step of a secondary whose state is of another generation."""
    volume, watermark = cycle_input.volume, cycle_input.watermark
    reason = f"the generation changed from {saved.generation} to {volume.generation}"
    if volume.promotion_ending(saved.generation) is None:
        return _resync_all(cycle_input, reason)
    promoted = volume.promotions[-1]
    reason = f"site {promoted.site} was promoted at position {promoted.position}"
    if watermark is None or watermark < promoted.position:
        return Idle(SiteState.WAITING, f"{reason}, and the log isn't read that far yet")
    is_forked = cycle_input.log.fork is not None
    continued = continued_state(saved, volume, is_forked=is_forked)
    if other_history := _history_reason(saved, cycle_input):
        return _resync_all(cycle_input, other_history)
    if continued is None:
        why = unknown_parting(saved, volume, is_forked=is_forked)
        return _resync_all(cycle_input, f"{reason}, and {why}")
    return ContinueLog(continued)


def _hole_step(saved: SecondaryState, hole: Hole, cycle_input: CycleInput) -> CycleStep:
    """Return the next step where the log has a hole behind the applied position."""
    positions = f"positions {hole.after + 1} to {hole.through} are covered by no record"
    if cycle_input.hole_may_close:
        state = SiteState.SETTLING if saved.cycle_through is None else SiteState.SYNCING
        return Idle(state, f"{positions} that the mirror has brought yet", awaits_source=True)
    return _resync_all(cycle_input, f"the log has a hole: {positions}")


def _history_reason(saved: SecondaryState, cycle_input: CycleInput) -> str | None:
    """Return how the saved positions' history differs from the log's; None if it doesn't.

    A state of an older release names no history, and takes over that of the log when it is saved.
    """
    known, now = saved.history_id, cycle_input.history_id
    if known is None or known == now or cycle_input.watermark is None:
        return None
    if now is None:
        return f"an older node wrote the log, which may not be of the history {known} any more"
    return f"the history of the partition changed from {known} to {now}: positions mean others now"


def _in_history(
    step: CycleStep, saved: SecondaryState | None, cycle_input: CycleInput
) -> CycleStep:
    """Return the step with the history, and the anchor of the position, in each state to save."""

    def stamped(state: SecondaryState) -> SecondaryState:
        anchor, position = None, state.known_position
        if position is not None:
            if position == cycle_input.watermark:
                anchor = cycle_input.anchor
            elif saved is not None and position == saved.known_position:
                anchor = saved.anchor
        history_id = cycle_input.history_id
        if cycle_input.watermark is None and saved is not None:
            history_id = saved.history_id
        return replace(state, history_id=history_id, anchor=anchor)

    match step:
        case Idle():
            return step
        case Resync():
            return replace(
                step,
                running=stamped(step.running),
                done=stamped(step.done),
                unproved=None if step.unproved is None else stamped(step.unproved),
            )
        case SkipInitialCopy() | MarkConsistent() | AdvancePosition() | ContinueLog():
            return replace(step, state=stamped(step.state))


class _CycleBlocks(NamedTuple):
    """The blocks that a cycle through the watermark is about.

    missed: the secondary has missed them in (applied, watermark].
    changed: they changed in (applied, watermark].
    unproved: they were read since the last proof, or more; None: any block of the volume.
    recopied: those of `changed` that are unproved.
    """

    missed: BlockSet
    changed: BlockSet
    unproved: BlockSet | None
    recopied: BlockSet


def _step_by_log(
    saved: SecondaryState, applied: int, watermark: int, cycle_input: CycleInput
) -> CycleStep:
    """Return the next step where the log covers (applied, watermark] without a hole."""
    if (step := snapshot_step(saved, applied, watermark, cycle_input)) is not None:
        return step
    log, is_idle = cycle_input.log, saved.cycle_through is None
    is_suspect = saved.suspect_after is not None
    settled = is_idle and is_settled(cycle_input, watermark)
    blocks = _cycle_blocks(saved, applied, watermark, log, settled)
    if is_suspect and settled and not blocks.recopied:
        if not blocks.missed and not log.has_open_fork:
            return MarkConsistent(_consistent_at(saved, watermark))
        if blocks.missed and log.fork is None:
            return MarkConsistent(_consistent_at(saved, applied))
    if is_idle and not blocks.missed and not blocks.recopied:
        is_sure = not log.has_open_fork and (settled or log.fork is None)
        if log.fork is None or is_suspect or not blocks.changed:
            state = _idle_state(saved, is_sure)
            return Idle(
                state, _waiting_reason(cycle_input) if state is SiteState.SETTLING else None
            )
        if is_sure:
            return MarkConsistent(_consistent_at(saved, watermark))
        return AdvancePosition(replace(saved, applied_position=watermark))
    if is_idle and saved.is_unproved_copy and not settled:
        return Idle(SiteState.SETTLING, _waiting_reason(cycle_input))
    suspect_after, changed_through = _suspect_range(saved, applied, watermark, log, settled, blocks)
    running = replace(
        saved,
        suspect_after=suspect_after,
        changed_through=changed_through,
        cycle_through=watermark,
        consistent_position=None,
        rung=Rung.CHANGED,
    )
    done = replace(running, applied_position=watermark, cycle_through=None)
    return Resync(Rung.CHANGED, running, done, blocks.missed | blocks.recopied, None)


def _cycle_blocks(
    saved: SecondaryState, applied: int, watermark: int, log: SiteLog, settled: bool
) -> _CycleBlocks:
    missed = log.missed(after=applied, through=watermark)
    changed = missed if log.fork is None else log.changed(after=applied, through=watermark)
    unproved: BlockSet | None = BlockSet()
    # Without a fork `recopied` is a part of `missed`, and only the proof needs it.
    if changed and (settled or log.fork is not None):
        unproved = _unproved_blocks(saved, applied, log)
    recopied = changed if unproved is None else changed & unproved
    return _CycleBlocks(missed, changed, unproved, recopied)


def _unproved_blocks(saved: SecondaryState, applied: int, log: SiteLog) -> BlockSet | None:
    """Return the blocks read since the last proof, or more; None for any block of the volume."""
    after = saved.suspect_after
    if after is None:
        return BlockSet()
    changed_through = after if saved.changed_through is None else saved.changed_through
    is_hole = log.volume.hole(after=after, through=changed_through) or log.missed_hole(
        after=changed_through, through=applied
    )
    if is_hole or saved.is_unproved_copy:
        return None
    return log.changed(after=after, through=changed_through) | log.missed(
        after=changed_through, through=applied
    )


def _suspect_range(
    saved: SecondaryState,
    applied: int,
    watermark: int,
    log: SiteLog,
    settled: bool,
    blocks: _CycleBlocks,
) -> tuple[int, int | None]:
    """Return the values of suspect_after and changed_through once the next cycle runs."""
    suspect_after, changed_through = saved.suspect_after, saved.changed_through
    if suspect_after is None or (settled and blocks.recopied.issubset(blocks.missed)):
        suspect_after, changed_through = applied, None
    elif settled and (blocks.unproved is None or len(blocks.changed) < len(blocks.unproved)):
        # Blocks that aren't copied again are proved. Both sets hold those that are: the smaller
        # set is saved.
        suspect_after, changed_through = applied, watermark
    elif blocks.unproved is None and log.fork is not None:
        changed_through = watermark
    if log.fork is not None:
        suspect_after = min(suspect_after, log.covered_from(after=applied, through=watermark))
    return suspect_after, changed_through


def _resync_all(cycle_input: CycleInput, reason: str) -> CycleStep:
    """Return a resync through the watermark that is right whatever the secondary holds."""
    if cycle_input.watermark is None:
        return Idle(SiteState.WAITING, "no watermark of the volume's partition was read yet")
    through = max(cycle_input.watermark, cycle_input.volume.origin_position)
    running = SecondaryState(
        cycle_input.volume.volume,
        cycle_input.volume.generation,
        cycle_through=through,
        rung=Rung.ALLOCATED,
    )
    done = replace(running, applied_position=through, suspect_after=through, cycle_through=None)
    return Resync(Rung.ALLOCATED, running, done, None, reason)


def _finish_copy(saved: SecondaryState, cycle_input: CycleInput) -> CycleStep:
    """Return the step after a copy of everything that was cut off, or that never began.

    It goes on where it was, with the position at which it began, if the log holds all that changed
    since then (docs/decisions/resumable-copies.md). Generation and history are those of the log.
    """
    begun_at, watermark = saved.cycle_through, cycle_input.watermark
    if cycle_input.hole_may_close:
        reason = "the mirror hasn't brought all that changed since the initial copy began"
        return Idle(SiteState.SYNCING, reason, awaits_source=True)
    if (
        saved.copied_bytes is None
        or begun_at is None
        or watermark is None
        or watermark < begun_at
        or cycle_input.log.hole(after=begun_at, through=watermark) is not None
    ):
        return _resync_all(cycle_input, cycle_input.unknown_reason or FIRST_COPY)
    done = replace(
        saved,
        applied_position=begun_at,
        suspect_after=begun_at,
        cycle_through=None,
        copied_bytes=None,
    )
    reason = f"{FIRST_COPY}, and goes on at offset {saved.copied_bytes}"
    return Resync(Rung.ALLOCATED, saved, done, None, reason)


def is_settled(cycle_input: CycleInput, watermark: int) -> bool:
    """Return whether the log through `watermark` holds all that the site read (invariant 8)."""
    return cycle_input.read_end is not None and cycle_input.log.volume.is_settled(
        cycle_input.read_end, watermark=watermark, beats=cycle_input.beats
    )


def _consistent_at(saved: SecondaryState, position: int) -> SecondaryState:
    return replace(
        saved,
        applied_position=position,
        suspect_after=None,
        changed_through=None,
        consistent_position=position,
        rung=saved.rung or Rung.CHANGED,
    )


def _waiting_reason(cycle_input: CycleInput) -> str | None:
    """Return for what the secondary waits, beside hosts that the log names; None for nothing."""
    head = cycle_input.log.volume.head
    if head is None or not head.has_left_out:
        return cycle_input.unanswered_reason
    return (
        "the volume has more open sessions than the log names: close those that are dead, and then "
        f"session '{LEFT_OUT_SESSIONS}'"
    )


def _idle_state(saved: SecondaryState, is_sure: bool) -> SiteState:
    """Return the state to report.

    is_sure: no host can still report a missed write up to the watermark.
    """
    if saved.cycle_through is not None:
        return SiteState.SYNCING
    return SiteState.CONSISTENT if is_sure and saved.suspect_after is None else SiteState.SETTLING
