"""Retention: how long records are kept, and through where a volume's oldest may be deleted. Pure.

No registered site or backup of a volume is left behind: records that it hasn't applied stay, unless
the operator set a time after which they may be deleted all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mirrorlog.domain.backup_reports import BackupReport
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import Volume
from mirrorlog.reading.site_reports import LogUser
from mirrorlog.tracking_log.keys import split_log_name
from mirrorlog.tracking_log.tiers import TIERS

DEFAULT_KEEP_S: Final[Mapping[str, float]] = {"second": 300.0, "minute": 7200.0, "hour": 86_400.0}
"""How long each tier is kept after a higher one holds its records.

A site that was away for a moment continues where it was, and doesn't copy a whole day again.
"""


@dataclass(frozen=True, slots=True)
class KeepPolicy:
    """The time for which the records of each log are kept.

    volumes: the known descriptions. keep_s: by the name of a tier, from the settings. What a
    volume's description says takes precedence. top_tier: the highest tier there is.
    """

    volumes: Mapping[str, Volume]
    keep_s: Mapping[str, float]
    top_tier: int

    def described(self, log_name: str) -> Volume | None:
        """Return the description of the log's volume. A missed log is kept as its volume's log."""
        return self.volumes.get(split_log_name(log_name)[0])

    def keep_covered_s(self, log_name: str, tier: int) -> float:
        """Return how long the log's records of a tier are kept after a higher tier holds them."""
        return keep_covered_s(tier, of_volume=self._of_volume(log_name), of_settings=self.keep_s)

    def keep_log_s(self, log_name: str) -> float | None:
        """Return how long the log is kept, None for ever."""
        of_volume = self._of_volume(log_name)
        return keep_log_s(self.top_tier, of_volume=of_volume, of_settings=self.keep_s)

    def _of_volume(self, log_name: str) -> Mapping[str, float]:
        volume = self.described(log_name)
        return {} if volume is None else volume.keep_s


def keep_covered_s(
    tier: int, *, of_volume: Mapping[str, float], of_settings: Mapping[str, float]
) -> float:
    """Return how long records of a tier below the top are kept after a higher tier holds them.

    of_volume, of_settings: seconds by the name of a tier; the volume takes precedence. A tier is
    kept at least as long as those below it, because it proves that theirs may be deleted.
    """
    keep_s = {**DEFAULT_KEEP_S, **of_settings, **of_volume}
    return max(keep_s.get(name, 0.0) for name in TIERS[: tier + 1])


def keep_log_s(
    top_tier: int, *, of_volume: Mapping[str, float], of_settings: Mapping[str, float]
) -> float | None:
    """Return how long the log is kept, None for ever. top_tier: the highest tier there is."""
    return {**of_settings, **of_volume}.get(TIERS[top_tier])


_NOTHING_NEEDED: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class RetentionLimit:
    """Records through `through` may be deleted. held_by: who keeps it so low."""

    through: int
    held_by: tuple[LogUser, ...] = ()


def retention_limit(
    volume: Volume | None, reports: Sequence[LogUser], *, due: int, overdue: int
) -> RetentionLimit:
    """Return through where the volume's records may be deleted.

    volume: its description, None if there is none. reports: the last one of each site and backup.
    due: records through it are old enough. overdue: records through it are old enough to be deleted
    though somebody needs them (BEFORE_FIRST: none ever is).
    """
    needed = {id(report): needed_after(volume, report) for report in reports}
    slowest = min(needed.values(), default=due)
    through = min(due, max(slowest, overdue))
    return RetentionLimit(
        through,
        held_by=tuple(
            report for report in reports if through < due and needed[id(report)] == slowest
        ),
    )


def needed_after(volume: Volume | None, report: LogUser) -> int:
    """Return the position behind which the site, or the next incremental backup, needs the log.

    A site that has applied nothing of this generation may need all of it. At or below the volume's
    origin no reader may ask for anything. The site whose secondary is the primary needs nothing.
    """
    if isinstance(report, BackupReport):
        return _needed_by_backup(volume, report)
    if volume is not None and not volume.is_followed_by(report.site):
        return _NOTHING_NEEDED
    if volume is None:
        return BEFORE_FIRST if report.applied_position is None else report.applied_position
    if report.applied_position is None or report.generation != volume.generation:
        return volume.origin_position
    return max(report.applied_position, volume.origin_position)


def _needed_by_backup(volume: Volume | None, report: BackupReport) -> int:
    """Return the position behind which the next incremental backup needs the log.

    If the last point's position means nothing in this generation, the next backup copies all that
    is allocated, and needs nothing. A retired volume may still be backed up.
    """
    if volume is None:
        return report.position
    if volume.history_id is not None and report.history_id != volume.history_id:
        return _NOTHING_NEEDED
    if report.generation == volume.generation:
        return max(report.position, volume.origin_position)
    parted = volume.parted_after(report.generation)
    if parted is None:
        return _NOTHING_NEEDED
    return max(min(report.position, parted), volume.origin_position)
