"""Which sites live: judged by their leases, never by reports that only say what was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mirrorlog.domain.site_leases import SiteLease
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.status.health import Health, Thresholds
from mirrorlog.status.heard import Heard, age_s
from mirrorlog.units import format_duration


class Life(StrEnum):
    """Whether a process is there, as far as the topics tell."""

    RUNNING = "RUNNING"
    STOPPED = "STOPPED"  # it said that it ends
    SILENT = "SILENT"  # it is dead, or can't reach Kafka
    UNKNOWN = "UNKNOWN"  # a site that has reports and no lease: of a release before leases


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStatus:
    """What is known of a site's process.

    host, pid, started_at_us: of the process that had the site last; None if nobody knows.
    heartbeat_age_s: the time since the site's newest lease.
    caught_up_age_s: the time since the site had last taken everything that the log held; None if
        the site doesn't say. At that time each volume without a newer report was as reported.
    volumes: how many of its volumes are in which reported state.
    """

    site: str
    health: Health
    life: Life
    host: str | None
    pid: int | None
    started_at_us: int | None
    heartbeat_age_s: float | None
    caught_up_age_s: float | None
    volumes: Mapping[str, int]
    reason: str | None
    next_action: str | None


def evaluate_sites(
    leases: Iterable[Heard[SiteLease]],
    reports: Iterable[Heard[SiteProgress]],
    now_us: int,
    thresholds: Thresholds,
) -> Sequence[SiteStatus]:
    """Return a row for each site that has a lease or a report, by name. Pure."""
    by_site = {lease.report.site: lease for lease in leases}
    states: dict[str, Counter[str]] = {site: Counter() for site in by_site}
    for report in reports:
        states.setdefault(report.report.site, Counter())[report.report.state] += 1
    return [
        _site_status(site, by_site.get(site), counts, now_us, thresholds)
        for site, counts in sorted(states.items())
    ]


def _site_status(
    site: str,
    lease: Heard[SiteLease] | None,
    counts: Mapping[str, int],
    now_us: int,
    thresholds: Thresholds,
) -> SiteStatus:
    volumes = dict(sorted(counts.items()))
    event = None if lease is None else lease.report
    heard_s = None if lease is None else age_s(lease, now_us)
    life, reason, next_action = _life_of(site, event, heard_s, thresholds)
    told_s = None if event is None else event.caught_up_age_s
    caught_up_s = None if told_s is None or heard_s is None else told_s + heard_s
    is_late = caught_up_s is not None and caught_up_s >= thresholds.warn_lag_s
    if life is Life.STOPPED and not volumes:
        health, next_action = Health.OK, None
    elif life is Life.RUNNING and is_late:
        health, reason, next_action = _late(site, caught_up_s or 0.0, thresholds)
    else:
        health = _health_of(life, heard_s, thresholds)
    return SiteStatus(
        site=site,
        health=health,
        life=life,
        host=None if event is None else event.host,
        pid=None if event is None else event.pid,
        started_at_us=None if event is None else event.started_at_us,
        heartbeat_age_s=heard_s,
        caught_up_age_s=caught_up_s,
        volumes=volumes,
        reason=reason,
        next_action=next_action,
    )


def _life_of(
    site: str, lease: SiteLease | None, heard_s: float | None, thresholds: Thresholds
) -> tuple[Life, str | None, str | None]:
    """Return whether the site lives, why that isn't so or isn't known, and what to do."""
    start = f"Start it: `mirrorlog site run {site} --dir DIR`."
    remove = f"If it never comes back, say `mirrorlog site remove {site}`."
    if lease is None:
        text = "the site has reports and no lease, so nobody knows whether it runs"
        return Life.UNKNOWN, text, f"{start} {remove}"
    if heard_s is None:
        text = "the progress topic holds the times of hosts, so nobody knows how old a lease is"
        return Life.UNKNOWN, text, "Run `mirrorlog topics create`."
    if lease.is_over:
        text = f"the site was stopped {format_duration(heard_s)} ago"
        return Life.STOPPED, text, f"{start} {remove}"
    if heard_s < thresholds.silent_after_s:
        return Life.RUNNING, None, None
    return (
        Life.SILENT,
        f"nothing was heard of the site for {format_duration(heard_s)}: it is dead, or can't reach "
        f"Kafka (last: {lease.describe()})",
        f"Look at {lease.host}, and start the site again. {remove}",
    )


def _late(
    site: str, caught_up_s: float, thresholds: Thresholds
) -> tuple[Health, str | None, str | None]:
    """Return the health of a site that runs and hasn't taken all of its log for a while."""
    return (
        thresholds.of_lag(caught_up_s),
        f"the site runs, and hasn't taken all that the log holds for {format_duration(caught_up_s)}"
        ": a partition has no worker, a worker hangs, one cycle takes that long, or the source of "
        "a mirror doesn't answer",
        "Look at the site's log. If it has several workers, look whether each of them goes on: "
        "kill one that hangs, and the others take its volumes. "
        f"`mirrorlog site run {site} --dir DIR --worker` starts one more.",
    )


def _health_of(life: Life, heard_s: float | None, thresholds: Thresholds) -> Health:
    if life is Life.RUNNING:
        return Health.OK
    if life is Life.UNKNOWN or heard_s is None:
        return Health.UNKNOWN
    return Health.CRITICAL if heard_s >= thresholds.crit_lag_s else Health.WARNING
