"""The log of one volume, read from this worker's own table. No topic is read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from mirrorlog.changed.logs import LogView, incomplete
from mirrorlog.codec.events import decode, decode_record_header
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, OutOfRetention
from mirrorlog.ports.clock import Clock
from mirrorlog.streams.table.local_store import TableView
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import VolumeHead, Watermark, complete_through
from mirrorlog.tracking_log.keys import (
    delays_prefix,
    head_key,
    record_key,
    record_prefix,
    watermark_key,
)
from mirrorlog.tracking_log.publication_delays import PublicationDelays
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


def _headers(view: TableView, volume: str, checkpoint: Callable[[], None]) -> Iterator[LogRecord]:
    """Yield the records of a volume, without bitmaps, of which the first and last part are there.

    One that is damaged or incomplete is left out: it leaves a hole in the log, which the question
    finds and reports.
    """
    prefix = record_prefix(volume)
    row = view.first_from(prefix)
    while row is not None and row[0].startswith(prefix):
        checkpoint()
        key, value = row
        behind = key + b"\0"
        try:
            header = decode_record_header(value)
            if record_key(header) != key:
                raise BadInput("it says another range than its key")
        except BadInput as error:
            log.error("a log record in the table is damaged: %s", error)
        else:
            last_key = record_key(replace(header, part=header.parts - 1))
            if header.part == 0 and (header.parts == 1 or view.has(last_key)):
                yield header
                behind = last_key + b"\0"
        row = view.first_from(behind)


class _TableLogView:
    """A volume's log in one view of the table (LogView).

    `log` holds the records without their bitmaps: all of a volume's bitmaps together may be larger
    than memory. So of each record only the first and the last part are read: a flush and a roll-up
    write the parts in their order, and a sweep deletes them in their order. A part that is missing
    between these two is found when the record is used. In `log` a record is one part, because it
    may have thousands.
    """

    def __init__(
        self,
        view: TableView,
        volume: Volume,
        complete_through: int,
        checkpoint: Callable[[], None],
    ) -> None:
        self._view, self.complete_through, self.log = view, complete_through, VolumeLog()
        self._checkpoint, self._partition = checkpoint, volume.partition
        self._parts: dict[tuple[int, int, int], int] = {}
        if head := view.get(head_key(volume.volume)):
            self.log.add_head(decode(head, VolumeHead))
        for record in _headers(view, volume.volume, checkpoint):
            if record.through > volume.origin_position:
                self._parts[record.tier, record.after, record.through] = record.parts
                self.log.add(replace(record, parts=1))

    def parts(self, record: Sequence[LogRecord]) -> Sequence[LogRecord]:
        """Read the parts of one record of `log`, with their bitmaps.

        Raise OutOfRetention if a part is missing or damaged: the log has a hole there.
        """
        (whole,), parts = record, []
        for number in range(self._parts[whole.tier, whole.after, whole.through]):
            self._checkpoint()
            part = replace(whole, part=number)
            try:
                value = self._view.get(record_key(part))
                if value is None:
                    raise BadInput("it isn't there")
                parts.append(decode(value, LogRecord))
            except BadInput as error:
                log.error("part %d of a log record can't be read: %s", part.part, error)
                raise OutOfRetention(
                    f"the log has a hole: part {part.part} of the record ({part.after}, "
                    f"{part.through}] can't be read: {error.what}",
                    where=f"volume {part.volume}",
                    next="Rebuild the log from the commands.",
                ) from error
        return parts

    def delays(self) -> Sequence[PublicationDelays]:
        """Read the publication delays of the partition."""
        rows = self._view.scan(delays_prefix(self._partition))
        return [decode(value, PublicationDelays) for _, value in rows]

    def close(self) -> None:
        """Close the view."""
        self._view.close()
