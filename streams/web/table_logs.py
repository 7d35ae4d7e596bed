"""The log of one volume, read from this worker's own table: no topic is read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from mirrorlog.changed.logs import LogView, incomplete
from mirrorlog.codec.events import decode
from mirrorlog.domain.bitmaps import BitMap64
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput
from mirrorlog.ports.clock import Clock
from mirrorlog.streams.table.local_store import TableView
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import VolumeHead, Watermark
from mirrorlog.tracking_log.keys import head_key, record_key, record_prefix, watermark_key
from mirrorlog.tracking_log.records import LogRecord

log = logging.getLogger("mirrorlog.node")
_LOOK_AGAIN_S: Final = 0.05


class TableLogs:
    """open_view: of the partition, from any thread. go_on, pause: as QueryPorts.go_on; pause waits that many seconds."""

    def __init__(
        self,
        open_view: Callable[[int], TableView],
        clock: Clock,
        go_on: Callable[[], None],
        pause: Callable[[float], None],
    ) -> None:
        self._open_view, self._clock, self._go_on, self._pause = open_view, clock, go_on, pause

    def read(self, volume: Volume, needed: int, patience_s: float) -> LogView:
        """Waits for the watermark; then everything comes from the view that showed it."""
        until_s = self._clock.monotonic_s() + patience_s
        while True:
            self._go_on()
            view = self._open_view(volume.partition)
            try:
                mark = view.get(watermark_key(volume.partition))
                complete_through = BEFORE_FIRST if mark is None else decode(mark, Watermark).through
                if max(complete_through, volume.origin_position) >= needed:
                    return _TableLogView(view, volume, complete_through, self._go_on)
            except BaseException:
                view.close()
                raise
            view.close()
            if self._clock.monotonic_s() > until_s:
                raise incomplete(volume, needed, complete_through, patience_s)
            self._pause(_LOOK_AGAIN_S)


class _TableLogView:
    """Only what the records say beside their bitmaps is held: a volume's records together may be larger than memory."""

    def __init__(
        self, view: TableView, volume: Volume, complete_through: int, go_on: Callable[[], None]
    ) -> None:
        self._view, self.complete_through, self.log = view, complete_through, VolumeLog()
        if head := view.get(head_key(volume.volume)):
            self.log.add_head(decode(head, VolumeHead))
        for _, value in view.scan(record_prefix(volume.volume)):
            go_on()
            try:
                record = decode(value, LogRecord)
            except BadInput as error:
                log.error(
                    "a log record in the table is damaged: %s", error
                )  # a hole: that is found, and said
                continue
            if record.through > volume.origin_position:
                self.log.add(replace(record, changed=BitMap64(), zeroed=BitMap64()))

    def parts(self, record: Sequence[LogRecord]) -> Sequence[LogRecord]:
        """Read again, with their bitmaps."""
        found = []
        for part in record:
            value = self._view.get(record_key(part))
            assert value is not None  # the view had it
            found.append(decode(value, LogRecord))
        return found

    def close(self) -> None:
        self._view.close()
