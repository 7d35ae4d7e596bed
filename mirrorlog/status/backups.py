"""How old the last points of backups are, and whether the next one comes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mirrorlog.domain.backup_reports import BackupReport
from mirrorlog.domain.volumes import Volume
from mirrorlog.status.health import Health
from mirrorlog.status.heard import AGE_UNKNOWN, Heard, age_s
from mirrorlog.units import format_duration

_MISSED: Final = 2
_GRACE_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupStatus:
    """The backup of one volume to one repository. report: its last one.

    point_age_s: the time since the last point was finished; None without a point, and if nobody
        knows. report_age_s: the time since the report; None if nobody knows.
    """

    report: BackupReport
    health: Health
    point_age_s: float | None
    report_age_s: float | None
    is_overdue: bool | None
    reason: str | None
    next_action: str | None


def evaluate_backups(
    reports: Iterable[Heard[BackupReport]], volumes: Mapping[str, Volume], now_us: int
) -> Sequence[BackupStatus]:
    """Return the backups by volume and address. Pure.

    A backup that is made again and again, and missed two times, is a warning; so is one whose last
    attempt failed, or whose last point isn't consistent. While it is registered, the log keeps what
    it needs. volumes: the descriptions, by name.
    """
    rows = [_status(heard, volumes.get(heard.report.volume), now_us) for heard in reports]
    return sorted(rows, key=lambda row: (row.report.volume, row.report.address))


def _status(heard: Heard[BackupReport], volume: Volume | None, now_us: int) -> BackupStatus:
    report, heard_s = heard.report, age_s(heard, now_us)
    point_age_s = None
    if heard_s is not None and report.written_at_us is not None:
        # Both differences are of one clock each: the broker's, and that of the backup's machine.
        point_age_s = heard_s + max(0.0, (report.at_us - report.written_at_us) / 1e6)
    idle_s = heard_s if point_age_s is None else point_age_s
    health, reason, next_action = _judge(report, volume, idle_s)
    return BackupStatus(
        report=report,
        health=health,
        point_age_s=point_age_s,
        report_age_s=heard_s,
        is_overdue=_is_overdue(report, idle_s),
        reason=reason,
        next_action=next_action,
    )


def _is_overdue(report: BackupReport, idle_s: float | None) -> bool | None:
    if report.every_s is None:
        return False
    return None if idle_s is None else idle_s > _MISSED * report.every_s + _GRACE_S


def _judge(
    report: BackupReport, volume: Volume | None, idle_s: float | None
) -> tuple[Health, str | None, str | None]:
    """Return the health of a backup, why it isn't better, and what to do.

    idle_s: the time since the last point, or the registration; None if nobody knows.
    """
    again = f"Run `mirrorlog backup` on {report.host} again."
    if volume is None:
        next_action = "End the registration (`mirrorlog backup forget`): it is of no use."
        return Health.WARNING, "there is no such volume any more", next_action
    if report.failure is not None:
        return Health.WARNING, f"the last attempt failed: {report.failure}", again
    if idle_s is None:
        return AGE_UNKNOWN
    if _is_overdue(report, idle_s):
        text = f"there was no new point for {format_duration(idle_s)}"
        return Health.WARNING, f"{text}, and the log keeps what the next one needs", again
    if report.is_consistent is False:
        why = report.reason or "nobody says why"
        return Health.WARNING, f"the last point isn't consistent: {why}", again
    return Health.OK, None, None
