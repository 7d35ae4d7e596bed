"""LogCompactor: what the node does with the log between two flushes of a partition.

It runs three jobs, each for one partition: roll records up (`roll_up_job`), delete what a higher
tier holds (`sweep_job`), and delete what is too old (`retention_job`). A survey finds what there is
to do when a partition is assigned (`survey_job`).

The order of a roll-up keeps the log whole (invariants 2, 3, 5). For some volumes at a time, and a
little at each call:

1. Rolled-up records go to the changelog, acknowledged, and then to the local store.
2. The partition's watermark goes there again, acknowledged: a reader lets a record count only from
   the next watermark on. So a reader at any end that the changelog ever had has the sources, or a
   roll-up that counts.
3. The tombstones of the sources go to the changelog, acknowledged, and then the local store drops
   the sources.

**A crash** anywhere leaves the sources, or both, or the roll-up. If both are left, the survey of
the partition's next owner finds records that lie inside a record of a higher tier. They are deleted
once it is proved, block by block, that the higher one holds them. If it doesn't, they stay.

**Kafka's log cleaner under a reader.** A reader may miss a source that the cleaner removed before
the reader met the roll-up. The cleaner replaces one group of segments after the other, so an old
watermark may still lie between, and nothing shows that the source is missing. But before the
tombstones of the sources, the roll-up and a watermark were in the changelog: a reader that lets
nothing count before it was at the changelog's end has them (`LogReader`).

**A worker that lost the partition and still sends** (it was paused longer than its session lasts)
changes nothing that counts:

- Its roll-up says what the commands in its range say, under a key of its own or the key of an equal
  record. Parts of both fit each other, because records are cut by what they hold alone.
- Its tombstones follow its roll-up, so what they remove is held, also if its successor has just
  written a source again: the same key has the same blocks.
- Its watermark may be an old one. Readers keep the highest.
- Its table lacks what its successor wrote, so its roll-up may claim positions of which another
  record knows more. Nobody deletes that record, because nobody deletes what isn't proved to be
  held, and readers take the lowest tier first.

Times only pace the work. Which records become one, and what a record covers, depends on positions
(invariant 10). The age of a record is that of the first position time at or above its end
(position_times.py of tracking_log), by the broker's clock (`broker_times`). This machine's clock
only chooses the seconds at which roll-ups begin.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from mirrorlog.domain.retry_reports import RetryReports
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import Clock
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.streams.compaction.broker_times import BrokerTimes
from mirrorlog.streams.compaction.delays_job import note_delays
from mirrorlog.streams.compaction.partition_records import PartitionRecords
from mirrorlog.streams.compaction.partition_state import (
    DamagedRecords,
    DelayNotes,
    OldestRecords,
    PartitionState,
    PositionTimes,
    RollUpQueue,
    SweepSchedule,
)
from mirrorlog.streams.compaction.retention import KeepPolicy
from mirrorlog.streams.compaction.retention_job import (
    ReportsOnDemand,
    RetentionWarnings,
    due_records,
    note_position_time,
    retain,
)
from mirrorlog.streams.compaction.roll_up_job import roll_up
from mirrorlog.streams.compaction.steps import Job, WatermarkDue
from mirrorlog.streams.compaction.survey_job import survey
from mirrorlog.streams.compaction.sweep_job import sweep
from mirrorlog.streams.table.local_store import Row
from mirrorlog.streams.table.log_table import LogTable
from mirrorlog.tracking_log.position_times import NOTE_EVERY_S
from mirrorlog.tracking_log.publication_delays import PublicationDelays

log = logging.getLogger("mirrorlog.node")

_WORK_S: Final = 0.05
"""A flush of the partition waits for a call of `work`: no step of a job takes much longer."""
_SEND_BYTES: Final = 4 << 20
_SEND_ROWS: Final = 5000
_VOLUMES_AT_ONCE: Final = 256
_WARN_AGAIN_S: Final = 3600.0
_WARN_DAILY_S: Final = 86_400.0
_TIMELESS: Final = (
    "the commands topic holds the times of hosts, not the broker's: a host whose clock is wrong is "
    "refused, or has its history deleted early, and the log deletes nothing for its age; run "
    "`mirrorlog topics create`, which changes that"
)


@dataclass(frozen=True, slots=True)
class CompactionSettings:
    """The settings for rolling up and deleting records, and for the files of the table.

    tiers_s: the period of each tier above the lowest, seconds.
    keep_s: how long each tier is kept, seconds, by its name.
    keep_past_sites_after_s: as in the settings (node_keep_past_sites_after_s).
    record_max_bytes: the limit for the bitmaps of one record or part of one.
    table_file_s: as in the settings (node_table_file_s).
    """

    tiers_s: Sequence[int]
    keep_s: Mapping[str, float]
    keep_past_sites_after_s: float | None
    record_max_bytes: int
    table_file_s: float


class LogCompactor:
    """Compacts the log of the partitions that this worker has.

    volumes: the known descriptions. open_reports: called in a thread at the first need of reports.
    """

    def __init__(
        self,
        table: LogTable,
        volumes: Mapping[str, Volume],
        open_reports: Callable[[], SiteReports],
        clock: Clock,
        settings: CompactionSettings,
    ) -> None:
        self._table, self._clock, self._settings = table, clock, settings
        self._policy = KeepPolicy(volumes, settings.keep_s, top_tier=len(settings.tiers_s))
        self._reports = ReportsOnDemand(open_reports, clock)
        self._warnings = RetentionWarnings(clock)
        self._partitions: dict[int, _PartitionCompactor] = {}
        self._broker_times = BrokerTimes(clock)
        self._delays: dict[int, DelayNotes] = defaultdict(DelayNotes)
        self._timeless = RetryReports(first_s=_WARN_AGAIN_S, longest_s=_WARN_DAILY_S)

    def revoke(self, partitions: Iterable[int]) -> None:
        """Forget partitions that another worker has now, or that are assigned again later."""
        partitions = list(partitions)
        self._broker_times.forget(partitions)
        for partition in partitions:
            self._partitions.pop(partition, None)
            self._delays.pop(partition, None)

    def note_appended(self, partition: int, *, through: int, at_us: int | None) -> None:
        """Note when the broker appended the command at `through`, through which the log reaches.

        at_us: None if the topic holds hosts' times, which is logged.
        """
        if at_us is not None:
            self._broker_times.note(partition, through=through, at_us=at_us)
        elif text := self._timeless.failed("", _TIMELESS, now_s=self._clock.monotonic_s()):
            log.warning("%s", text)

    def note_delays(self, delays: PublicationDelays) -> None:
        """Note the publication delays of commands that the log has recorded."""
        self._delays[delays.partition].note(delays)

    async def work(self, partition: int) -> float:
        """Do a little work on the partition's log. It is durable when the call returns.

        Return in how many seconds at the latest there is more work; 0.0 means at once. Never call
        it during a flush of the partition. Raise ChangelogRefused if the changelog takes no row.
        """
        compactor = self._partitions.get(partition)
        if compactor is None:
            compactor = self._partitions[partition] = self._assign(partition)
        for volume, after in self._table.take_flushed(partition).items():
            compactor.note_flushed(volume, after=after)
        return await compactor.work()

    def _assign(self, partition: int) -> _PartitionCompactor:
        tiers_s, clock = self._settings.tiers_s, self._clock
        state = PartitionState(
            records=PartitionRecords(self._table, partition),
            policy=self._policy,
            clock=clock,
            roll_ups=RollUpQueue(tiers_s, clock),
            sweeps=SweepSchedule(),
            times=PositionTimes(clock, note_every_s=min(NOTE_EVERY_S, tiers_s[0])),
            delays=self._delays[partition],
            oldest=OldestRecords(),
            damaged=DamagedRecords(),
            broker_times=self._broker_times,
        )
        return _PartitionCompactor(
            state, self._table, self._settings, self._reports, self._warnings
        )


class _PartitionCompactor:
    """Runs the jobs of one partition, one after the other."""

    def __init__(
        self,
        state: PartitionState,
        table: LogTable,
        settings: CompactionSettings,
        reports: ReportsOnDemand,
        warnings: RetentionWarnings,
    ) -> None:
        self._state, self._table, self._settings = state, table, settings
        self._reports, self._warnings = reports, warnings
        self._clock, self._partition = state.clock, state.records.partition
        self._job: Job | None = None
        self._is_surveyed = False
        self._retention_due = False
        self._file_due_s = self._clock.monotonic_s() + settings.table_file_s

    def note_flushed(self, volume: str, *, after: int) -> None:
        """Note that a flush wrote a record of the volume, which begins at `after`."""
        self._state.roll_ups.add(volume, tier=0, after=after)
        self._state.oldest.note_flushed(volume, after=after)

    async def work(self) -> float:
        """Run the current job, or the next one, for about _WORK_S; see LogCompactor.work."""
        began_s = self._clock.monotonic_s()
        until_s = began_s + _WORK_S
        if began_s >= self._file_due_s:
            self._table.empty_write_buffer(self._partition)
            self._file_due_s = began_s + self._settings.table_file_s
        if self._job is None:
            self._job = await self._next_job()
        rows: list[Row] = []
        size_bytes = 0
        while self._job is not None:
            try:
                step = next(self._job)
            except StopIteration:
                self._job = None
                break
            if isinstance(step, WatermarkDue):
                await self._table.append(self._partition, rows)
                await self._table.repeat_watermark(self._partition)
                rows, size_bytes = [], 0
            elif step is not None:
                rows.append(step)
                size_bytes += len(step[1] or b"")
            if (
                size_bytes >= _SEND_BYTES
                or len(rows) >= _SEND_ROWS
                or self._clock.monotonic_s() >= until_s
            ):
                break
        await self._table.append(self._partition, rows)
        return self._rest_s()

    def _rest_s(self) -> float:
        state = self._state
        if (
            self._job is not None
            or not self._is_surveyed
            or state.roll_ups.has_queued
            or self._retention_due
        ):
            return 0.0
        due_s = min(state.roll_ups.due_s, state.times.due_s, state.sweeps.due_s, self._file_due_s)
        return max(0.0, due_s - self._clock.monotonic_s())

    async def _next_job(self) -> Job | None:
        """Return the job that is due, None if there is none.

        Sweeps come before roll-ups: a roll-up could unite the very records that hold others.
        """
        state = self._state
        if not self._is_surveyed:
            return self._survey()
        now_s = self._clock.monotonic_s()
        state.roll_ups.queue_due()
        if state.sweeps.has_due(now_s):
            return sweep(state, now_s)
        if (batch := state.roll_ups.take_batch(_VOLUMES_AT_ONCE)) is not None:
            tier, volumes = batch
            return roll_up(
                state, volumes, tier=tier, record_max_bytes=self._settings.record_max_bytes
            )
        if state.times.start_note():
            self._retention_due = True
            return chain(note_position_time(state), note_delays(state))
        if self._retention_due:
            self._retention_due = False
            return await self._retention()
        return None

    def _survey(self) -> Job:
        yield from survey(self._state)
        self._is_surveyed = True

    async def _retention(self) -> Job | None:
        due = due_records(self._state, self._settings.keep_past_sites_after_s)
        if not due or (reports := await self._reports.refreshed()) is None:
            return None
        return retain(self._state, due, reports, self._warnings)
