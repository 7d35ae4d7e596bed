"""What a verification asks the tracking log: one volume, one site."""

from __future__ import annotations

from typing import Final

from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import Volume
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.tracking_log.heads import VolumeHead, complete_through
from mirrorlog.tracking_log.keys import missed_log, split_log_name
from mirrorlog.tracking_log.records import LogRecord
from mirrorlog.tracking_log.site_log import SiteLog


class VerificationLog:
    """The log of one volume as a verification reads it (verification.LogFacts).

    log: reads the volume's partition, with the site's missed log. One thread uses it.
    """

    def __init__(self, log: LogReader, volume: Volume, site: str) -> None:
        self._log: Final = log
        self._volume: Final = volume
        self._site: Final = site

    def poll(self, timeout_s: float) -> None:
        """Read what has arrived. Raise as LogReader.poll."""
        self._log.poll(timeout_s, self._is_wanted)

    @property
    def is_ready(self) -> bool:
        """Whether all was read that the log held when the reader began."""
        return self._log.caught_up()

    @property
    def watermark(self) -> int:
        """The position through which the log is complete; BEFORE_FIRST before the first one."""
        return complete_through(self._log.watermarks.get(self._volume.partition), self._volume)

    @property
    def history_id(self) -> str | None:
        """The history of the watermark; None if it isn't known."""
        watermark = self._log.watermarks.get(self._volume.partition)
        return None if watermark is None or watermark.history is None else watermark.history.id

    @property
    def generation(self) -> str | None:
        """The generation of the log's last records; None before the first one."""
        head = self._head
        return None if head is None else head.generation

    @property
    def has_open_fork(self) -> bool:
        """Whether a host doesn't know the outcome of one of its own writes to the secondary."""
        return self._site_log.has_open_fork

    def may_have_open_fork(self, end_position: int) -> bool:
        """Return whether an outcome may have been unknown when the commands ended there."""
        if self._site_log.fork is None:
            return False
        return self.has_open_fork or self.watermark < end_position - 1

    def is_settled(self, end_position: int) -> bool:
        """Return whether the log names all that was written before the commands ended there."""
        beats = self._log.beats.get(self._volume.partition, {})
        return self._site_log.volume.is_settled(end_position, watermark=self.watermark, beats=beats)

    def changed_after(self, position: int) -> BlockSet | None:
        """Return the blocks that the log names behind a position; None if it can't be proved."""
        watermark, log = self.watermark, self._site_log.volume
        if watermark < position or log.hole(after=position, through=watermark) is not None:
            return None
        return log.changed(after=position, through=watermark)

    @property
    def _head(self) -> VolumeHead | None:
        return self._site_log.volume.head

    @property
    def _site_log(self) -> SiteLog:
        name = self._volume.volume
        return SiteLog(
            self._log.logs[name], self._log.logs[missed_log(name, self._site)], self._site
        )

    def _is_wanted(self, record: LogRecord) -> bool:
        is_of_volume = split_log_name(record.volume)[0] == self._volume.volume
        return is_of_volume and record.through > BEFORE_FIRST
