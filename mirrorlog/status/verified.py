"""What the last verification of each secondary found, in the secondary's row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from mirrorlog.domain.verifications import VerificationReport, VerificationState
from mirrorlog.domain.volumes import Volume
from mirrorlog.status.health import Health, worst
from mirrorlog.status.heard import Heard, age_s
from mirrorlog.status.replicas import ReplicaStatus

_SILENT_S: Final = 60.0
"""A verification that runs reports every 5 s."""


def with_verifications(
    rows: Iterable[ReplicaStatus],
    volumes: Mapping[str, Volume],
    verifications: Iterable[Heard[VerificationReport]],
    now_us: int,
) -> list[ReplicaStatus]:
    """Return the rows with what the last verifications found.

    A difference that wasn't repaired is a warning. What was found in another generation of the
    volume says nothing now, and is left out.
    """
    last = {
        (verification.report.volume, verification.report.site): verification
        for verification in verifications
    }
    return [
        _with_one(row, volumes.get(row.volume), last.get((row.volume, row.site or "")), now_us)
        for row in rows
    ]


def _with_one(
    row: ReplicaStatus,
    volume: Volume | None,
    heard: Heard[VerificationReport] | None,
    now_us: int,
) -> ReplicaStatus:
    if heard is None or volume is None or heard.report.generation != volume.generation:
        return row
    report = heard.report
    row = replace(row, last_verify_at_us=report.at_us, last_verify=_result(heard, now_us))
    if report.different_blocks <= report.repaired_blocks:
        return row
    return replace(
        row,
        health=worst([row.health, Health.WARNING]),
        reason=row.reason or f"the last verification: {report.result}",
        next_action=row.next_action
        or f"`mirrorlog verify {row.volume} --site {row.site} --repair` lets the site copy them.",
    )


def _result(heard: Heard[VerificationReport], now_us: int) -> str:
    """Return the result in words. A verification that is silent doesn't run."""
    report, said_s = heard.report, age_s(heard, now_us)
    if report.state is VerificationState.RUNNING and (said_s is None or said_s > _SILENT_S):
        return replace(report, state=VerificationState.ABORTED).result
    return report.result
