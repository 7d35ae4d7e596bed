"""The health of everything together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mirrorlog.reading.present_state import PresentState
from mirrorlog.status.archives import ArchiveStatus, evaluate_archives
from mirrorlog.status.backups import BackupStatus, evaluate_backups
from mirrorlog.status.groups import GroupStatus, evaluate_groups
from mirrorlog.status.health import Health, Thresholds, worst
from mirrorlog.status.hosts import HostStatus, evaluate_hosts
from mirrorlog.status.nodes import (
    NodeStatus,
    PartitionCare,
    evaluate_nodes,
    evaluate_partitions,
)
from mirrorlog.status.replicas import ReplicaStatus, evaluate_replicas
from mirrorlog.status.sites import SiteStatus, evaluate_sites
from mirrorlog.status.verified import with_verifications


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineNews:
    """The refused events. count: at most so many are kept. The rest is of the newest, if any."""

    count: int
    newest_at_us: int | None = None
    reason: str | None = None
    text: str | None = None
    partition: int | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All rows. partitions: None if the reports of workers can't be read (reports_error).

    unreadable: the number of reports and leases that can't be read.
    """

    at_us: int
    replicas: Sequence[ReplicaStatus]
    groups: Sequence[GroupStatus]
    sites: Sequence[SiteStatus]
    hosts: Sequence[HostStatus]
    nodes: Sequence[NodeStatus]
    archives: Sequence[ArchiveStatus]
    backups: Sequence[BackupStatus]
    partitions: PartitionCare | None
    quarantine: QuarantineNews
    unreadable: int
    reports_error: str | None
    health: Health


def evaluate(
    state: PresentState,
    quarantine: QuarantineNews,
    *,
    partition_count: int,
    now_us: int,
    thresholds: Thresholds,
    volume: str | None = None,
    site: str | None = None,
) -> Overview:
    """Return the overview of the present state. Pure.

    volume, site: leave out the rows of others; the node, archives and backups count for all sites.
    """
    heard = state.secondaries.values()
    sites = evaluate_sites(state.leases.values(), heard, now_us, thresholds)
    sites = [place for place in sites if site in (None, place.site)]
    volumes = {
        name: described for name, described in state.volumes.items() if volume in (None, name)
    }
    reports = (
        report
        for report in heard
        if volume in (None, report.report.volume) and site in (None, report.report.site)
    )
    replicas = with_verifications(
        evaluate_replicas(volumes, reports, sites, now_us, thresholds),
        volumes,
        state.verifications.values(),
        now_us,
    )
    groups = evaluate_groups(state.volumes, heard, sites, now_us, volume=volume)
    host_reports = (host for host in state.hosts.values() if volume in (None, host.report.volume))
    hosts = evaluate_hosts(host_reports, now_us, thresholds)
    nodes = evaluate_nodes(state.nodes.values(), now_us, thresholds)
    archives = evaluate_archives(state.archives.values(), now_us)
    backup_reports = (row for row in state.backups.values() if volume in (None, row.report.volume))
    backups = evaluate_backups(backup_reports, state.volumes, now_us)
    partitions = None
    if state.reports_error is None:
        partitions = evaluate_partitions(nodes, partition_count)
    levels = [row.health for row in replicas]
    levels += [row.health for row in groups]
    levels += [row.health for row in sites]
    levels += [row.health for row in hosts]
    levels += [node.health for node in nodes if node.report.partitions]
    levels += [archive.health for archive in archives]
    levels += [backup.health for backup in backups]
    levels.append(Health.UNKNOWN if partitions is None else partitions.health)
    if state.unreadable:
        levels.append(Health.UNKNOWN)
    newest_us = quarantine.newest_at_us
    if newest_us is not None and (now_us - newest_us) / 1e6 < thresholds.quarantine_recent_s:
        levels.append(Health.WARNING)
    return Overview(
        at_us=now_us,
        replicas=replicas,
        groups=groups,
        sites=sites,
        hosts=hosts,
        nodes=nodes,
        archives=archives,
        backups=backups,
        partitions=partitions,
        quarantine=quarantine,
        unreadable=len(state.unreadable),
        reports_error=state.reports_error,
        health=worst(levels),
    )
