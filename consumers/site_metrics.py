"""The metrics of a site: what it reported last of each secondary, and sums over all.

They are read from the reports, so a scrape computes nothing of the log and takes no lock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from mirrorlog import metrics
from mirrorlog.consumers.resync.known_group import GroupFigures
from mirrorlog.consumers.resync.log_lag import STALE_S
from mirrorlog.consumers.resync.reporting import ReportedReplica
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.metric_samples import MetricSample, MetricSamples, state_samples

_STATES: Final = tuple(state for state in SiteState if state is not SiteState.UNKNOWN)
_WELL: Final = (SiteState.CONSISTENT, SiteState.RETIRED, SiteState.DETACHED)
_UNFOLLOWED: Final = (SiteState.RETIRED, SiteState.DETACHED)


class ReportingSite(Protocol):
    """The part of Site that is needed (resync/site.py)."""

    @property
    def name(self) -> str:
        """The name of the site."""

    @property
    def worked_at_us(self) -> int:
        """When the site last did a round or copied a run of blocks."""

    def now_us(self) -> int:
        """Return the time by the site's clock, in microseconds since 1970."""

    def log_complete_us(self, partition: int) -> int | None:
        """Return when the log was last known to hold every command of the partition."""

    def reported(self) -> Sequence[ReportedReplica]:
        """Return all secondaries as they were reported last."""

    def group_figures(self) -> Sequence[GroupFigures]:
        """Return what is exported of each consistency group."""


def site_samples(site: ReportingSite, max_volumes: int) -> MetricSamples:
    """Yield the metrics of a site. Any thread may call it.

    max_volumes: how many volumes have series of their own. Those that aren't well come first, then
    the order is by name.
    """
    now_us = site.now_us()
    replicas = sorted(
        (
            _as_of_now(report, now_us, site.log_complete_us(report.partition))
            for report in site.reported()
        ),
        key=_severity,
    )
    listed = replicas[:max_volumes]
    yield MetricSample(metrics.SITE_HEARTBEAT, site.worked_at_us / 1e6, (site.name,))
    yield from _sums(site.name, replicas, unlisted=len(replicas) - len(listed))
    for replica in listed:
        yield from _replica(site.name, replica)
    by_volume = {replica.progress.volume: replica for replica in replicas}
    for group in sorted(site.group_figures(), key=_group_severity)[:max_volumes]:
        yield from _group(site.name, group, by_volume)


def _as_of_now(replica: ReportedReplica, now_us: int, complete_us: int | None) -> ReportedReplica:
    """Return what is known now of a secondary that was reported a while ago.

    complete_us: when the log was last known to hold every command. A secondary that lacked nothing
    of the log equalled the primary then. If that was long ago, nobody knows what it lacks.
    """
    progress = replica.progress
    consistent_at_us = replica.consistent_at_us
    if complete_us is not None and progress.state is SiteState.CONSISTENT and progress.lag_s == 0:
        consistent_at_us = max(complete_us, consistent_at_us or 0)
    if complete_us is None or now_us - complete_us > STALE_S * 1e6:
        progress = replace(progress, lag_s=None, behind_blocks=None, behind_bytes=None)
    return replace(replica, progress=progress, consistent_at_us=consistent_at_us)


def may_promote(replica: ReportedReplica) -> bool:
    """Return whether the secondary can be promoted without force."""
    progress = replica.progress
    return progress.consistent_position is not None and progress.state is not SiteState.STOPPED


def _severity(replica: ReportedReplica) -> tuple[bool, str]:
    return replica.progress.state in _WELL, replica.progress.volume


def _group_severity(group: GroupFigures) -> tuple[bool, str]:
    return group.is_at_point, group.name


def _group(
    site: str, group: GroupFigures, replicas: Mapping[str, ReportedReplica]
) -> Iterator[MetricSample]:
    """Yield the metrics of a consistency group. replicas: by volume."""
    labels = (site, group.name)
    at_us = _known_at_us(group, [replicas.get(name) for name in group.members])
    if at_us is not None:
        yield MetricSample(metrics.GROUP_COMMON_POINT, at_us / 1e6, labels)
    yield MetricSample(metrics.GROUP_WITHOUT_POINT, not group.is_at_point, labels)
    yield MetricSample(metrics.GROUP_POINTS, group.common_points, labels)
    yield MetricSample(metrics.GROUP_UNPROVED, group.unproved_cycles, labels)


def _known_at_us(group: GroupFigures, members: Sequence[ReportedReplica | None]) -> int | None:
    """Return the newest time as of which the members are known to be consistent with each other.

    While none lacks anything, all of them equal their primaries as of the earliest of the times at
    which each was known to do so.
    """
    if not group.is_at_point:
        return None
    times = list[int]()
    for member in members:
        if member is None or member.consistent_at_us is None:
            return group.common_point_at_us
        progress = member.progress
        if progress.state is not SiteState.CONSISTENT or progress.behind_blocks != 0:
            return group.common_point_at_us
        times.append(member.consistent_at_us)
    return max(min(times), group.common_point_at_us or 0)


def _is_lag_unknown(replica: ReportedReplica) -> bool:
    return replica.progress.lag_s is None and replica.progress.state not in _UNFOLLOWED


def _sums(site: str, replicas: Sequence[ReportedReplica], *, unlisted: int) -> MetricSamples:
    reports = [replica.progress for replica in replicas]
    states = Counter(progress.state for progress in reports)
    for state in _STATES:
        yield MetricSample(metrics.SITE_VOLUMES, states[state], (site, state))
    yield MetricSample(metrics.SITE_VOLUMES_UNLISTED, unlisted, (site,))
    lag_s = max((progress.lag_s or 0.0 for progress in reports), default=0.0)
    yield MetricSample(metrics.SITE_MAX_LAG, lag_s, (site,))
    yield MetricSample(metrics.SITE_LAG_UNKNOWN, sum(map(_is_lag_unknown, replicas)), (site,))
    behind_bytes = sum(progress.behind_bytes or 0 for progress in reports)
    yield MetricSample(metrics.SITE_BEHIND, behind_bytes, (site,))


def _replica(site: str, replica: ReportedReplica) -> Iterator[MetricSample]:
    progress, labels = replica.progress, (site, replica.progress.volume)
    state = progress.state
    yield from state_samples(metrics.REPLICA_STATE, state, _STATES, labels)
    number = metrics.REPLICA_STATE_NUMBERS.index(state)
    yield MetricSample(metrics.REPLICA_STATE_NUMBER, number, labels)
    if progress.lag_s is not None:
        yield MetricSample(metrics.REPLICA_LAG, progress.lag_s, labels)
    yield MetricSample(metrics.REPLICA_LAG_UNKNOWN, _is_lag_unknown(replica), labels)
    if progress.behind_bytes is not None:
        yield MetricSample(metrics.REPLICA_BEHIND, progress.behind_bytes, labels)
    yield MetricSample(metrics.REPLICA_SIZE, replica.size_bytes, labels)
    yield MetricSample(metrics.REPLICA_MAY_PROMOTE, may_promote(replica), labels)
    if progress.last_applied_at_us is not None:
        seconds = progress.last_applied_at_us / 1e6
        yield MetricSample(metrics.REPLICA_LAST_APPLIED, seconds, labels)
    if progress.eta_s is not None:
        yield MetricSample(metrics.REPLICA_ETA, progress.eta_s, labels)
    if replica.consistent_at_us is not None:
        seconds = replica.consistent_at_us / 1e6
        yield MetricSample(metrics.REPLICA_LAST_CONSISTENT, seconds, labels)
    rung = None if state in _WELL else progress.rung
    for step in Rung:
        yield MetricSample(metrics.REPLICA_RESYNC, step is rung, (*labels, step))
    yield MetricSample(metrics.REPLICA_COPIED, progress.bytes_copied, labels)
    yield MetricSample(metrics.REPLICA_COMPARED, replica.compared_bytes, labels)
    yield MetricSample(metrics.REPLICA_EQUAL, replica.equal_bytes, labels)
