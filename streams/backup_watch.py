"""What the registered backups last reported, kept in memory for the metrics of a worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import Final

from mirrorlog.domain.backup_reports import BackupReport
from mirrorlog.domain.partitioning import partition_of
from mirrorlog.domain.retry_reports import RetryReports
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import MirrorlogError
from mirrorlog.ports.clock import Clock
from mirrorlog.reading.backup_reports import BackupReports
from mirrorlog.reading.present_state import Reported
from mirrorlog.status.backups import BackupStatus, evaluate_backups

log = logging.getLogger("mirrorlog.node")

_EVERY_S: Final = 30.0
_READING: Final = "reading the reports of backups"


def backups_in(
    partitions: Collection[int],
    reports: Iterable[Reported[BackupReport]],
    volumes: Mapping[str, Volume],
    *,
    partition_count: int,
    now_us: int,
) -> Sequence[BackupStatus]:
    """Return the backups of the volumes in `partitions`, as `mirrorlog status` judges them. Pure.

    volumes: the descriptions, by name. partition_count: how many partitions there are.
    """
    folded = []
    for reported in reports:
        name = reported.report.volume
        known = volumes.get(name)
        partition = partition_of(name, partition_count) if known is None else known.partition
        if partition in partitions:
            folded.append(reported)
    return evaluate_backups(folded, volumes, now_us)


class BackupWatch:
    """Reads what backups report, twice a minute (engine.EngineService).

    open_reports: opens them; None: there are none. reports: as of the last look. After a failure
    they stay, and the next look reads all of them.
    """

    def __init__(self, open_reports: Callable[[], BackupReports] | None, clock: Clock) -> None:
        self.reports: Sequence[Reported[BackupReport]] = ()
        self._open_reports, self._clock = open_reports, clock
        self._opened: BackupReports | None = None
        self._failures = RetryReports()
        self._reading = Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        if self._open_reports is None:
            return
        self._task = asyncio.create_task(self._run(), name="mirrorlog-backups")

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await asyncio.to_thread(self._close)

    async def look(self) -> None:
        """Read what is new."""
        try:
            self.reports = await asyncio.to_thread(self._read)
        except MirrorlogError as error:
            await asyncio.to_thread(self._close)
            now_s = self._clock.monotonic_s()
            if text := self._failures.failed(_READING, str(error), now_s=now_s):
                log.warning("the metrics of backups are old, %s fails: %s", _READING, text)
            return
        if text := self._failures.worked(_READING, now_s=self._clock.monotonic_s()):
            log.warning("%s %s", _READING, text)

    def _read(self) -> Sequence[Reported[BackupReport]]:
        assert self._open_reports is not None
        with self._reading:
            if self._opened is None:
                self._opened = self._open_reports()
            self._opened.refresh()
            return self._opened.latest()

    def _close(self) -> None:
        with self._reading:  # a look that was cancelled goes on in its thread
            opened, self._opened = self._opened, None
            if opened is not None:
                opened.close()

    async def _run(self) -> None:
        """Look for ever. An error here is a defect, and costs no more than the metrics."""
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("the worker can't read the reports of backups")
            await asyncio.sleep(_EVERY_S)
