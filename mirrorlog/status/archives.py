"""How far archives are, and whether somebody writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mirrorlog.domain.archive_reports import ArchivedPartition, ArchiveReport
from mirrorlog.status.health import Health
from mirrorlog.status.heard import AGE_UNKNOWN, Heard, age_s
from mirrorlog.units import format_duration

_ROUNDS_MISSED: Final = 2
_GRACE_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveStatus:
    """One archive. report: the last one of its archivers.

    behind_positions: recorded positions that weren't archived when the last round ended, over all
        partitions; None if that isn't known.
    """

    report: ArchiveReport
    health: Health
    heartbeat_age_s: float | None
    behind_positions: int | None
    reason: str | None
    next_action: str | None


def evaluate_archives(
    reports: Iterable[Heard[ArchiveReport]], now_us: int
) -> Sequence[ArchiveStatus]:
    """Return the archives by address. Pure.

    An archiver that runs by itself, and misses two rounds, is a warning: if it holds the retention,
    the commands topic grows meanwhile. One that was called for one round, or was stopped, isn't.
    """
    rows = [_status(heard, now_us) for heard in reports]
    return sorted(rows, key=lambda row: row.report.archive)


def _status(heard: Heard[ArchiveReport], now_us: int) -> ArchiveStatus:
    report, heard_s = heard.report, age_s(heard, now_us)
    health, reason, next_action = _judge(report, heard_s)
    return ArchiveStatus(
        report=report,
        health=health,
        heartbeat_age_s=heard_s,
        behind_positions=_behind(report.partitions),
        reason=reason,
        next_action=next_action,
    )


def _behind(partitions: Iterable[ArchivedPartition]) -> int | None:
    total = 0
    for part in partitions:
        if part.archived_through is None or part.recorded_through is None:
            return None
        total += max(0, part.recorded_through - part.archived_through)
    return total


def _judge(report: ArchiveReport, heard_s: float | None) -> tuple[Health, str | None, str | None]:
    """Return the health of an archive, why it isn't better, and what to do."""
    troubles = [part for part in report.partitions if part.reason]
    if troubles:
        text = f"partition {troubles[0].partition}: {troubles[0].reason}"
        return Health.WARNING, text, "See what `mirrorlog archive run` says."
    if report.is_over or report.every_s is None:
        return Health.OK, None, None
    if heard_s is None:
        return AGE_UNKNOWN
    if heard_s > _ROUNDS_MISSED * report.every_s + _GRACE_S:
        text = f"nothing was archived for {format_duration(heard_s)}"
        if report.keep_s is not None:
            text += ", and the commands topic keeps everything"
        next_action = f"Start `mirrorlog archive run` on {report.host} again, or `archive off`."
        return Health.WARNING, text, next_action
    return Health.OK, None, None
