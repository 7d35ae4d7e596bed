"""The tracking log as a site reads it: records and heads by volume, watermarks by partition."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable

from mirrorlog.codec import decode
from mirrorlog.errors import BadInput
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.tracking_log import LogRecord, SessionBeat, VolumeHead, VolumeLog, Watermark, key_kind

log = logging.getLogger("mirrorlog.site")


class LogReader:
    """Reads every partition of the changelog from the oldest record that compaction left.

    Records and heads count from the watermark on that follows them: before, others of the same flush may not have been
    read, and neither a head's promise (invariant 8) nor a record's coverage would be whole.

    beats: by partition and session, what the session knew as acknowledged at its last heartbeat for all its volumes.
    """

    def __init__(self, reader: TopicReader, admin: TopicAdmin, topic: str) -> None:
        self._reader, self._topic = reader, topic
        partitions = range(admin.partitions(topic))
        self._behind = {partition: admin.end_position(topic, partition) for partition in partitions}
        self._waiting: dict[int, list[LogRecord | VolumeHead | SessionBeat]] = defaultdict(list)
        self.beats: dict[int, dict[str, int]] = defaultdict(dict)
        self.logs: dict[str, VolumeLog] = defaultdict(VolumeLog)
        self.watermarks: dict[int, Watermark] = {}
        reader.assign(topic, dict.fromkeys(partitions))

    def caught_up(self) -> bool:
        """Whether all that was there when the reader began is read.

        Before, a watermark that was read is one of the past: to act on it would copy blocks that change again later on.
        """
        reached = [p for p, end in self._behind.items() if self._reader.reached(self._topic, p) >= end]
        for partition in reached:
            del self._behind[partition]
        return not self._behind

    def poll(self, timeout_s: float, wanted: Callable[[LogRecord], bool] = lambda _: True) -> set[str]:
        """Takes what is there; the volumes of which something new is known. Records not `wanted` aren't kept."""
        touched: set[str] = set()
        for message in self._reader.poll(timeout_s):
            touched |= self._take(message, wanted)
        return touched

    def _take(self, message: Message, wanted: Callable[[LogRecord], bool]) -> set[str]:
        if message.key is None or message.value is None:
            return set()
        try:
            entry = decode(message.value, kind := key_kind(message.key))
        except BadInput as error:
            if kind is not LogRecord:
                raise
            # It is a hole then, and that is found and said; other volumes go on.
            log.error("a log record is damaged: %s (partition %d, %d)", error, message.partition, message.position)
            return set()
        if not isinstance(entry, Watermark):
            self._waiting[message.partition].append(entry)
            return set()
        self.watermarks[message.partition] = entry
        settled = self._waiting.pop(message.partition, [])
        for each in settled:
            if isinstance(each, SessionBeat):
                self.beats[message.partition][each.session] = each.acknowledged_position
            elif isinstance(each, VolumeHead):
                self.logs[each.volume].add_head(each)
            elif wanted(each):
                self.logs[each.volume].add(each)
        return {each.volume for each in settled if not isinstance(each, SessionBeat)}
