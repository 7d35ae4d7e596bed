"""What a site does next with one secondary: a pure function of what it keeps, what it has read of the log, and nothing else.

State of the secondary, from what is kept durably (SecondaryState) and from the log through the watermark W:

    nothing kept ─┬─ begin: new, both sides known to be zeros ──────────────┐
                  └─ restore allocated/full ──▶ SYNCING ──▶ SETTLING        ▼
    CONSISTENT ──── the log names blocks in (applied, W] ──▶ BEHIND ── restore changed ──▶ SYNCING ──▶ SETTLING
    SETTLING ─┬─ prove: settled at W, nothing that was read appears in (applied, W] ──▶ CONSISTENT or BEHIND
              └─ the log names more ── restore changed ──▶ SYNCING
    CONSISTENT ─┬─ what changed in (applied, W] came by the fork ── prove, or follow while a host doesn't know it yet
                └─ a host doesn't know yet what became of a forked write ──▶ SETTLING
    any ─── a hole in the log, or another generation ──▶ restore allocated/full (loud) ──▶ SYNCING
    any ─── an error of a device ──▶ STOPPED, tried again later; the others go on
    any ─── the volume is retired ──▶ RETIRED: what the secondary holds stays, and what it is worth

Rules:
- A cycle that died begins again from the applied position and covers at least what it covered (invariants 6, 8).
- A log that ends below what the secondary reached lost something: the site stops there and says so (invariant 7).
- "Settled at W": every open session closed a batch after the site's last read, and the log holds it (invariant 8).
- The next cycle may begin before the last one is proved; what was read since the last proof stays suspect. Only a copy
  of everything is proved first, because everything is suspect.
- A cycle copies what the secondary has missed in (applied, W], and again what is suspect and appears in (applied, W],
  missed or not: a forked write may have come between the site's reading and its writing. Without a fork all that changed
  was missed, and the second is part of the first (docs/decisions/forked-writes.md).
- What is suspect is told by positions, never as less than what was read: all that was missed in (suspect_after, applied],
  and all that changed up to changed_through; everything where that range has a hole. suspect_after lies as low as the
  records reach that were taken: they name the same blocks then, whatever they are rolled up to later.
- While a host doesn't know yet what became of a write at this secondary (OPEN), nothing new is claimed; nor before the
  log is settled since the site began: the secondary may have lost forked writes that weren't flushed, and a host says so
  in the batch that it closes then.
- With a fork a secondary that has missed something may hold newer writes beside it: it equals the primary at no position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.bitmaps import BitMap64
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.tracking_log.site_log import SiteLog


@dataclass(frozen=True, slots=True)
class View:
    """What the site knows of one volume beside what it keeps.

    watermark: the log was read completely through it; None before the first.
    read_end: end of the commands topic, asked since the site began and after its last cycle, reads and writes; None until
    it was asked.
    beats: by session, the position that it knew as acknowledged at its last heartbeat in the volume's partition.
    secondary_zeroed: the secondary is known to read as zeros from end to end.
    """

    volume: Volume
    log: SiteLog
    watermark: int | None
    read_end: int | None
    secondary_zeroed: bool
    beats: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Begin:
    """Both sides are zeros at the origin: keep `state`, nothing is copied."""

    state: SecondaryState


@dataclass(frozen=True, slots=True)
class Restore:
    """Resync by `rung`: `blocks` where it is CHANGED, otherwise all that the primary says it holds.

    running is kept before the first block is written; done when all are durable. reason: why a further rung is taken.
    """

    rung: Rung
    running: SecondaryState
    done: SecondaryState
    blocks: BitMap64 | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Prove:
    """The secondary equals the primary as of a position: keep `state`."""

    state: SecondaryState


@dataclass(frozen=True, slots=True)
class Follow:
    """Nothing is missing up to a position, but a host doesn't know all of it yet: keep `state`."""

    state: SecondaryState


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do until the log says more."""

    state: SiteState
    reason: str | None = None


Step: TypeAlias = Begin | Restore | Prove | Follow | Rest


def next_step(kept: SecondaryState | None, view: View) -> Step:
    """The next step for one secondary."""
    volume, mark = view.volume, view.watermark
    if volume.is_retired:
        return Rest(
            SiteState.RETIRED, f"the volume was retired at position {volume.described_position}"
        )
    if kept is None:
        if volume.initially_zeroed and view.secondary_zeroed:
            return Begin(
                _consistent(
                    SecondaryState(volume.volume, volume.generation), volume.origin_position
                )
            )
        return _copy_all(view, "nothing is known of the secondary's contents")
    if kept.generation != volume.generation:
        return _copy_all(
            view, f"the generation changed from {kept.generation} to {volume.generation}"
        )
    if kept.applied_position is None:
        return _copy_all(view, "the initial copy wasn't finished")
    reached = max(kept.applied_position, kept.cycle_through or kept.applied_position)
    if mark is None or mark < reached:
        if reached == volume.origin_position:
            return Rest(_resting(kept, is_sure=view.log.fork is None))
        return Rest(
            SiteState.STOPPED, f"the log ends at {mark}, and the secondary has reached {reached}"
        )
    if hole := view.log.hole(after=kept.applied_position, through=mark):
        reason = f"the log has a hole: positions {hole.after + 1} to {hole.through} are covered by no record"
        return _copy_all(view, reason)
    return _changed(kept, kept.applied_position, mark, view)


def _changed(kept: SecondaryState, applied: int, mark: int, view: View) -> Step:
    log, is_idle, is_suspect = view.log, kept.cycle_through is None, kept.suspect_after is not None
    missed = log.missed(after=applied, through=mark)
    changed = missed if log.fork is None else log.changed(after=applied, through=mark)
    settled = is_idle and _settled(view, mark)
    # Without a fork `again` is a part of what was missed, and matters for the proof alone.
    copied = (
        _copied(kept, applied, log) if changed and (settled or log.fork is not None) else BitMap64()
    )
    again = changed if copied is None else changed & copied
    if is_suspect and settled and not again:
        if not missed and not log.has_open_fork:
            return Prove(_consistent(kept, mark))
        if missed and log.fork is None:
            return Prove(_consistent(kept, applied))
    if is_idle and not missed and not again:
        is_sure = not log.has_open_fork and (settled or log.fork is None)
        if log.fork is None or is_suspect or not changed:
            return Rest(_resting(kept, is_sure))
        return (
            Prove(_consistent(kept, mark))
            if is_sure
            else Follow(replace(kept, applied_position=mark))
        )
    if is_idle and _is_copy_of_all(kept) and not settled:
        return Rest(SiteState.SETTLING)
    suspect_after, changed_through = _suspect(
        kept, applied, mark, log, settled, (missed, changed, again), copied
    )
    running = replace(
        kept,
        suspect_after=suspect_after,
        changed_through=changed_through,
        cycle_through=mark,
        consistent_position=None,
        rung=Rung.CHANGED,
    )
    done = replace(running, applied_position=mark, cycle_through=None)
    return Restore(Rung.CHANGED, running, done, missed | again, None)


def _copied(kept: SecondaryState, applied: int, log: SiteLog) -> BitMap64 | None:
    """The blocks read since the last proof, or more: none is left out. None: any of the volume's."""
    after = kept.suspect_after
    if after is None:
        return BitMap64()
    changed_through = after if kept.changed_through is None else kept.changed_through
    is_hole = log.volume.hole(after=after, through=changed_through) or log.missed_hole(
        after=changed_through, through=applied
    )
    if is_hole or _is_copy_of_all(kept):
        return None
    return log.changed(after=after, through=changed_through) | log.missed(
        after=changed_through, through=applied
    )


def _suspect(
    kept: SecondaryState,
    applied: int,
    mark: int,
    log: SiteLog,
    settled: bool,
    blocks: tuple[BitMap64, BitMap64, BitMap64],
    copied: BitMap64 | None,
) -> tuple[int, int | None]:
    """suspect_after and changed_through from the next cycle on. blocks: what it missed, what changed, what is read again."""
    missed, changed, again = blocks
    suspect_after, changed_through = kept.suspect_after, kept.changed_through
    if suspect_after is None or (settled and again.issubset(missed)):
        suspect_after, changed_through = applied, None
    elif settled and (copied is None or len(changed) < len(copied)):
        # What isn't read again is proved. Both sets hold what is: the smaller is told.
        suspect_after, changed_through = applied, mark
    elif copied is None and log.fork is not None:
        changed_through = mark
    return (
        suspect_after
        if log.fork is None
        else min(suspect_after, log.covered_from(after=applied, through=mark))
    ), changed_through


def _copy_all(view: View, reason: str) -> Step:
    """The rungs below `changed`: right whatever the secondary holds. Covers the log through the watermark."""
    if view.watermark is None:
        return Rest(SiteState.WAITING, "no watermark of the volume's partition was read yet")
    through = max(view.watermark, view.volume.origin_position)
    running = SecondaryState(
        view.volume.volume, view.volume.generation, cycle_through=through, rung=Rung.ALLOCATED.value
    )
    done = replace(running, applied_position=through, suspect_after=through, cycle_through=None)
    return Restore(Rung.ALLOCATED, running, done, None, reason)


def _settled(view: View, mark: int) -> bool:
    """Whether the log through `mark` holds every write that the site may have seen half of (invariant 8)."""
    if view.read_end is None or mark < view.read_end - 1:
        return False
    head = view.log.volume.head
    return head is None or head.settled_after(view.read_end, view.beats)


def _is_copy_of_all(kept: SecondaryState) -> bool:
    return kept.suspect_after is not None and kept.rung in (Rung.ALLOCATED, Rung.FULL)


def _consistent(kept: SecondaryState, position: int) -> SecondaryState:
    return replace(
        kept,
        applied_position=position,
        suspect_after=None,
        changed_through=None,
        consistent_position=position,
        rung=kept.rung or Rung.CHANGED,
    )


def _resting(kept: SecondaryState, is_sure: bool) -> SiteState:
    """is_sure: no host may still tell that the secondary has missed something up to the watermark."""
    if kept.cycle_through is not None:
        return SiteState.SYNCING
    return SiteState.CONSISTENT if is_sure and kept.suspect_after is None else SiteState.SETTLING
