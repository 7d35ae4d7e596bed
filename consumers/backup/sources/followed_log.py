"""The log of one volume, followed while a point is read from the moving primary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.volumes import Volume
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import VolumeHead, complete_through
from mirrorlog.tracking_log.records import LogRecord


class FollowedLog:
    """What a proof asks of a volume's log. reader: of the volume's partition. One thread uses it.

    volume: the description when following began. If the volume gets another generation, what the
    log says is worth nothing for it: look at the description after each poll.
    """

    def __init__(self, reader: LogReader, volume: Volume) -> None:
        self._reader: Final = reader
        self._volume: Final = volume

    def poll(self, timeout_s: float) -> None:
        """Read what has arrived; wait up to `timeout_s` for something. Raise as LogReader.poll."""
        self._reader.poll(timeout_s, self._is_wanted)

    @property
    def is_ready(self) -> bool:
        """Whether all was read that the log held when the reader began."""
        return self._reader.caught_up()

    @property
    def watermark(self) -> int:
        """The position through which the log is complete; the volume's origin at least."""
        watermark = self._reader.watermarks.get(self._volume.partition)
        return max(complete_through(watermark, self._volume), self._volume.origin_position)

    @property
    def history_id(self) -> str | None:
        """The history of the watermark; None if it isn't known."""
        watermark = self._reader.watermarks.get(self._volume.partition)
        return None if watermark is None or watermark.history is None else watermark.history.id

    @property
    def head(self) -> VolumeHead | None:
        """The volume's head, if it says which sessions the volume had at the watermark."""
        log = self._log
        return None if log.is_ahead or log.is_replaced else log.head

    def is_settled(self, end_position: int) -> bool:
        """Return whether the log names all that was written before the commands ended there.

        Invariant 8: each open session has closed a batch after that.
        """
        return self._log.is_settled(end_position, watermark=self.watermark, beats=self._beats)

    def unsettled_reason(self, end_position: int) -> str:
        """Return why is_settled() is false, for people."""
        if self.watermark < end_position - 1:
            return (
                f"the log is complete through position {self.watermark} only, and the commands "
                f"reach to {end_position - 1}: see whether the node runs"
            )
        silent = (
            []
            if self.head is None
            else [
                f"session {session.session} of host {session.host}"
                for session in self.head.sessions
                if not session.is_settled_after(end_position, self._beats)
            ]
        )
        if not silent:
            return "the log doesn't say yet which sessions the volume has"
        return f"nothing was heard of {', '.join(silent[:3])}, which may have written meanwhile"

    def changed(self, *, after: int, through: int) -> BlockSet | None:
        """Return the blocks that the log names in `(after, through]`; None if it has a hole there.

        They are rounded outwards. through: a watermark.
        """
        if self._log.hole(after=after, through=through) is not None:
            return None
        blocks = self._log.changed(after=after, through=through)
        return blocks & BlockSet.of_range(0, self._volume.blocks)

    @property
    def _beats(self) -> Mapping[str, int]:
        return self._reader.beats.get(self._volume.partition, {})

    @property
    def _log(self) -> VolumeLog:
        return self._reader.logs[self._volume.volume]

    def _is_wanted(self, record: LogRecord) -> bool:
        volume = self._volume
        return record.volume == volume.volume and record.through > volume.origin_position
