"""What may be said of a secondary that is to be promoted. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mirrorlog.consumers.resync.parting import continued_state
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.volumes import Volume
from mirrorlog.tracking_log.site_log import SiteLog


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondaryClaim:
    """The worth of a secondary that nobody writes to any more.

    consistent_position: it equals the primary as of this position; None: as of none.
    parted_position: at this position it held what the primary held, but for blocks that the log
        names above it. None: nobody knows in which blocks it differs.
    reason: why it isn't consistent; None if it is.
    """

    consistent_position: int | None
    parted_position: int | None
    reason: str | None


def claim_of(
    saved: SecondaryState | None, volume: Volume, log: SiteLog, *, doubt: str | None = None
) -> SecondaryClaim:
    """Return what the saved state of a secondary is worth.

    log: complete through the end of the commands when it was read. doubt: why the state isn't about
    what is there; None if it is (meeting.meet).
    """
    if doubt is not None or saved is None:
        return _unknown(doubt or "nothing is known of its contents")
    is_forked = log.fork is not None
    if saved.generation != volume.generation:
        continued = continued_state(saved, volume, is_forked=is_forked)
        if continued is None:
            return _unknown(f"its state is of generation {saved.generation}")
        saved = continued
    if saved.history_id is not None and volume.history_id not in (None, saved.history_id):
        return _unknown("its state is of another history of the partition")
    applied = saved.applied_position
    if applied is None:
        return _unknown("its first copy wasn't finished")
    if is_forked:
        return _claim_of_fork(saved, log)
    return _claim_by_cycles(saved, applied)


def _claim_by_cycles(saved: SecondaryState, applied: int) -> SecondaryClaim:
    """Return the claim of a secondary that its site alone has written to."""
    if saved.is_unproved_copy:
        return _unknown("the copy of all its blocks isn't proved yet")
    parted = applied if saved.suspect_after is None else min(applied, saved.suspect_after)
    if saved.consistent_position is not None:
        return SecondaryClaim(
            consistent_position=saved.consistent_position, parted_position=parted, reason=None
        )
    reason = "blocks that it copied aren't proved yet"
    if saved.cycle_through is not None:
        reason = f"a cycle through position {saved.cycle_through} was cut off"
    return SecondaryClaim(consistent_position=None, parted_position=parted, reason=reason)


def _claim_of_fork(saved: SecondaryState, log: SiteLog) -> SecondaryClaim:
    """Return the claim of a secondary to which hosts send writes themselves.

    It may hold writes that no command names, so nobody knows in which blocks others differ from it.
    """
    position = saved.consistent_position
    through = max((head.through for head in (log.volume.head, log.fork) if head), default=-1)
    if position is None or log.has_open_fork or log.missed(after=position, through=through):
        reason = "a fork wrote to it, and it may have missed earlier writes"
        return SecondaryClaim(consistent_position=None, parted_position=None, reason=reason)
    return SecondaryClaim(consistent_position=position, parted_position=None, reason=None)


def _unknown(reason: str) -> SecondaryClaim:
    return SecondaryClaim(consistent_position=None, parted_position=None, reason=reason)
