"""The log of one volume, complete through a position: the port that a question reads, and the adapter that reads the topic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import TopicAdmin, TopicReader
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.records import LogRecord


class LogView(Protocol):
    """A volume's log as all of it was at one moment, however the log is rolled up meanwhile."""

    @property
    def log(self) -> VolumeLog:
        """Every record above the volume's origin, and the head. The records may come without their bitmaps."""

    @property
    def complete_through(self) -> int:
        """Up to which position the partition's log was complete at that moment."""

    def parts(self, record: Sequence[LogRecord]) -> Sequence[LogRecord]:
        """The parts of one record of `log`, with their bitmaps."""

    def close(self) -> None:
        """Lets go of what holds the view still; `log` stays."""


class VolumeLogs(Protocol):
    """Where the logs of volumes are read."""

    def read(self, volume: Volume, needed: int, patience_s: float) -> LogView:
        """The volume's log once it is complete through position `needed`; KafkaFailed where it isn't by `patience_s`."""


class TopicLogs:
    """Reads the changelog topic: the volume's partition of it, from the oldest record on."""

    def __init__(
        self, open_reader: Callable[[], TopicReader], admin: TopicAdmin, topic: str, clock: Clock
    ) -> None:
        self._open_reader, self._admin, self._topic, self._clock = open_reader, admin, topic, clock

    def read(self, volume: Volume, needed: int, patience_s: float) -> LogView:
        """Reads until all that was there is read and the log is complete through `needed`."""

        def is_wanted(record: LogRecord) -> bool:
            return record.volume == volume.volume and record.through > volume.origin_position

        until_s = self._clock.monotonic_s() + patience_s
        reader = self._open_reader()
        try:
            log = LogReader(reader, self._admin, self._topic, [volume.partition], drops=True)
            while True:
                log.poll(0.2, is_wanted)
                mark = log.watermarks.get(volume.partition)
                complete_through = mark.through if mark else BEFORE_FIRST
                if log.caught_up() and max(complete_through, volume.origin_position) >= needed:
                    return _Held(log.logs[volume.volume], complete_through)
                if self._clock.monotonic_s() > until_s:
                    raise incomplete(volume, needed, complete_through, patience_s)
        finally:
            reader.close()


class _Held:
    """All of it in memory."""

    def __init__(self, log: VolumeLog, complete_through: int) -> None:
        self.log, self.complete_through = log, complete_through

    def parts(self, record: Sequence[LogRecord]) -> Sequence[LogRecord]:
        return record

    def close(self) -> None:
        pass


def incomplete(
    volume: Volume, needed: int, complete_through: int, patience_s: float
) -> KafkaFailed:
    """The error for a log that didn't get there in time."""
    return KafkaFailed(
        f"the log isn't complete through position {needed} after {patience_s:g} s",
        where=f"volume {volume.volume}, partition {volume.partition}, complete through {complete_through}",
        next="Is the node running?",
    )
