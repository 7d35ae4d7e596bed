"""The tracking log as a site reads it: records and heads by volume, watermarks by partition."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from mirrorlog.codec import decode
from mirrorlog.ports.streams import Message, TopicReader
from mirrorlog.tracking_log import LogRecord, VolumeHead, VolumeLog, Watermark, key_kind


class LogReader:
    """Reads every partition of the changelog from the oldest record that compaction left.

    A head counts from the watermark that follows it on: before, records of the same flush may not have been read yet,
    and the head would promise what they say (invariant 8).
    """

    def __init__(self, reader: TopicReader, topic: str, partitions: int) -> None:
        self._reader = reader
        self._heads: dict[int, list[VolumeHead]] = defaultdict(list)
        self.logs: dict[str, VolumeLog] = defaultdict(VolumeLog)
        self.watermarks: dict[int, Watermark] = {}
        reader.assign(topic, dict.fromkeys(range(partitions)))

    def poll(self, timeout_s: float, wanted: Callable[[LogRecord], bool]) -> set[str]:
        """Takes what is there; the volumes of which something new is known. Records not `wanted` aren't kept."""
        touched: set[str] = set()
        for message in self._reader.poll(timeout_s):
            touched |= self._take(message, wanted)
        return touched

    def _take(self, message: Message, wanted: Callable[[LogRecord], bool]) -> set[str]:
        if message.key is None or message.value is None:
            return set()
        kind = key_kind(message.key)
        if kind is LogRecord:
            record = decode(message.value, LogRecord)
            if wanted(record):
                self.logs[record.volume].add(record)
            return set()
        if kind is VolumeHead:
            self._heads[message.partition].append(decode(message.value, VolumeHead))
            return set()
        self.watermarks[message.partition] = decode(message.value, Watermark)
        heads = self._heads.pop(message.partition, [])
        for head in heads:
            self.logs[head.volume].add_head(head)
        return {head.volume for head in heads}
