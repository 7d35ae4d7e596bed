"""One row for each volume that a host has, or had, open: its session, spool and activity log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mirrorlog.domain.reports import HostReport, HostState
from mirrorlog.status.health import Health, Thresholds
from mirrorlog.status.heard import AGE_UNKNOWN, Heard, age_s
from mirrorlog.units import format_duration

HOST_SILENT_S = 30.0
"""A host reports every 10 s at the latest, on one of its volumes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """A volume at a host. report: the last one. heartbeat_age_s: of the host's session.

    state: as of now; None if the host is silent, because nobody knows then.
    """

    report: HostReport
    health: Health
    state: HostState | None
    heartbeat_age_s: float | None
    reason: str | None
    next_action: str | None


def evaluate_hosts(
    reports: Iterable[Heard[HostReport]], now_us: int, thresholds: Thresholds
) -> Sequence[HostStatus]:
    """Return the rows by host and volume. Pure.

    A host with many volumes reports on each less often, so the newest report of a session on any
    volume tells whether it lives.
    """
    heard = sorted(reports, key=lambda beat: (beat.report.host, beat.report.volume))
    newest: dict[str, float] = {}
    for beat in heard:
        if (seconds := age_s(beat, now_us)) is not None:
            session = beat.report.session
            newest[session] = min(seconds, newest.get(session, seconds))
    return [_status(beat.report, newest.get(beat.report.session), thresholds) for beat in heard]


def _status(report: HostReport, heard_s: float | None, thresholds: Thresholds) -> HostStatus:
    health, reason, next_action = _judge(report, heard_s, thresholds)
    is_known = report.state is HostState.CLOSED or (heard_s is not None and heard_s < HOST_SILENT_S)
    return HostStatus(
        report=report,
        health=health,
        state=report.state if is_known else None,
        heartbeat_age_s=heard_s,
        reason=reason,
        next_action=next_action,
    )


def _judge(
    report: HostReport, heard_s: float | None, thresholds: Thresholds
) -> tuple[Health, str | None, str | None]:
    """Return the health, why it isn't better, and what to do."""
    if report.state is HostState.CLOSED:
        return Health.OK, None, None
    if heard_s is None:
        return AGE_UNKNOWN
    if heard_s >= HOST_SILENT_S:
        return (
            Health.WARNING,
            f"nothing was heard of the host for {format_duration(heard_s)}: it is dead, or can't "
            "reach Kafka; what it wrote last may not be published",
            f"Look at {report.host}, and start the host again: it publishes what it left.",
        )
    if report.is_whole_volume_hot:
        text = "the whole volume counts as dirty until Kafka has the host's commands"
        return Health.WARNING, text, "Look whether the host reaches Kafka."
    limit = report.spool_limit_bytes
    if limit and report.spool_bytes >= thresholds.spool_fraction * limit:
        text = f"the spool holds {report.spool_bytes} of {limit} bytes"
        return Health.WARNING, text, "Look whether the host reaches Kafka, or raise the limit."
    if report.away_since_us is not None:
        return Health.WARNING, "Kafka doesn't answer the host", "Look at the cluster."
    return Health.OK, None, None
