"""The overview as JSON, and as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.output import Output
from mirrorlog.cli.support.tables import Column, print_table, table_lines
from mirrorlog.status.archives import ArchiveStatus
from mirrorlog.status.backups import BackupStatus
from mirrorlog.status.groups import GroupStatus
from mirrorlog.status.health import Health
from mirrorlog.status.hosts import HostStatus
from mirrorlog.status.nodes import NodeStatus
from mirrorlog.status.overview import Overview
from mirrorlog.status.replicas import ReplicaStatus
from mirrorlog.status.sites import SiteStatus
from mirrorlog.units import format_duration, format_size

_REPLICAS = (
    Column("VOLUME"),
    Column("SITE"),
    Column("STATE"),
    Column("LAG", right=True),
    Column("BEHIND", right=True),
    Column("IN-SYNC", right=True),
    Column("RATE", right=True),
    Column("ETA", right=True),
    Column("LAST APPLIED"),
    Column("REASON", wraps=True),
)
_SITES = (
    Column("SITE"),
    Column("PROCESS"),
    Column("HEARTBEAT", right=True),
    Column("MACHINE"),
    Column("VOLUMES", wraps=True),
    Column("REASON", wraps=True),
)
_UNKNOWN = "?"


def overview_fields(overview: Overview) -> dict[str, Any]:
    """Return the overview as `mirrorlog --json status` prints it. docs/status.md has the keys."""
    partitions, news = overview.partitions, overview.quarantine
    return {
        "schema_version": 1,
        "at": format_time(overview.at_us),
        "health": overview.health.name,
        "volumes": [replica_fields(row) for row in overview.replicas],
        "groups": [_group_fields(row) for row in overview.groups],
        "sites": [site_fields(row) for row in overview.sites],
        "hosts": [_host_fields(row) for row in overview.hosts],
        "nodes": [_node_fields(row) for row in overview.nodes],
        "archives": [_archive_fields(row) for row in overview.archives],
        "backups": [_backup_fields(row) for row in overview.backups],
        "partitions_without_worker": None if partitions is None else list(partitions.missing),
        "partitions_reason": overview.reports_error if partitions is None else partitions.reason,
        "quarantine": {
            "count": news.count,
            "newest_at": _time(news.newest_at_us),
            "reason": news.reason,
            "text": news.text,
            "partition": news.partition,
            "position": news.position,
        },
        "unreadable_reports": overview.unreadable,
    }


def replica_fields(row: ReplicaStatus) -> dict[str, Any]:
    """Return one secondary as JSON."""
    lag = row.lag
    return {
        "volume": row.volume,
        "site": row.site,
        "health": row.health.name,
        "state": row.state,
        "reported_state": row.reported_state,
        "report_age_s": row.report_age_s,
        "lag_s": lag.lag_s,
        "lag_at_least_s": lag.at_least_s,
        "lag_at_most_s": lag.at_most_s,
        "behind_bytes": row.behind_bytes,
        "behind_blocks": row.behind_blocks,
        "in_sync_fraction": row.in_sync_fraction,
        "rate_bytes_s": row.rate_bytes_s,
        "eta_s": row.eta_s,
        "position": row.position,
        "applied_position": row.applied_position,
        "consistent_position": row.consistent_position,
        "last_applied_at": _time(row.last_applied_at_us),
        "heartbeat_age_s": row.heartbeat_age_s,
        "last_verify_at": _time(row.last_verify_at_us),
        "last_verify": row.last_verify,
        "rung": row.rung,
        "reason": row.reason,
        "next_action": row.next_action,
        "group": row.group,
        "common_point_id": row.common_point_id,
        "common_point_position": row.common_point_position,
        "common_point_at": _time(row.common_point_at_us),
    }


def _group_fields(row: GroupStatus) -> dict[str, Any]:
    return {
        "group": row.group,
        "site": row.site,
        "health": row.health.name,
        "is_whole": row.is_whole,
        "common_point_id": row.common_point_id,
        "common_point_at": _time(row.common_point_at_us),
        "common_point_age_s": row.common_point_age_s,
        "members": [asdict(member) for member in row.members],
        "reason": row.reason,
        "next_action": row.next_action,
    }


def site_fields(row: SiteStatus) -> dict[str, Any]:
    """Return one site as JSON."""
    return {
        "site": row.site,
        "health": row.health.name,
        "process": row.life,
        "host": row.host,
        "pid": row.pid,
        "started_at": _time(row.started_at_us),
        "heartbeat_age_s": row.heartbeat_age_s,
        "caught_up_age_s": row.caught_up_age_s,
        "volumes": row.volumes,
        "reason": row.reason,
        "next_action": row.next_action,
    }


def _host_fields(row: HostStatus) -> dict[str, Any]:
    fields = asdict(row.report)
    for name in ("started_at_us", "at_us", "away_since_us"):
        fields[name.removesuffix("_us")] = _time(fields.pop(name))
    states = {"state": row.state, "reported_state": row.report.state}
    return fields | states | _judgement(row)


def _node_fields(row: NodeStatus) -> dict[str, Any]:
    fields = asdict(row.report)
    for name in ("started_at_us", "at_us"):
        fields[name.removesuffix("_us")] = _time(fields.pop(name))
    for part in fields["partitions"]:
        del part["oldest_record_at_us"]  # no release of the node fills it
        part["reported_state"] = part["state"]
        if row.is_silent:
            part |= {"state": None, "lag_s": None, "behind_commands": None, "commands_end": None}
    totals = {
        "lag_s": row.lag_s,
        "behind_commands": row.behind_commands,
        "table_bytes": row.table_bytes,
    }
    return fields | totals | _judgement(row)


def _archive_fields(row: ArchiveStatus) -> dict[str, Any]:
    fields = asdict(row.report)
    fields["at"] = _time(fields.pop("at_us"))
    return fields | {"behind_positions": row.behind_positions} | _judgement(row)


def _backup_fields(row: BackupStatus) -> dict[str, Any]:
    fields = asdict(row.report)
    for name in ("at", "point_at", "written_at"):
        fields[name] = _time(fields.pop(f"{name}_us"))
    return fields | {
        "point_age_s": row.point_age_s,
        "report_age_s": row.report_age_s,
        "health": row.health.name,
        "health_reason": row.reason,
        "next_action": row.next_action,
    }


def _judgement(row: HostStatus | NodeStatus | ArchiveStatus) -> dict[str, Any]:
    return {
        "health": row.health.name,
        "heartbeat_age_s": row.heartbeat_age_s,
        "reason": row.reason,
        "next_action": row.next_action,
    }


def print_overview(output: Output, overview: Overview) -> None:
    """Print the overview for people."""
    print_table(output, _REPLICAS, [replica_cells(row) for row in overview.replicas])
    for line in summary_lines(overview):
        output.print_text(line)


def print_sites(output: Output, sites: Sequence[SiteStatus]) -> None:
    """Print sites for people."""
    print_table(output, _SITES, [_site_cells(row) for row in sites])


def replica_cells(row: ReplicaStatus) -> list[str]:
    """Return the cells of one secondary."""
    state = row.state or _UNKNOWN
    if row.state is None and row.reported_state is not None and row.report_age_s is not None:
        state = f"{_UNKNOWN} ({row.reported_state} {format_duration(row.report_age_s)} ago)"
    in_sync = row.in_sync_fraction
    return [
        row.volume,
        row.site or "-",
        state,
        _lag_cell(row),
        _UNKNOWN if row.behind_bytes is None else format_size(row.behind_bytes),
        # 100 % only if nothing is missing.
        _UNKNOWN if in_sync is None else f"{int(in_sync * 1000) / 10:.1f} %",
        "-" if row.rate_bytes_s is None else f"{format_size(row.rate_bytes_s)}/s",
        "-" if row.eta_s is None else format_duration(row.eta_s),
        _local(row.last_applied_at_us),
        " ".join(filter(None, (row.reason, row.next_action))),
    ]


def _lag_cell(row: ReplicaStatus) -> str:
    lag = row.lag
    if lag.lag_s is not None:
        return format_duration(lag.lag_s)
    if lag.at_least_s is not None:
        return f"> {format_duration(lag.at_least_s)}"
    return _UNKNOWN if lag.at_most_s is None else f"< {format_duration(lag.at_most_s)}"


def _site_cells(row: SiteStatus) -> list[str]:
    age_s = row.heartbeat_age_s
    return [
        row.site,
        row.life,
        _UNKNOWN if age_s is None else f"{format_duration(age_s)} ago",
        _UNKNOWN if row.host is None else f"{row.host} ({row.pid})",
        _counts(row.volumes),
        " ".join(filter(None, (row.reason, row.next_action))),
    ]


def summary_lines(overview: Overview) -> Iterable[str]:
    """Yield what is below the table: groups, sites, hosts, the node, the quarantine."""
    for group in overview.groups:
        name = f"group {group.group} at {group.site}"
        yield _line(name, group.health, _group_text(group), group)
    for site in overview.sites:
        yield _line(f"site {site.site}", site.health, f"{site.life}, {_counts(site.volumes)}", site)
    for host in overview.hosts:
        report = host.report
        state = host.state or f"{_silence(host.heartbeat_age_s)} (last: {report.state})"
        text = (
            f"{state}, {report.hot_regions} hot regions, spool "
            f"{format_size(report.spool_bytes)}, queue {format_size(report.queued_bytes)}"
        )
        yield _line(f"host {report.host} on {report.volume}", host.health, text, host)
    for node in overview.nodes:
        numbers = ", ".join(str(part.partition) for part in node.report.partitions) or "none"
        lag = _UNKNOWN if node.lag_s is None else format_duration(node.lag_s)
        table = _UNKNOWN if node.table_bytes is None else format_size(node.table_bytes)
        silence = f"{_silence(node.heartbeat_age_s)}, " if node.is_silent else ""
        text = f"{silence}partitions {numbers}; lag {lag}, table {table}"
        yield _line(f"node {node.report.node}", node.health, text, node)
    yield from _copy_lines(overview)
    partitions = overview.partitions
    if partitions is None:
        yield f"hosts and node: unknown: {overview.reports_error}"
    elif partitions.reason:
        yield f"node: {partitions.health.name}: {partitions.reason}. {partitions.next_action}"
    news = overview.quarantine
    if news.count:
        newest = f"; the newest at {_local(news.newest_at_us)}: {news.reason}: {news.text}"
        yield f"quarantine: {news.count} refused events{newest if news.newest_at_us else ''}"
    if overview.unreadable:
        yield f"{overview.unreadable} reports can't be read: damaged, or of a newer release"
    yield f"everything together: {overview.health.name}"


def _copy_lines(overview: Overview) -> Iterable[str]:
    """Yield the lines of archives and backups."""
    for archive in overview.archives:
        yield _line(
            f"archive {archive.report.archive}", archive.health, _archive_text(archive), archive
        )
    for backup in overview.backups:
        name = f"backup of {backup.report.volume} to {backup.report.address}"
        yield _line(name, backup.health, _backup_text(backup), backup)


def _group_text(row: GroupStatus) -> str:
    """Return where the members of a group are."""
    places = [(member.volume, member.common_point_position) for member in row.members]
    members = ", ".join(
        f"{name} {_UNKNOWN if position is None else f'@{position}'}" for name, position in places
    )
    if row.common_point_id is None:
        where = "at no common point" if row.is_whole is False else f"common point {_UNKNOWN}"
    else:
        age_s, verb = row.common_point_age_s, "at" if row.is_whole else "reported at"
        when = "an unknown time"
        if age_s is not None:
            when = f"{_local(row.common_point_at_us)}, {format_duration(age_s)} ago"
        where = f"{verb} one common point of {when}"
    return f"{where}: {members}"


def _archive_text(row: ArchiveStatus) -> str:
    behind = row.behind_positions
    how_far = "how far it is isn't known"
    if behind is not None:
        how_far = "all that was recorded" if behind == 0 else f"{behind} positions behind"
    return f"{how_far} at {_local(row.report.at_us)}"


def _backup_text(row: BackupStatus) -> str:
    report = row.report
    if report.point is None:
        return "no point yet"
    age = _UNKNOWN if row.point_age_s is None else f"{format_duration(row.point_age_s)} old"
    kind = "" if report.is_consistent else "inconsistent, "
    as_of = "" if report.point_at_us is None else f", as of {_local(report.point_at_us)}"
    return f"{kind}last point {report.point}, {age}{as_of}"


def _line(
    name: str,
    health: Health,
    text: str,
    row: GroupStatus | SiteStatus | HostStatus | NodeStatus | ArchiveStatus | BackupStatus,
) -> str:
    more = "" if row.reason is None else f": {row.reason}. {row.next_action or ''}".rstrip()
    return f"{name}: {health.name}, {text}{more}"


def _silence(heard_s: float | None) -> str:
    """Return what is shown instead of the state of a process that may be dead."""
    return _UNKNOWN if heard_s is None else f"silent for {format_duration(heard_s)}"


def _counts(volumes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in volumes.items()) or "no volumes"


def _time(at_us: int | None) -> str | None:
    return None if at_us is None else format_time(at_us)


def _local(at_us: int | None) -> str:
    if at_us is None:
        return "-"
    try:
        return f"{datetime.fromtimestamp(at_us // 1_000_000, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (OverflowError, ValueError):
        return _UNKNOWN


def watch_lines(overview: Overview, *, width: int, height: int) -> list[str]:
    """Return at most `height` lines for a terminal, the secondaries that aren't well first."""
    summary = list(summary_lines(overview))[-max(3, height // 3) :]
    rows = sorted(overview.replicas, key=lambda row: -row.health.severity)
    cells = [replica_cells(row) for row in rows[:height]]
    lines = list(table_lines(_REPLICAS, cells, width))
    room = max(height - len(summary) - 2, 1)
    if len(lines) > room:
        lines = [*lines[:room], f"… of {len(rows)} secondaries"]
    return [*lines, "", *summary][:height]
