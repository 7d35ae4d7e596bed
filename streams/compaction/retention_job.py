"""The retention jobs: note how old the log is, and delete what is older than it is kept.

Only the oldest records of a volume are deleted, and none that a registered site or backup still
needs (`retention`). Who holds records, or is left behind, is named in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mirrorlog.codec.events import encode
from mirrorlog.domain.backup_reports import BackupReport
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.retry_reports import RetryReports
from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.reading.site_reports import LogUser, SiteReports
from mirrorlog.streams.compaction.partition_records import tombstones
from mirrorlog.streams.compaction.partition_state import PartitionState
from mirrorlog.streams.compaction.retention import needed_after, retention_limit
from mirrorlog.streams.compaction.rollups import StoredRecord
from mirrorlog.streams.compaction.steps import Job
from mirrorlog.tracking_log.keys import position_time_key, split_log_name

log = logging.getLogger("mirrorlog.node")

_WARN_AGAIN_S: Final = 3600.0
_WARN_DAILY_S: Final = 86_400.0
_READING: Final = "reading where the sites and backups are"
_HELD: Final = (
    "volume %s: site %s has applied only position %s, so records of positions %d to %d stay though "
    "they are older than the log is kept; bring the site up to date or remove it, or set "
    "node_keep_past_sites_after_s"
)
_LEFT_BEHIND: Final = (
    "volume %s: site %s has applied only position %s, and the records through position %d are "
    "deleted now (node_keep_past_sites_after_s): the site will need a full copy"
)
_HELD_BY_BACKUP: Final = (
    "volume %s: the next backup to %s needs the log above position %s, so records of positions %d "
    "to %d stay though they are older than the log is kept; back the volume up, or end the "
    "registration (`mirrorlog backup forget`), or set node_keep_past_sites_after_s"
)
_BACKUP_LEFT_BEHIND: Final = (
    "volume %s: the next backup to %s needs the log above position %s, and the records through "
    "position %d are deleted now (node_keep_past_sites_after_s): it will copy all that is allocated"
)


def note_position_time(state: PartitionState) -> Job:
    """Note through which position commands were appended at the time of the last one.

    The time is the broker's. Prune older notes.
    """
    partition, last = state.records.partition, state.broker_times.last(state.records.partition)
    watermark = state.records.watermark()
    if last is None or watermark is None or watermark.through < last.through:
        return
    # No command lies between the last one and the watermark. With its anchor the note also shows,
    # after a break, how far the history still holds.
    time = replace(watermark, at_us=last.at_us)
    if not state.times.note(time):
        return
    yield position_time_key(partition, at_us=time.at_us), encode(time)
    for old in state.times.prune(time.at_us):
        yield position_time_key(partition, at_us=old.at_us), None


@dataclass(frozen=True, slots=True)
class DueRecords:
    """Which records of a volume are old enough to be deleted.

    through: records through it are older than the log is kept. past_sites_through: records through
    it may be deleted though a site needs them.
    """

    through: int
    past_sites_through: int


def due_records(
    state: PartitionState, keep_past_sites_after_s: float | None
) -> dict[str, DueRecords]:
    """Return the volumes with records that are older than the log is kept, by the broker's clock.

    As long as nothing is known of that clock, none is.
    keep_past_sites_after_s: as in the settings. None: records that a site needs are never deleted.
    """
    due: dict[str, DueRecords] = {}
    now_us = state.broker_times.now_us()
    if now_us is None:
        return due
    for volume, oldest in state.oldest.items():
        keep_s = state.policy.keep_log_s(volume)
        if keep_s is None:
            continue
        through = state.times.position_at(now_us - keep_s * 1e6)
        if through < oldest:
            continue
        past_sites_through = (
            BEFORE_FIRST
            if keep_past_sites_after_s is None
            else state.times.position_at(now_us - (keep_s + keep_past_sites_after_s) * 1e6)
        )
        due[volume] = DueRecords(through, past_sites_through)
    return due


def retain(
    state: PartitionState,
    due: Mapping[str, DueRecords],
    reports: SiteReports,
    warnings: RetentionWarnings,
) -> Job:
    """Delete the records that are due and that nobody needs.

    reports: refreshed after `due` was found.
    """
    for volume, limits in due.items():
        described = state.policy.described(volume)
        users = reports.users_of(split_log_name(volume)[0])
        limit = retention_limit(
            described, users, due=limits.through, overdue=limits.past_sites_through
        )
        deleted: list[StoredRecord] = []
        left: list[int] = []
        for tier in range(state.policy.top_tier + 1):
            begun = state.records.beginning_in(
                volume, tier=tier, after=BEFORE_FIRST, before=limits.through
            )
            deleted += [record for record in begun if record.through <= limit.through]
            left += [record.through for record in begun if record.through > limit.through]
            following = state.records.end_of_first(volume, tier=tier, after=limits.through)
            left += [] if following is None else [following]
            yield None
        state.oldest.set(volume, min(left, default=limits.through + 1))
        if any(through <= limits.through for through in left):
            warnings.held(limit.held_by, first=limit.through, last=limits.through)
        reached = max((record.through for record in deleted), default=BEFORE_FIRST)
        warnings.left_behind(
            [report for report in users if needed_after(described, report) < reached],
            reached,
        )
        for record in deleted:
            yield from tombstones(volume, record)


class RetentionWarnings:
    """Warns about sites and backups that retention meets, for each volume, name and text.

    While one is in the way it is named after an hour, and then at intervals up to a day.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reports = RetryReports(first_s=_WARN_AGAIN_S, longest_s=_WARN_DAILY_S)

    def held(self, reports: Sequence[LogUser], *, first: int, last: int) -> None:
        """Warn that these keep records of positions `first` to `last` from being deleted."""
        for report in reports:
            text = _HELD_BY_BACKUP if isinstance(report, BackupReport) else _HELD
            self._warn(text, report, first, last)

    def left_behind(self, reports: Sequence[LogUser], through: int) -> None:
        """Warn that records through `through` are deleted which these need."""
        for report in reports:
            text = _BACKUP_LEFT_BEHIND if isinstance(report, BackupReport) else _LEFT_BEHIND
            self._warn(text, report, through)

    def _warn(self, text: str, report: LogUser, *values: object) -> None:
        name, position = (
            (report.address, report.position)
            if isinstance(report, BackupReport)
            else (report.site, report.applied_position)
        )
        # The text without its positions: each warning names others.
        subject = (report.volume, name, text)
        if self._reports.failed(subject, text, now_s=self._clock.monotonic_s()):
            log.warning(text, report.volume, name, position, *values)


class ReportsOnDemand:
    """The reports of sites and backups, for all partitions of the worker, opened when needed."""

    def __init__(self, open_reports: Callable[[], SiteReports], clock: Clock) -> None:
        self._open_reports, self._clock = open_reports, clock
        self._reports: SiteReports | None = None
        self._failures = RetryReports()

    async def refreshed(self) -> SiteReports | None:
        """Return the reports with everything that was published before the call.

        Return None if they can't be read. That is logged, and nothing must be deleted then.
        """
        try:
            if self._reports is None:
                self._reports = await asyncio.to_thread(self._open_reports)
            await asyncio.to_thread(self._reports.refresh)
        except KafkaFailed as error:
            if text := self._failures.failed(_READING, str(error), now_s=self._now_s()):
                log.warning("nothing is deleted for its age, %s fails: %s", _READING, text)
            return None
        if text := self._failures.worked(_READING, now_s=self._now_s()):
            log.warning("%s %s", _READING, text)
        return self._reports

    def _now_s(self) -> float:
        return self._clock.monotonic_s()
