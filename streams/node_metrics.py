"""The metrics of one worker of the node."""

from __future__ import annotations

from collections.abc import Iterator

from mirrorlog import metrics
from mirrorlog.domain.commands import StatusCode
from mirrorlog.domain.reports import NodePartitionState, PartitionReport
from mirrorlog.metric_samples import MetricSample, MetricSamples
from mirrorlog.status.backups import BackupStatus
from mirrorlog.streams.node_figures import NodeFigures
from mirrorlog.tracking_log.tiers import TIERS


def node_samples(node: str, figures: NodeFigures, backup_limit: int) -> MetricSamples:
    """Yield the metrics of the worker `node`. Call it on the event loop.

    backup_limit: so many backups have series of their own.
    """
    labels, counters = (node,), figures.counters
    for code in StatusCode:
        if code is not StatusCode.UNKNOWN:
            yield MetricSample(metrics.NODE_COMMANDS, counters.statuses[code], (node, code))
    yield MetricSample(metrics.NODE_QUARANTINED, counters.quarantined, labels)
    yield MetricSample(metrics.NODE_FLUSH_DURATION, counters.flush_s.value(), labels)
    for tier, name in enumerate(TIERS):
        yield MetricSample(metrics.NODE_RECORDS_WRITTEN, counters.records[tier], (node, name))
    yield MetricSample(metrics.NODE_HISTORIES_RENEWED, figures.histories.renewals, labels)
    yield MetricSample(metrics.NODE_RECOVERING, not figures.is_settled(), labels)
    held_back_s = figures.engine.health().held_back_s
    yield MetricSample(metrics.NODE_HOLDING_BACK, held_back_s, labels)
    partitions = figures.partitions()
    yield MetricSample(metrics.NODE_PARTITIONS, len(partitions), labels)
    for partition in partitions:
        yield from _partition_samples(node, partition)
    backups = sorted(figures.backups(), key=lambda backup: -backup.health.severity)
    yield MetricSample(metrics.BACKUPS_UNLISTED, len(backups[backup_limit:]), labels)
    for backup in backups[:backup_limit]:
        yield from _backup_samples(backup)


def _partition_samples(node: str, report: PartitionReport) -> Iterator[MetricSample]:
    labels = (node, str(report.partition))
    is_stuck = report.state is NodePartitionState.STUCK
    yield MetricSample(metrics.NODE_PARTITION_STUCK, is_stuck, labels)
    if report.behind_commands is not None:
        yield MetricSample(metrics.NODE_PARTITION_BEHIND, report.behind_commands, labels)
    if report.lag_s is not None:
        yield MetricSample(metrics.NODE_PARTITION_LAG, report.lag_s, labels)
    if report.table_bytes is not None:
        yield MetricSample(metrics.NODE_TABLE_BYTES, report.table_bytes, labels)


def _backup_samples(backup: BackupStatus) -> Iterator[MetricSample]:
    report = backup.report
    labels = (report.volume, report.repository, report.address)
    yield MetricSample(metrics.BACKUP_FAILED, report.failure is not None, labels)
    if backup.is_overdue is not None:
        yield MetricSample(metrics.BACKUP_OVERDUE, backup.is_overdue, labels)
    if report.every_s is not None:
        yield MetricSample(metrics.BACKUP_INTERVAL, report.every_s, labels)
    if report.written_at_us is not None:
        yield MetricSample(metrics.BACKUP_LAST_POINT, report.written_at_us / 1e6, labels)
    if report.is_consistent is not None:
        yield MetricSample(metrics.BACKUP_INCONSISTENT, not report.is_consistent, labels)
