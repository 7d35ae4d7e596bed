"""The log of one volume, read from this worker's own table. No topic is read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from mirrorlog.changed.logs import LogView, incomplete
from mirrorlog.codec.events import decode
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput
from mirrorlog.ports.clock import Clock
from mirrorlog.streams.table.local_store import TableView
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import VolumeHead, Watermark, complete_through
from mirrorlog.tracking_log.keys import head_key, record_key, record_prefix, watermark_key
from mirrorlog.tracking_log.records import LogRecord

log = logging.getLogger("mirrorlog.node")
_RETRY_S: Final = 0.05


class TableLogSource:
    """Reads logs for a question (the port mirrorlog.changed.logs.VolumeLogSource).

    open_view:  opens a view of a partition's table, from any thread.
    checkpoint: called between two steps of little work. It may sleep, or raise to abandon the
                question.
    pause:      waits for a number of seconds; raises what `checkpoint` raises.
    """

    def __init__(
        self,
        open_view: Callable[[int], TableView],
        clock: Clock,
        checkpoint: Callable[[], None],
        pause: Callable[[float], None],
    ) -> None:
        self._open_view, self._clock = open_view, clock
        self._checkpoint, self._pause = checkpoint, pause

    def read(self, volume: Volume, needed: int, patience_s: float) -> LogView:
        """Return the volume's log once it is complete through position `needed`.

        All of it comes from the view that showed the watermark. Raise KafkaFailed if the log isn't
        complete within `patience_s`.
        """
        until_s = self._clock.monotonic_s() + patience_s
        while True:
            self._checkpoint()
            view = self._open_view(volume.partition)
            try:
                through = complete_through(_watermark(view, volume.partition), volume)
                if max(through, volume.origin_position) >= needed:
                    return _TableLogView(view, volume, through, self._checkpoint)
            except BaseException:
                view.close()
                raise
            view.close()
            if self._clock.monotonic_s() > until_s:
                raise incomplete(volume, needed, through, patience_s)
            self._pause(_RETRY_S)


def _watermark(view: TableView, partition: int) -> Watermark | None:
    value = view.get(watermark_key(partition))
    return None if value is None else decode(value, Watermark)


class _TableLogView:
    """A volume's log in one view of the table (LogView).

    `log` holds the records without their bitmaps: all of a volume's bitmaps together may be larger
    than memory.
    """

    def __init__(
        self,
        view: TableView,
        volume: Volume,
        complete_through: int,
        checkpoint: Callable[[], None],
    ) -> None:
        self._view, self.complete_through, self.log = view, complete_through, VolumeLog()
        if head := view.get(head_key(volume.volume)):
            self.log.add_head(decode(head, VolumeHead))
        for _, value in view.scan(record_prefix(volume.volume)):
            checkpoint()
            try:
                record = decode(value, LogRecord)
            except BadInput as error:
                # It leaves a hole in the log, which the question finds and reports.
                log.error("a log record in the table is damaged: %s", error)
                continue
            if record.through > volume.origin_position:
                self.log.add(replace(record, changed=BlockSet(), zeroed=BlockSet()))

    def parts(self, record: Sequence[LogRecord]) -> Sequence[LogRecord]:
        """Read the parts of one record of `log` again, with their bitmaps."""
        parts = []
        for part in record:
            value = self._view.get(record_key(part))
            assert value is not None  # the view never loses a row
            parts.append(decode(value, LogRecord))
        return parts

    def close(self) -> None:
        """Close the view."""
        self._view.close()
