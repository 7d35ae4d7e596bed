"""What a site does next with one secondary: a pure function of what it keeps, what it has read of the log, and nothing else.

State of the secondary, from what is kept durably (SecondaryState) and from the log through the watermark W:

    nothing kept ─┬─ begin: new, both sides known to be zeros ──────────────┐
                  └─ restore allocated/full ──▶ SYNCING ──▶ SETTLING        ▼
    CONSISTENT ──── the log names blocks in (applied, W] ──▶ BEHIND ── restore changed ──▶ SYNCING ──▶ SETTLING
    SETTLING ─┬─ prove: settled at W, nothing that was read appears in (applied, W] ──▶ CONSISTENT or BEHIND
              └─ the log names more ── restore changed ──▶ SYNCING
    any ─── a hole in the log, or another generation ──▶ restore allocated/full (loud) ──▶ SYNCING
    any ─── an error of a device ──▶ STOPPED, tried again later; the others go on
    any ─── the volume is retired ──▶ RETIRED: what the secondary holds stays, and what it is worth

Rules:
- A cycle that died begins again from the applied position and covers at least what it covered (invariants 6, 8).
- A log that ends below what the secondary reached lost something: the site stops there and says so (invariant 7).
- "Settled at W": every open session closed a batch after the site's last read, and the log holds it (invariant 8).
- The next cycle may begin before the last one is proved; what was read since the last proof stays suspect. Only a copy
  of everything is proved first, because everything is suspect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from mirrorlog.bitmaps import BitMap64
from mirrorlog.consumers.secondary_state import SecondaryState
from mirrorlog.progress import Rung, SiteState
from mirrorlog.tracking_log import VolumeLog
from mirrorlog.volumes import Volume


@dataclass(frozen=True, slots=True)
class View:
    """What the site knows of one volume beside what it keeps.

    watermark: the log was read completely through it; None before the first.
    read_end: end of the commands topic asked after the last read of the primary; None until it was asked.
    beats: by session, the position that it knew as acknowledged at its last heartbeat in the volume's partition.
    secondary_zeroed: the secondary is known to read as zeros from end to end.
    """

    volume: Volume
    log: VolumeLog
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
class Rest:
    """Nothing to do until the log says more."""

    state: SiteState
    reason: str | None = None


Step: TypeAlias = Begin | Restore | Prove | Rest


def next_step(kept: SecondaryState | None, view: View) -> Step:
    """The next step for one secondary."""
    volume, mark = view.volume, view.watermark
    if volume.is_retired:
        return Rest(SiteState.RETIRED, f"the volume was retired at position {volume.described_position}")
    if kept is None:
        if volume.initially_zeroed and view.secondary_zeroed:
            return Begin(_consistent(SecondaryState(volume.volume, volume.generation), volume.origin_position))
        return _copy_all(view, "nothing is known of the secondary's contents")
    if kept.generation != volume.generation:
        return _copy_all(view, f"the generation changed from {kept.generation} to {volume.generation}")
    if kept.applied_position is None:
        return _copy_all(view, "the initial copy wasn't finished")
    reached = max(kept.applied_position, kept.cycle_through or kept.applied_position)
    if mark is None or mark < reached:
        if reached == volume.origin_position:
            return Rest(_resting(kept))
        return Rest(SiteState.STOPPED, f"the log ends at {mark}, and the secondary has reached {reached}")
    if hole := view.log.hole(kept.applied_position, mark):
        reason = f"the log has a hole: positions {hole.after + 1} to {hole.through} are covered by no record"
        return _copy_all(view, reason)
    return _changed(kept, kept.applied_position, mark, view)


def _changed(kept: SecondaryState, applied: int, mark: int, view: View) -> Step:
    pending = view.log.changed(applied, mark)
    settled = _settled(view, mark)
    if kept.cycle_through is None and kept.suspect_after is not None and settled:
        if not pending:
            return Prove(_consistent(kept, mark))
        # Where the log no longer has all of what was read, nothing can be proved by it.
        read_again = (
            view.log.hole(kept.suspect_after, applied) or view.log.changed(kept.suspect_after, applied) & pending
        )
        if not _is_copy_of_all(kept) and not read_again:
            return Prove(_consistent(kept, applied))
    if not pending and kept.cycle_through is None:
        return Rest(_resting(kept))
    if kept.cycle_through is None and _is_copy_of_all(kept) and not settled:
        return Rest(SiteState.SETTLING)
    proved = kept.suspect_after is None or (settled and kept.cycle_through is None)
    suspect_after = applied if proved else kept.suspect_after
    running = replace(
        kept, suspect_after=suspect_after, cycle_through=mark, consistent_position=None, rung=Rung.CHANGED
    )
    done = replace(running, applied_position=mark, cycle_through=None)
    return Restore(Rung.CHANGED, running, done, pending, None)


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
    return view.log.head is None or view.log.head.settled_after(view.read_end, view.beats)


def _is_copy_of_all(kept: SecondaryState) -> bool:
    return kept.suspect_after is not None and kept.rung in (Rung.ALLOCATED, Rung.FULL)


def _consistent(kept: SecondaryState, position: int) -> SecondaryState:
    return replace(
        kept,
        applied_position=position,
        suspect_after=None,
        consistent_position=position,
        rung=kept.rung or Rung.CHANGED,
    )


def _resting(kept: SecondaryState) -> SiteState:
    if kept.cycle_through is not None:
        return SiteState.SYNCING
    return SiteState.SETTLING if kept.suspect_after is not None else SiteState.CONSISTENT
