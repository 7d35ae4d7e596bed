"""The report that a site publishes about each of its secondaries."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mirrorlog.domain.volumes import check_name


class SiteState(StrEnum):
    """The state of one secondary, as its site publishes it.

    consumers/resync/cycle.py holds the transitions, and replica_states.py what people see.

    The schema also has the symbol BEHIND, which no site reports: a site that sees newer changes
    copies them at once, and is SYNCING. It is read as UNKNOWN.
    """

    WAITING = "WAITING"  # the log has no entry of the volume yet
    SYNCING = "SYNCING"  # a resync runs: the secondary is inconsistent
    # Applied, but the primary moved while its blocks were read: consistency isn't proved yet.
    SETTLING = "SETTLING"
    # It equals the primary as of the applied position, and the log names nothing newer.
    CONSISTENT = "CONSISTENT"
    STOPPED = "STOPPED"  # after an error, which `reason` names
    RETIRED = "RETIRED"  # the volume is retired: the secondary stays as it was
    # It was the primary before a promotion, and hasn't rejoined: the site keeps off it.
    DIVERGED = "DIVERGED"
    DETACHED = "DETACHED"  # it was promoted: it is the primary now, and the site keeps off it
    UNKNOWN = "UNKNOWN"  # what an older reader sees of a state that it doesn't know


class Rung(StrEnum):
    """The way in which a resync chooses its blocks (invariant 7).

    The next rung is taken where the one before can't be trusted: the blocks that the log names,
    the allocated blocks, all blocks.
    """

    CHANGED = "changed"
    ALLOCATED = "allocated"
    FULL = "full"


def is_behind_known(
    state: SiteState, *, applied_position: int | None, watermark: int | None
) -> bool:
    """Return whether a report with these fields can say how far the secondary is behind.

    It can't of a secondary that is STOPPED (its device may have lost anything), RETIRED or WAITING,
    before the first copy of the whole volume has ended, and where the log isn't complete up to
    `applied_position`.
    """
    return (
        state in (SiteState.SYNCING, SiteState.SETTLING, SiteState.CONSISTENT)
        and applied_position is not None
        and watermark is not None
        and watermark >= applied_position
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteProgress:
    """The report of one secondary.

    applied_position: the secondary holds every change up to it, durably. While the log names no
        newer change, the report may name the watermark, which isn't saved. So the report of a
        later cycle may name a lower position.
    consistent_position: the position at which it equals the primary, by proof. None while a cycle
        runs or blocks are unproved: it then equals the primary at no known position.
    watermark: the position through which the site had read the log when it reported.
    behind_blocks, behind_bytes: what the log names and the secondary doesn't hold yet. None if
        that isn't known (is_behind_known).
    lag_s: the age of the oldest write among them, 0 for none. None if that isn't known.
    blocks_copied, bytes_copied: of this site's process since its start.
    reason: why the secondary is STOPPED, RETIRED or WAITING, what the log lacks, or why a rung
        above CHANGED was taken, until it is consistent again.
    secondary_id: what a host that forks its writes must find at the secondary (docs/
        forked-writes.md). None while the site hasn't met the secondary, and from older sites.
    rate_bytes_s: what the copy that runs has copied per second in its last seconds. None if none
        runs, or if it is too young to tell.
    eta_s: the seconds until that copy ends at this rate. None if nobody knows.
    last_applied_at_us: when the site last saved a new applied position, by its clock.
    next_action: what an operator can do; None if nothing is to be done, and from older sites.
    last_verified_at_us, last_verify_result: when the secondary was last compared with the primary,
        and what that found. None if it never happened.
    group: the volume's consistency group, as the site knows it. None if it is in none, and from
        older sites, as all that follows.
    group_reason: why the group reaches no new common point at the site; None if it does.
    common_point_id: the UUID of the common point at which the secondary is. Members of the group
        that report the same one are consistent with each other. None if it is at none.
    common_point_position: the volume's position at that point.
    common_point_at_us: every write that was acknowledged before this time, by the site's clock, is
        in the common point. None if that time isn't known.
    """

    site: str
    volume: str
    generation: str
    state: SiteState
    rung: Rung | None
    applied_position: int | None
    consistent_position: int | None
    watermark: int | None
    behind_blocks: int | None
    behind_bytes: int | None
    lag_s: float | None
    blocks_copied: int
    bytes_copied: int
    at_us: int
    reason: str | None = None
    secondary_id: str | None = None
    rate_bytes_s: float | None = None
    eta_s: float | None = None
    last_applied_at_us: int | None = None
    next_action: str | None = None
    last_verified_at_us: int | None = None
    last_verify_result: str | None = None
    group: str | None = None
    group_reason: str | None = None
    common_point_id: str | None = None
    common_point_position: int | None = None
    common_point_at_us: int | None = None


def check_site_name(name: str) -> str:
    """Return `name`. Raise BadUse if it can't be part of topic keys and file names."""
    return check_name(name, "a site")
