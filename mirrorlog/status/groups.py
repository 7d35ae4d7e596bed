"""One row for each consistency group at each site: whether its secondaries are at one point.

A site's reports name the common point at which each secondary was when the report was published.
Members whose newest reports name the same one are consistent with each other, and a site that
doesn't live leaves them there. What isn't proved by all members together isn't claimed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mirrorlog.domain.replica_states import state_of_report
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume, members_of
from mirrorlog.status.health import Health
from mirrorlog.status.heard import Heard
from mirrorlog.status.sites import Life, SiteStatus

_LOOK_AT: Final = (SiteState.STOPPED, SiteState.DIVERGED, SiteState.UNKNOWN)
"""Of a secondary in such a state nobody knows whether it still is where it was."""
_WHAT_IT_NEEDS: Final = (
    "Run the site with `--consistency crash`, and the hosts with `mirrorlog host serve`: "
    "docs/operations.md says under 'Volumes that belong together' what else a group needs."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStatus:
    """One member, by the site's last report on it.

    state: a ReplicaState; None if it isn't known now. common_point_id, common_point_position: see
    SiteProgress; None if the report names none, or if there is no report.
    """

    volume: str
    state: str | None
    common_point_id: str | None
    common_point_position: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStatus:
    """What is known of the secondaries of one group at one site.

    members: those that weren't promoted at the site, by name.
    is_whole: whether all of them are at one common point now; None if nobody knows.
    common_point_id: the point that the last reports of all of them name; None if they don't.
    common_point_at_us, common_point_age_s: its time (SiteProgress), and how long ago that was.
    """

    group: str
    site: str
    health: Health
    members: Sequence[MemberStatus]
    is_whole: bool | None
    common_point_id: str | None
    common_point_at_us: int | None
    common_point_age_s: float | None
    reason: str | None
    next_action: str | None


@dataclass(frozen=True, slots=True)
class _Judgement:
    is_whole: bool | None
    health: Health
    reason: str | None = None
    next_action: str | None = None


def evaluate_groups(
    volumes: Mapping[str, Volume],
    reports: Iterable[Heard[SiteProgress]],
    sites: Sequence[SiteStatus],
    now_us: int,
    *,
    volume: str | None = None,
) -> list[GroupStatus]:
    """Return the rows of all groups at the sites that copy a member, by group and site. Pure.

    volumes: all, by name. reports: the newest of each site and volume. volume: leave out the groups
    of which it isn't a member.
    """
    reported = {(report.report.site, report.report.volume): report.report for report in reports}
    groups = {member.group for member in volumes.values() if member.group is not None}
    rows = []
    for group in sorted(groups):
        members = members_of(group, volumes.values())
        if volume is not None and volume not in [member.volume for member in members]:
            continue
        for site in sites:
            followed = [member for member in members if member.primary_site != site.site]
            known = [reported.get((site.site, member.volume)) for member in followed]
            if any(report is not None for report in known):
                rows.append(_row(group, site, list(zip(followed, known, strict=True)), now_us))
    return rows


def _row(
    group: str,
    site: SiteStatus,
    members: Sequence[tuple[Volume, SiteProgress | None]],
    now_us: int,
) -> GroupStatus:
    point = _common_point(members)
    judged = _judge(group, site, members, is_at_point=point is not None)
    at_us = None if point is None else point.common_point_at_us
    lives = site.life is Life.RUNNING
    return GroupStatus(
        group=group,
        site=site.site,
        health=judged.health,
        members=[
            MemberStatus(
                volume=volume.volume,
                state=str(state_of_report(report)) if report is not None and lives else None,
                common_point_id=None if report is None else report.common_point_id,
                common_point_position=None if report is None else report.common_point_position,
            )
            for volume, report in members
        ],
        is_whole=judged.is_whole,
        common_point_id=None if point is None else point.common_point_id,
        common_point_at_us=at_us,
        common_point_age_s=None if at_us is None else max(0.0, (now_us - at_us) / 1e6),
        reason=judged.reason,
        next_action=judged.next_action,
    )


def _common_point(members: Sequence[tuple[Volume, SiteProgress | None]]) -> SiteProgress | None:
    """Return a report that names the point which all members report; None if they don't."""
    first = members[0][1]
    if first is None or first.common_point_id is None:
        return None
    for volume, report in members:
        if report is None or report.generation != volume.generation:
            return None
        if report.common_point_id != first.common_point_id:
            return None
    return first


def _judge(
    group: str,
    site: SiteStatus,
    members: Sequence[tuple[Volume, SiteProgress | None]],
    *,
    is_at_point: bool,
) -> _Judgement:
    """Return whether the group is whole at the site, and what is to be done if it isn't."""
    if site.life is not Life.RUNNING:
        health = max(site.health, Health.WARNING, key=lambda option: option.severity)
        return _Judgement(None, health, site.reason, site.next_action)
    reports = [report for _, report in members if report is not None]
    why = next((report.group_reason for report in reports if report.group_reason is not None), None)
    if is_at_point:
        stopped = next((report for report in reports if report.state in _LOOK_AT), None)
        if stopped is None:
            health = Health.OK if why is None else Health.WARNING
            return _Judgement(True, health, why, None if why is None else _WHAT_IT_NEEDS)
        text = f"{stopped.volume} is {stopped.state}: {stopped.reason or 'the site says no more'}"
        return _Judgement(None, Health.WARNING, text, stopped.next_action)
    if why is not None:
        return _Judgement(False, Health.WARNING, why, _WHAT_IT_NEEDS)
    for volume, report in members:
        if report is None or report.generation != volume.generation or report.group != group:
            text = (
                f"the site hasn't reported on {volume.volume} as a member of the group yet, or is "
                "of an older release"
            )
            return _Judgement(None, Health.UNKNOWN, text)
    if any(report.state is SiteState.SYNCING for report in reports):
        return _Judgement(None, Health.OK, "a cycle of its members is applied now")
    text = "its members are at no common point yet"
    return _Judgement(False, Health.WARNING, text, _WHAT_IT_NEEDS)
