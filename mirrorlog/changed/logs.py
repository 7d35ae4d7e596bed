"""The log of one volume, complete through a position.

LogView and VolumeLogSource are what a question reads; TopicLogSource reads the changelog topic.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from typing import Protocol

from mirrorlog.codec.events import decode
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.reading.log_reader import IsWanted, LogReader
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import complete_through
from mirrorlog.tracking_log.keys import delays_prefix
from mirrorlog.tracking_log.publication_delays import PublicationDelays
from mirrorlog.tracking_log.records import LogRecord


class LogView(Protocol):
    """The whole log of a volume at one moment, even if the log is rolled up meanwhile."""

    @property
    def log(self) -> VolumeLog:
        """The records above the volume's origin, maybe without their bitmaps, and the head."""

    @property
    def complete_through(self) -> int:
        """The position through which the partition's log was complete at that moment."""

    def parts(self, record: Sequence[LogRecord]) -> Sequence[LogRecord]:
        """Return the parts of one record of `log`, with their bitmaps."""

    def delays(self) -> Sequence[PublicationDelays]:
        """Return the publication delays of the partition, in any order. Any may be missing."""

    def close(self) -> None:
        """Release what the view holds, except for `log`."""


class VolumeLogSource(Protocol):
    """A source from which a question reads the logs of volumes."""

    def read(self, volume: Volume, needed: int, patience_s: float) -> LogView:
        """Return the volume's log once it is complete through position `needed`.

        Raise KafkaFailed if it isn't complete within `patience_s`.
        """


class TopicLogSource:
    """Reads the changelog topic: the volume's partition of it, from the oldest record on."""

    def __init__(
        self, open_reader: Callable[[], TopicReader], admin: TopicAdmin, topic: str, clock: Clock
    ) -> None:
        self._open_reader, self._admin, self._topic, self._clock = open_reader, admin, topic, clock

    def read(self, volume: Volume, needed: int, patience_s: float) -> LogView:
        """Read until all that was there is read and the log is complete through `needed`.

        Raise KafkaFailed if that takes longer than `patience_s`.
        """

        until_s = self._clock.monotonic_s() + patience_s
        with closing(self._open_reader()) as topic_reader:
            reader = _RowsBeside(topic_reader, delays_prefix(volume.partition))
            log = LogReader(
                reader, self._admin, self._topic, [volume.partition], forget_deleted=True
            )
            while True:
                log.poll(0.2, records_of(volume))
                through = complete_through(log.watermarks.get(volume.partition), volume)
                if log.caught_up() and max(through, volume.origin_position) >= needed:
                    return LoadedLog(log.logs[volume.volume], through, reader.values())
                if self._clock.monotonic_s() > until_s:
                    raise incomplete(volume, needed, through, patience_s)


def records_of(volume: Volume) -> IsWanted:
    """Return what chooses the records of a volume's log above its origin."""

    def is_wanted(record: LogRecord) -> bool:
        return record.volume == volume.volume and record.through > volume.origin_position

    return is_wanted


class _RowsBeside:
    """A TopicReader that keeps the rows of the log whose keys begin with `prefix`."""

    def __init__(self, reader: TopicReader, prefix: bytes) -> None:
        self._reader, self._prefix = reader, prefix
        self._rows: dict[bytes, bytes | None] = {}

    def values(self) -> list[bytes]:
        """Return the last values under these keys, without those that were deleted."""
        return [value for value in self._rows.values() if value is not None]

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
        messages = self._reader.poll(timeout_s, max_messages=max_messages)
        for message in messages:
            if message.key is not None and message.key.startswith(self._prefix):
                self._rows[message.key] = message.value
        return messages

    def assign(self, topic: str, positions: Mapping[int, int | None]) -> None:
        self._reader.assign(topic, positions)

    def unassign(self, topic: str, partitions: Collection[int]) -> None:
        self._reader.unassign(topic, partitions)

    def reached(self, topic: str, partition: int) -> int:
        return self._reader.reached(topic, partition)

    def at_end(self, topic: str, partition: int) -> bool:
        return self._reader.at_end(topic, partition)

    def close(self) -> None:
        self._reader.close()


class LoadedLog:
    """A LogView that holds all records in memory, with their bitmaps.

    delays: the publication delays of the partition, encoded.
    """

    def __init__(self, log: VolumeLog, complete_through: int, delays: Sequence[bytes] = ()) -> None:
        self.log, self.complete_through, self._delays = log, complete_through, delays

    def parts(self, record: Sequence[LogRecord]) -> Sequence[LogRecord]:
        return record

    def delays(self) -> Sequence[PublicationDelays]:
        return [decode(value, PublicationDelays) for value in self._delays]

    def close(self) -> None:
        pass


def incomplete(
    volume: Volume, needed: int, complete_through: int, patience_s: float
) -> KafkaFailed:
    """Return the error for a log that isn't complete in time."""
    return KafkaFailed(
        f"the log isn't complete through position {needed} after {patience_s:g} s",
        where=f"volume {volume.volume}, partition {volume.partition}, "
        f"complete through {complete_through}",
        next="Check that the node runs.",
    )
