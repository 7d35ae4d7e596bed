"""The workers of the node, and the partitions that none of them has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mirrorlog.domain.reports import NodePartitionState, NodeReport, PartitionReport
from mirrorlog.status.health import Health, Thresholds, worst
from mirrorlog.status.heard import AGE_UNKNOWN, Heard, age_s
from mirrorlog.units import format_duration

NODE_SILENT_S = 30.0
"""A worker reports every 10 s at the latest."""
_START = "Start a worker: `mirrorlog node`."


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """A worker. report: the last one. lag_s, behind_commands, table_bytes: over its partitions.

    is_silent: nothing was heard of it for NODE_SILENT_S, or nobody knows how old its report is.
        What its partitions do now isn't known then."""

    report: NodeReport
    health: Health
    is_silent: bool
    heartbeat_age_s: float | None
    lag_s: float | None
    behind_commands: int | None
    table_bytes: int | None
    reason: str | None
    next_action: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionCare:
    """Whether every partition has a worker that lives. missing: the partitions that have none."""

    health: Health
    missing: Sequence[int]
    reason: str | None
    next_action: str | None


def evaluate_nodes(
    reports: Iterable[Heard[NodeReport]], now_us: int, thresholds: Thresholds
) -> Sequence[NodeStatus]:
    """Return the rows by worker. Those that stopped in good order are left out. Pure."""
    rows = [_status(heard, now_us, thresholds) for heard in reports if not heard.report.is_over]
    return sorted(rows, key=lambda row: row.report.node)


def evaluate_partitions(nodes: Sequence[NodeStatus], partitions: int) -> PartitionCare:
    """Return which of the partitions no living worker has. Pure."""
    cared = {
        part.partition for node in nodes if not node.is_silent for part in node.report.partitions
    }
    missing = [number for number in range(partitions) if number not in cared]
    if not missing:
        return PartitionCare(health=Health.OK, missing=(), reason=None, next_action=None)
    which = "any partition" if len(missing) == partitions else f"partitions {missing}"
    text = f"no worker of the node reports that it has {which}: nothing is recorded there"
    return PartitionCare(health=Health.CRITICAL, missing=missing, reason=text, next_action=_START)


def _status(heard: Heard[NodeReport], now_us: int, thresholds: Thresholds) -> NodeStatus:
    report, heard_s = heard.report, age_s(heard, now_us)
    parts = report.partitions
    health, reason, next_action = _judge(report, heard_s, thresholds)
    lives = heard_s is not None and heard_s < NODE_SILENT_S
    lags = [part.lag_s for part in parts]
    behind = [part.behind_commands for part in parts]
    tables = [part.table_bytes for part in parts]
    return NodeStatus(
        report=report,
        health=health,
        is_silent=not lives,
        heartbeat_age_s=heard_s,
        lag_s=max((lag or 0.0 for lag in lags), default=0.0)
        if lives and None not in lags
        else None,
        behind_commands=sum(count or 0 for count in behind)
        if lives and None not in behind
        else None,
        table_bytes=None if None in tables else sum(size or 0 for size in tables),
        reason=reason,
        next_action=next_action,
    )


def _judge(
    report: NodeReport, heard_s: float | None, thresholds: Thresholds
) -> tuple[Health, str | None, str | None]:
    """Return the health of a worker, why it isn't better, and what to do."""
    if heard_s is None:
        return AGE_UNKNOWN
    if heard_s >= NODE_SILENT_S:
        text = f"nothing was heard of the worker for {format_duration(heard_s)}"
        return Health.WARNING, text, "Start it again, unless others have its partitions."
    judged = [_judge_partition(part, thresholds) for part in report.partitions]
    health = worst(level for level, _ in judged)
    reasons = [text for level, text in judged if level is health and text]
    next_action = "See what the worker logs." if health is not Health.OK else None
    return health, (reasons[0] if reasons else None), next_action


def _judge_partition(part: PartitionReport, thresholds: Thresholds) -> tuple[Health, str | None]:
    where = f"partition {part.partition}"
    match part.state:
        case NodePartitionState.STUCK:
            return Health.CRITICAL, f"{where} is stuck: {part.reason}"
        case NodePartitionState.HOLDING_BACK:
            return Health.CRITICAL, f"{where} is held back: {part.reason}"
        case NodePartitionState.RECOVERING:
            return Health.WARNING, f"the table of {where} is recovered"
        case NodePartitionState.UNKNOWN:
            return Health.UNKNOWN, f"{where} is in a state that this release doesn't know"
    if part.lag_s is None:
        return Health.UNKNOWN, f"how far {where} lags isn't known"
    level = thresholds.of_lag(part.lag_s)
    text = f"{where} lags {format_duration(part.lag_s)}" if level is not Health.OK else None
    return level, text
