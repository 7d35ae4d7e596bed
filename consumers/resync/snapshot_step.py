"""The step of a secondary that reads its primary as of one position, as a pure function.

The site holds a snapshot that a host took at position P. The secondary has applied the log through
A, and the log is complete through W.

    W < P     the site waits: no block is read from the moving primary meanwhile
    P <= W    the blocks that the log names in (A, P] are read from the snapshot, and then the
              secondary equals the primary as of P

Why that is so, for each block: if the log names it in (A, P], it was read from the snapshot.
Otherwise some earlier cycle copied it last, from the primary as it was at a time t before the
snapshot. If the host had written to it between t and the snapshot, a batch that was closed after
that write names it, at or below P. If that batch lies above A, the block is named in (A, P]. If it
lies at or below A, a cycle copied the block after t. Both contradict what was assumed.

If the snapshot breaks, the rest is read from the primary. All blocks of (A, P] were then read at
the time of the snapshot or later, so P is applied, and unproved.
"""

from __future__ import annotations

from dataclasses import replace

from mirrorlog.consumers.resync.cycle_steps import (
    CycleInput,
    CycleStep,
    Idle,
    MarkConsistent,
    Resync,
)
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.domain.snapshots import SnapshotExport
from mirrorlog.domain.volumes import Volume
from mirrorlog.tracking_log.heads import VolumeHead


def snapshot_step(
    saved: SecondaryState, applied: int, watermark: int, cycle_input: CycleInput
) -> CycleStep | None:
    """Return the step that the snapshot of `cycle_input` makes possible; None if none.

    The log covers (applied, watermark] without a hole, in the generation and history of `saved`.
    """
    snapshot, is_suspect = cycle_input.snapshot, saved.suspect_after is not None
    if snapshot is None or max(applied, saved.cycle_through or applied) > snapshot.position:
        return None
    if saved.is_unproved_copy:
        return None  # a crash would forget that all of its blocks are unproved
    if watermark < snapshot.position:
        is_proved = not is_suspect and saved.cycle_through is None
        return Idle(SiteState.CONSISTENT if is_proved else SiteState.SETTLING)
    if not is_believed(snapshot, cycle_input):
        return None
    blocks = cycle_input.log.missed(after=applied, through=snapshot.position)
    proved = replace(
        saved,
        applied_position=snapshot.position,
        suspect_after=None,
        changed_through=None,
        cycle_through=None,
        consistent_position=snapshot.position,
        rung=Rung.CHANGED,
    )
    if not blocks:
        return MarkConsistent(proved) if is_suspect and saved.cycle_through is None else None
    running = replace(
        saved,
        suspect_after=saved.suspect_after if is_suspect else applied,
        cycle_through=snapshot.position,
        consistent_position=None,
        rung=Rung.CHANGED,
    )
    unproved = replace(running, applied_position=snapshot.position, cycle_through=None)
    return Resync(Rung.CHANGED, running, proved, blocks, None, unproved)


def is_believed(snapshot: SnapshotExport, cycle_input: CycleInput) -> bool:
    """Return whether the snapshot's position is one of the log, and nobody else wrote meanwhile.

    The log is complete through the position.
    """
    volume, log = cycle_input.volume, cycle_input.log
    if log.fork is not None:
        return False
    return disbelief(snapshot, volume, cycle_input.history_id, log.volume.head) is None


def disbelief(
    snapshot: SnapshotExport, volume: Volume, history_id: str | None, head: VolumeHead | None
) -> str | None:
    """Return why the snapshot may not be the volume as of its position; None if it is.

    history_id, head: of the log, which is complete through the position.
    """
    if (snapshot.generation, snapshot.history_id) != (volume.generation, history_id):
        return "its position is of another generation or history"
    if volume.shared or head is None:
        return "other hosts may write to the volume"
    others = [
        session.host
        for session in head.sessions
        if session.is_open and session.session != snapshot.session
    ]
    return f"host {others[0]} has an open session, too" if others else None
