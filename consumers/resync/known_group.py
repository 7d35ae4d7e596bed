"""KnownGroup: what a site knows of one consistency group while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mirrorlog.consumers.resync.group_step import CommonMoment, MemberView, keeps_point
from mirrorlog.consumers.resync.retry_pace import RetryPace
from mirrorlog.consumers.resync.secondaries import TakenSnapshot
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.volumes import Volume

_FIRST_RETRY_S: Final = 3.0
"""How long a site asks for no snapshots of a group after they were refused once."""
_MOST_RETRY_S: Final = 30.0
"""The same while they are refused again and again: each attempt keeps the writers waiting."""


_MOST_STAGING_S: Final = 16.0
"""How long a site stages nothing from primaries without snapshots that are written to all the time:
each attempt reads what changed, and writes it to the journals."""
LEAST_STAGING_S: Final = 1.0
"""The time between two attempts to read a group without snapshots, at least."""


def _staging_pace() -> RetryPace:
    return RetryPace(first_s=LEAST_STAGING_S, most_s=_MOST_STAGING_S)


def _snapshot_pace() -> RetryPace:
    return RetryPace(first_s=_FIRST_RETRY_S, most_s=_MOST_RETRY_S)


@dataclass(slots=True)
class GroupCycle:
    """A cycle of a group that isn't applied yet.

    moment: of its common point. saved: by volume, the description and the state when it began.
    taken: by volume, the snapshots to read; none if the primaries themselves were read into the
    journals. until_s: when to give the snapshots up if the log hasn't reached them.
    """

    moment: CommonMoment
    saved: Mapping[str, tuple[Volume, SecondaryState | None]]
    taken: Mapping[str, TakenSnapshot]
    until_s: float


@dataclass(slots=True)
class KnownGroup:
    """What is known of one group. members: the volumes, sorted by name.

    refusal: why there were no snapshots at the last attempt; None if there were, or if it is time
    to try again (snapshots). staging: when the primaries themselves may be staged again.
    due_s: when the next cycle may begin. told: the reason that was logged last. common_points,
    unproved_cycles: how many cycles ended at a common point, and without one.
    """

    name: str
    members: Sequence[Volume] = ()
    cycle: GroupCycle | None = None
    refusal: str | None = None
    snapshots: RetryPace = field(default_factory=_snapshot_pace)
    staging: RetryPace = field(default_factory=_staging_pace)
    due_s: float = 0.0
    told: str | None = None
    common_points: int = 0
    unproved_cycles: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFigures:
    """What is exported of one group.

    members: the volumes whose secondaries belong to it: those that weren't promoted at the site.
    is_at_point: all of these are at one common point. common_point_at_us: its time (CommonPoint);
    None if there is none, or if nobody knows.
    common_points, unproved_cycles: see KnownGroup, since the site's start.
    """

    name: str
    members: Sequence[str]
    is_at_point: bool
    common_point_at_us: int | None
    common_points: int
    unproved_cycles: int


def figures_of(group: KnownGroup, views: Sequence[MemberView]) -> GroupFigures:
    """Return the figures of a group. views: of its members."""
    followed = [view for view in views if not view.is_promoted_here]
    is_at_point = keeps_point(views) and all(view.is_met for view in followed)
    saved = followed[0].saved if is_at_point else None
    point = None if saved is None else saved.common_point
    return GroupFigures(
        name=group.name,
        members=[view.volume.volume for view in followed],
        is_at_point=is_at_point,
        common_point_at_us=None if point is None else point.at_us,
        common_points=group.common_points,
        unproved_cycles=group.unproved_cycles,
    )
