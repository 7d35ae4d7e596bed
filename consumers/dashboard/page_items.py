"""What the page shows, as items: a pure function of reports and statuses.

An item holds times, and no ages: an age differs at each look although nothing happened, and each
item that differs is sent to every client. The page computes ages by the time of the last look.

A field that isn't known is left out. So is one that says nothing, such as the reason of a secondary
that is well: the items of 10,000 volumes are sent to each client that connects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from mirrorlog.domain.reports import HostState
from mirrorlog.domain.verifications import VerificationReport
from mirrorlog.domain.volumes import Volume
from mirrorlog.reading.present_state import PresentState
from mirrorlog.status.health import Health
from mirrorlog.status.heard import Heard
from mirrorlog.status.hosts import HostStatus
from mirrorlog.status.nodes import NodeStatus
from mirrorlog.status.overview import Overview
from mirrorlog.status.replicas import LagBounds, ReplicaStatus
from mirrorlog.status.sites import Life, SiteStatus

_US: Final = 1_000_000
_COPIED: Final = (
    *("state", "in_sync_fraction", "behind_bytes", "rate_bytes_s"),
    *("applied_position", "consistent_position", "last_applied_at_us"),
    *("last_verify", "last_verify_at_us"),
)
"""The fields of a ReplicaStatus that are shown as they are."""


class ItemKey(NamedTuple):
    """Names an item.

    kind: volume, site, host, node, group, archive, backup, summary, refused or quarantine.
    """

    kind: str
    name: str


Fields: TypeAlias = dict[str, Any]
"""What JSON can hold."""
PageItems: TypeAlias = dict[ItemKey, Fields]


def page_items(state: PresentState, overview: Overview) -> PageItems:
    """Return all items but those of the quarantine. overview: of that state."""
    items: PageItems = {}
    sites = {site.site: site for site in overview.sites}
    for site in overview.sites:
        items[ItemKey("site", site.site)] = site_fields(site, overview.at_us)
    for volume in state.volumes.values():
        items[ItemKey("volume", volume.volume)] = _volume_fields(volume)
    _add_cells(items, state, overview, sites)
    for host in overview.hosts:
        _add_host(items, host, overview.at_us)
    for node in overview.nodes:
        items[ItemKey("node", node.report.node)] = _node_fields(node)
    items |= _copy_items(overview)
    items[ItemKey("summary", "")] = _summary_fields(overview)
    return items


def _add_cells(
    items: PageItems, state: PresentState, overview: Overview, sites: Mapping[str, SiteStatus]
) -> None:
    """Add each secondary to the item of its volume, and its volume if it isn't described."""
    for row in overview.replicas:
        if row.site is None:
            continue
        key = ItemKey("volume", row.volume)
        if key not in items:
            items[key] = {"volume": row.volume, "state": None, "sites": {}}
        verification = state.verifications.get((row.site, row.volume))
        items[key]["sites"][row.site] = cell_fields(
            row, sites.get(row.site), verification, overview.at_us
        )


def _volume_fields(volume: Volume) -> Fields:
    fields = {
        "volume": volume.volume,
        "state": volume.state.value,
        "size_bytes": volume.size_bytes,
        "block_size": volume.block_size,
        "partition": volume.partition,
        "primary": volume.primary,
        "primary_site": volume.primary_site,
        "group": volume.group,
        "created_at_us": volume.created_at_us or None,
    }
    return _known(fields) | {"sites": {}}


def cell_fields(
    row: ReplicaStatus,
    site: SiteStatus | None,
    verification: Heard[VerificationReport] | None,
    now_us: int,
) -> Fields:
    """Return what the map and the volume's page show of one secondary.

    site: of the secondary; while it doesn't run, its own reason holds for all its secondaries.
    verification: the last one of it, if there was one.
    """
    runs = site is not None and site.life is Life.RUNNING
    fields: Fields = {"health": row.health.name}
    for name in _COPIED:  # there are many secondaries: a mapping more for each would show
        if (value := getattr(row, name)) is not None:
            fields[name] = value
    if row.eta_s:
        fields["ends_at_us"] = _moment(now_us + row.eta_s * _US)
    fields |= lag_fields(row.lag, now_us)
    if row.state is None and row.reported_state is not None:
        fields["reported_state"] = row.reported_state
        if row.report_age_s is not None:
            fields["reported_at_us"] = _moment(now_us - row.report_age_s * _US)
    if row.state is not None and row.state not in ("CONSISTENT", "BEHIND") and row.rung is not None:
        fields["rung"] = row.rung
    # A reason with an age in it would differ at each look.
    if runs and row.lag.at_most_s is None:
        fields |= _reason_fields(row)
    if verification is not None:
        fields["verification"] = _verification_fields(verification)
    return fields


def _reason_fields(row: ReplicaStatus) -> Fields:
    if row.reason is None and row.next_action is None:
        return {}
    return _known({"reason": row.reason, "next_action": row.next_action})


def lag_fields(lag: LagBounds, now_us: int) -> Fields:
    """Return how far a secondary lags: 0, or the time from which its lag counts.

    lag_s: 0 if it lacks nothing. lag_since_us: since when it lacks something; its lag is the time
    that has passed. at_least_since_us, at_most_since_us: the same as bounds. Nothing: unknown.
    """
    if lag.lag_s is not None:
        if lag.lag_s == 0:
            return {"lag_s": 0}
        return {"lag_since_us": _moment(now_us - lag.lag_s * _US)}
    if lag.at_least_s is not None:
        return {"at_least_since_us": _moment(now_us - lag.at_least_s * _US)}
    if lag.at_most_s is not None:
        return {"at_most_since_us": _moment(now_us - lag.at_most_s * _US)}
    return {}


def _verification_fields(heard: Heard[VerificationReport]) -> Fields:
    report = heard.report
    fields = {
        "state": report.state.value,
        "heard_at_us": heard.appended_at_us,
        "size_bytes": report.size_bytes,
        "reached_bytes": report.reached_bytes,
        "different_blocks": report.different_blocks,
        "skipped_bytes": report.skipped_bytes,
    }
    return _known(fields)


def site_fields(site: SiteStatus, now_us: int) -> Fields:
    """Return what the page shows of a site."""
    heard_s = site.heartbeat_age_s
    fields = {
        "site": site.site,
        "health": site.health.name,
        "life": site.life.value,
        "host": site.host,
        "pid": site.pid,
        "heard_at_us": None if heard_s is None else _moment(now_us - heard_s * _US),
        "volumes": dict(site.volumes),
        "reason": site.reason,
        "next_action": site.next_action,
    }
    return _known(fields)


def _add_host(items: PageItems, host: HostStatus, now_us: int) -> None:
    """Add a host to the items, and its state to the item of its volume.

    What a host reports of its queues changes all the time, and isn't shown.
    """
    report = host.report
    fields: Fields = {
        "host": report.host,
        "volume": report.volume,
        "health": host.health.name,
        "state": None if host.state is None else host.state.value,
        # The reason of a host that is silent has an age in it, which would differ at each look.
        "reason": None if host.state is None else host.reason,
        "next_action": host.next_action,
    }
    if host.state is None and host.heartbeat_age_s is not None:
        fields["heard_at_us"] = _moment(now_us - host.heartbeat_age_s * _US)
    if host.health is not Health.OK:
        items[ItemKey("host", f"{report.host}/{report.volume}")] = _known(fields)
    volume = items.get(ItemKey("volume", report.volume))
    if volume is not None and host.state is not HostState.CLOSED:
        seen = {name: fields[name] for name in ("host", "health", "state")}
        volume.setdefault("hosts", []).append(_known(seen))


def _node_fields(node: NodeStatus) -> Fields:
    fields = {
        "node": node.report.node,
        "health": node.health.name,
        "partitions": [part.partition for part in node.report.partitions],
        "lag_s": node.lag_s,
        "table_bytes": node.table_bytes,
        "reason": node.reason,
        "next_action": node.next_action,
    }
    return _known(fields)


def _copy_items(overview: Overview) -> PageItems:
    """Return the items of groups, archives and backups."""
    items: PageItems = {}
    for group in overview.groups:
        fields = {
            "group": group.group,
            "site": group.site,
            "health": group.health.name,
            "common_point_at_us": group.common_point_at_us,
            "members": [member.volume for member in group.members],
            "reason": group.reason,
            "next_action": group.next_action,
        }
        items[ItemKey("group", f"{group.group}/{group.site}")] = _known(fields)
    for archive in overview.archives:
        fields = {
            "archive": archive.report.archive,
            "health": archive.health.name,
            "behind_positions": archive.behind_positions,
            "at_us": archive.report.at_us,
            "reason": archive.reason,
            "next_action": archive.next_action,
        }
        items[ItemKey("archive", archive.report.archive)] = _known(fields)
    for backup in overview.backups:
        report = backup.report
        fields = {
            "volume": report.volume,
            "address": report.address,
            "health": backup.health.name,
            "point_at_us": report.point_at_us,
            "reason": backup.reason,
            "next_action": backup.next_action,
        }
        items[ItemKey("backup", f"{report.volume}/{report.address}")] = _known(fields)
    return items


def _summary_fields(overview: Overview) -> Fields:
    partitions = overview.partitions
    open_hosts = sum(host.state is HostState.OPEN for host in overview.hosts)
    fields = {
        "health": overview.health.name,
        "unmirrored": sum(row.site is None for row in overview.replicas),
        "open_hosts": None if overview.reports_error else open_hosts,
        "partitions_without_worker": None if partitions is None else list(partitions.missing),
        "partitions_reason": overview.reports_error if partitions is None else partitions.reason,
        "partitions_next_action": None if partitions is None else partitions.next_action,
        "unreadable_reports": overview.unreadable,
    }
    return _known(fields)


def _moment(at_us: float) -> int:
    """Return the time, rounded to tenths of a second.

    It is computed anew at each look, and the last digits of a float differ then.
    """
    return round(at_us / 100_000) * 100_000


def _known(fields: Mapping[str, Any]) -> Fields:
    """Return the fields without those that are None."""
    return {name: value for name, value in fields.items() if value is not None}
