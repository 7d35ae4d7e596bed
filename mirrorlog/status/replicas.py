"""One row for each secondary: what its site reported, and what is known of that now.

A report says what was true when the site published it. A site publishes nothing of an idle volume,
so the age of a report proves nothing. What counts is the time at which the site had last taken
everything that the log held (SiteStatus.caught_up_age_s): a volume that lacked nothing then lacks
at most what was written since. A site that doesn't live proves nothing of now: its report is shown
as the past.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mirrorlog.domain.replica_states import state_of_report
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.status.health import Health, Thresholds
from mirrorlog.status.heard import Heard, age_s
from mirrorlog.status.sites import Life, SiteStatus
from mirrorlog.units import format_duration

_NEEDS_OPERATOR = "See what the site logs; docs/operations.md says what each reason means."


@dataclass(frozen=True, slots=True, kw_only=True)
class LagBounds:
    """How far a secondary lags now, in seconds. What isn't known is None.

    lag_s: the age of the oldest write that it lacks. at_least_s, at_most_s: bounds of it, if it
    isn't known itself.
    """

    lag_s: float | None = None
    at_least_s: float | None = None
    at_most_s: float | None = None


_NOT_KNOWN = LagBounds()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """What is known of one secondary now.

    site: None if no site mirrors the volume.
    state: a ReplicaState; None if it isn't known now. reported_state, report_age_s: what the site's
        last report said, as it was published, and how long ago.
    lag: see LagBounds. behind_blocks, behind_bytes: what it lacks of what the log names.
    in_sync_fraction: of the volume's bytes, 0 to 1.
    rate_bytes_s, eta_s: of the copy that runs.
    position: the site had read the log through it. applied_position, consistent_position: as in
        SiteProgress.
    heartbeat_age_s: the time since the newest sign of life of the site.
    last_verify_at_us, last_verify: the last comparison with the primary, and its result.
    group, common_point_id, common_point_position, common_point_at_us: as in SiteProgress.
    """

    volume: str
    site: str | None
    health: Health
    state: str | None
    reported_state: str | None
    report_age_s: float | None
    lag: LagBounds
    behind_bytes: int | None
    behind_blocks: int | None
    in_sync_fraction: float | None
    rate_bytes_s: float | None
    eta_s: float | None
    position: int | None
    applied_position: int | None
    consistent_position: int | None
    last_applied_at_us: int | None
    heartbeat_age_s: float | None
    last_verify_at_us: int | None
    last_verify: str | None
    rung: str | None
    reason: str | None
    next_action: str | None
    group: str | None
    common_point_id: str | None
    common_point_position: int | None
    common_point_at_us: int | None


def evaluate_replicas(
    volumes: Mapping[str, Volume],
    reports: Iterable[Heard[SiteProgress]],
    sites: Sequence[SiteStatus],
    now_us: int,
    thresholds: Thresholds,
) -> list[ReplicaStatus]:
    """Return the rows of all volumes at all sites, by volume and site. Pure.

    volumes: by name; a volume that isn't retired is expected at the sites that its description
    names, or at every site if it names none. reports: the newest of each site and volume. sites:
    of evaluate_sites.
    """
    by_site = {site.site: site for site in sites}
    rows: dict[tuple[str, str], ReplicaStatus] = {}
    for heard in reports:
        report = heard.report
        volume, site = volumes.get(report.volume), by_site[report.site]
        rows[report.volume, report.site] = _row(heard, volume, site, now_us, thresholds)
    unmirrored: list[ReplicaStatus] = []
    for name, volume in volumes.items():
        if volume.is_retired:
            continue
        expected = [site for site in sites if volume.is_expected_at(site.site)]
        if not expected and not any((name, site.site) in rows for site in sites):
            unmirrored.append(_unmirrored(volume))
        for site in expected:
            if (name, site.site) not in rows:
                rows[name, site.site] = _not_reported(volume, site)
    return sorted([*rows.values(), *unmirrored], key=lambda row: (row.volume, row.site or ""))


def _row(
    heard: Heard[SiteProgress],
    volume: Volume | None,
    site: SiteStatus,
    now_us: int,
    thresholds: Thresholds,
) -> ReplicaStatus:
    """Return the row of a secondary of which there is a report."""
    report, reported_s = heard.report, age_s(heard, now_us)
    is_current = volume is not None and report.generation == volume.generation
    lives = site.life is Life.RUNNING
    is_retired = volume is not None and volume.is_retired
    lag = _lag(report, reported_s, site) if is_current else _NOT_KNOWN
    is_known = is_current and lives and lag.lag_s is not None
    health, reason, next_action = _judge(report, volume, site, lag, thresholds)
    return ReplicaStatus(
        volume=report.volume,
        site=report.site,
        health=health,
        state=str(state_of_report(report)) if lives and (is_current or is_retired) else None,
        reported_state=str(report.state),
        report_age_s=reported_s,
        lag=lag,
        behind_bytes=report.behind_bytes if is_known else None,
        behind_blocks=report.behind_blocks if is_known else None,
        in_sync_fraction=_in_sync(report.behind_blocks, volume) if is_known else None,
        rate_bytes_s=report.rate_bytes_s if lives else None,
        eta_s=_eta_s(report, reported_s) if lives else None,
        position=report.watermark,
        applied_position=report.applied_position,
        consistent_position=report.consistent_position,
        last_applied_at_us=report.last_applied_at_us,
        heartbeat_age_s=site.heartbeat_age_s,
        last_verify_at_us=report.last_verified_at_us,
        last_verify=report.last_verify_result,
        rung=None if report.rung is None else str(report.rung),
        reason=reason,
        next_action=next_action,
        group=report.group,
        common_point_id=report.common_point_id,
        common_point_position=report.common_point_position,
        common_point_at_us=report.common_point_at_us,
    )


def _lag(report: SiteProgress, reported_s: float | None, site: SiteStatus) -> LagBounds:
    """Return how far the secondary lags now. reported_s: the age of the report."""
    if report.lag_s is None or reported_s is None:
        return _NOT_KNOWN
    is_running = site.life is Life.RUNNING
    if report.lag_s > 0:
        # Nothing newer was applied, or the site would have said so.
        lag_s = report.lag_s + reported_s
        return LagBounds(lag_s=lag_s) if is_running else LagBounds(at_least_s=lag_s)
    caught_up_s = site.caught_up_age_s
    # The report itself says as much, of the time when it was made.
    proved_s = reported_s if caught_up_s is None else min(reported_s, caught_up_s)
    if is_running and proved_s - (site.heartbeat_age_s or 0.0) < _CAUGHT_UP_S:
        return LagBounds(lag_s=0.0)
    return LagBounds(at_most_s=proved_s)


_CAUGHT_UP_S = 5.0
"""A site that caught up with the log this long before its lease follows it: rounds take less."""


def _judge(
    report: SiteProgress,
    volume: Volume | None,
    site: SiteStatus,
    lag: LagBounds,
    thresholds: Thresholds,
) -> tuple[Health, str | None, str | None]:
    """Return the health of a secondary, why it isn't better, and what to do."""
    if volume is None:
        text = "the site reports on a volume that isn't described"
        return Health.WARNING, text, "Look for it in `mirrorlog volume list`."
    if volume.is_retired:
        return Health.OK, report.reason or "the volume is retired", None
    if site.life is not Life.RUNNING:
        return max(site.health, Health.WARNING, key=_severity), site.reason, site.next_action
    if report.generation != volume.generation:
        text = "the site's report is of an earlier generation of the volume"
        return Health.UNKNOWN, text, "The site copies all of the volume; wait for its report."
    if report.state is SiteState.DETACHED:
        return Health.OK, report.reason, None
    if report.state in (SiteState.STOPPED, SiteState.DIVERGED):
        return Health.CRITICAL, report.reason, report.next_action or _NEEDS_OPERATOR
    if report.state is SiteState.UNKNOWN:
        text = "the site is of a newer release, and in a state that this one doesn't know"
        return Health.UNKNOWN, text, "Upgrade this program."
    health, why = _judge_lag(report, lag, thresholds)
    return health, why or report.reason, report.next_action


def _judge_lag(
    report: SiteProgress, lag: LagBounds, thresholds: Thresholds
) -> tuple[Health, str | None]:
    """Return the health of a secondary that its live site follows, and why it isn't better."""
    if lag.lag_s is None and lag.at_most_s is not None:
        health = Health.OK if lag.at_most_s < thresholds.warn_lag_s else Health.UNKNOWN
        return health, (
            f"the site is busy with other volumes, and looked at this one last "
            f"{format_duration(lag.at_most_s)} ago"
        )
    if lag.lag_s is None:
        why = "the volume has no entry in the log yet"
        if report.state is SiteState.SYNCING:
            why = "the first copy runs"
        return Health.WARNING, report.reason or f"how far it is behind isn't known: {why}"
    levels = {"lag": thresholds.of_lag(lag.lag_s)}
    if report.behind_bytes is not None:
        levels["behind"] = thresholds.of_behind(report.behind_bytes)
    return max(levels.values(), key=_severity), None


def _severity(health: Health) -> int:
    return health.severity


def _in_sync(behind_blocks: int | None, volume: Volume | None) -> float | None:
    if behind_blocks is None or volume is None or not volume.blocks:
        return None
    return max(0.0, 1.0 - behind_blocks / volume.blocks)


def _eta_s(report: SiteProgress, reported_s: float | None) -> float | None:
    """Return the seconds until the copy ends: those of the report, less its age."""
    if report.eta_s is None or reported_s is None:
        return None
    return max(0.0, report.eta_s - reported_s)


def _unmirrored(volume: Volume) -> ReplicaStatus:
    return _without_report(
        volume.volume,
        None,
        Health.WARNING,
        "no site mirrors the volume",
        "Start one: `mirrorlog site run SITE --dir DIR`.",
    )


def _not_reported(volume: Volume, site: SiteStatus) -> ReplicaStatus:
    """Return the row of a volume that a site hasn't reported on."""
    if site.life is Life.RUNNING:
        text = "the site hasn't reported on the volume yet"
        return _without_report(volume.volume, site, Health.UNKNOWN, text, None)
    health = max(site.health, Health.WARNING, key=_severity)
    return _without_report(volume.volume, site, health, site.reason, site.next_action)


def _without_report(
    volume: str,
    site: SiteStatus | None,
    health: Health,
    reason: str | None,
    next_action: str | None,
) -> ReplicaStatus:
    return ReplicaStatus(
        volume=volume,
        site=None if site is None else site.site,
        health=health,
        state=None,
        reported_state=None,
        report_age_s=None,
        lag=_NOT_KNOWN,
        behind_bytes=None,
        behind_blocks=None,
        in_sync_fraction=None,
        rate_bytes_s=None,
        eta_s=None,
        position=None,
        applied_position=None,
        consistent_position=None,
        last_applied_at_us=None,
        heartbeat_age_s=None if site is None else site.heartbeat_age_s,
        last_verify_at_us=None,
        last_verify=None,
        rung=None,
        reason=reason,
        next_action=next_action,
        group=None,
        common_point_id=None,
        common_point_position=None,
        common_point_at_us=None,
    )
