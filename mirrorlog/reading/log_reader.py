"""The tracking log as a site reads it: records and heads by volume, watermarks by partition."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from mirrorlog.codec.events import decode
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.errors import BadInput
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import SessionBeat, VolumeHead, Watermark
from mirrorlog.tracking_log.keys import RecordKey, key_kind, read_record_key, split_log_name
from mirrorlog.tracking_log.records import LogRecord

log = logging.getLogger("mirrorlog.site")

_POLLS_WITHOUT_END: Final = 20
Entry: TypeAlias = LogRecord | VolumeHead | SessionBeat | RecordKey
"""A RecordKey: the log drops the record."""
_READ: Final[tuple[type[LogRecord | VolumeHead | SessionBeat | Watermark], ...]] = (
    LogRecord,
    VolumeHead,
    SessionBeat,
    Watermark,
)


@dataclass(slots=True)
class _Unsettled:
    """What was read of one partition and doesn't count yet. before_mark: so many of the entries lie before `mark`.

    asked: the end that was asked for, and then: the watermark, what lay before it, and what had been read.
    """

    entries: list[Entry] = field(default_factory=list)
    mark: Watermark | None = None
    before_mark: int = 0
    polls: int = 0
    asked: tuple[int, Watermark, int, int] | None = None


class LogReader:
    """Reads the changelog, every partition of it or those asked for, from the oldest record that compaction left.

    What is read counts from the watermark on that follows it: before, others of the same flush may not have been read, and
    neither a head's promise (invariant 8) nor a record's coverage would be whole.

    And a watermark counts only once the reader was at the partition's end after it. While somebody reads, records are
    rolled up, and their parts are compacted away before he meets the roll-up. But the roll-up, and a watermark behind it,
    were in the changelog before the tombstones of the parts: whoever missed a part has its roll-up at the next end. Where
    the end runs ahead, it is asked for, and what was read before the question counts when it is reached.

    What the log drops a site keeps for as long as it needs it: what a record says stays true, and parts say it more finely
    than their roll-up. With `drops` the reader drops it too, whether the cleaner has been there or not.

    Of the logs of what sites have missed it keeps those of `site`, and none of the others.

    beats: by partition and session, what the session knew as acknowledged at its last heartbeat for all its volumes.
    """

    def __init__(
        self,
        reader: TopicReader,
        admin: TopicAdmin,
        topic: str,
        partitions: Sequence[int] | None = None,
        *,
        drops: bool = False,
        site: str | None = None,
    ) -> None:
        self._reader, self._admin, self._topic, self._drops, self._site = (
            reader,
            admin,
            topic,
            drops,
            site,
        )
        partitions = range(admin.partitions(topic)) if partitions is None else partitions
        self._behind = {partition: admin.end_position(topic, partition) for partition in partitions}
        self._unsettled: dict[int, _Unsettled] = defaultdict(_Unsettled)
        self._unknown_kinds: set[bytes] = set()
        self.beats: dict[int, dict[str, int]] = defaultdict(dict)
        self.logs: dict[str, VolumeLog] = defaultdict(VolumeLog)
        self.watermarks: dict[int, Watermark] = {}
        reader.assign(topic, dict.fromkeys(partitions))

    def caught_up(self) -> bool:
        """Whether all that was there when the reader began is read, and counts.

        Before, a watermark that was read is one of the past: to act on it would copy blocks that change again later on.
        """
        reached = [
            p for p, end in self._behind.items() if self._reader.reached(self._topic, p) >= end
        ]
        for partition in reached:
            if self._unsettled[partition].mark is None:
                del self._behind[partition]
        return not self._behind

    def poll(
        self, timeout_s: float, wanted: Callable[[LogRecord], bool] = lambda _: True
    ) -> set[str]:
        """Takes what is there; the volumes of which something new is known. Records not `wanted` aren't kept."""
        for message in self._reader.poll(timeout_s):
            self._take(message, wanted)
        touched: set[str] = set()
        for partition, unsettled in self._unsettled.items():
            if unsettled.mark is not None:
                touched |= self._settle(partition, unsettled, wanted)
        return touched

    def _take(self, message: Message, wanted: Callable[[LogRecord], bool]) -> None:
        if message.key is None:
            return
        if message.value is None:
            if self._drops and key_kind(message.key) is LogRecord:
                self._unsettled[message.partition].entries.append(read_record_key(message.key))
            return
        entry = self._entry(message.key, message.value, message)
        unsettled = self._unsettled[message.partition]
        if isinstance(entry, Watermark):
            # A worker that lost the partition may still send an old one.
            if unsettled.mark is None or entry.through >= unsettled.mark.through:
                unsettled.mark = entry
            unsettled.before_mark = len(unsettled.entries)
        elif entry is not None and (
            not isinstance(entry, LogRecord) or self._is_kept(entry, wanted)
        ):
            unsettled.entries.append(entry)

    def _settle(
        self, partition: int, unsettled: _Unsettled, wanted: Callable[[LogRecord], bool]
    ) -> set[str]:
        """Lets what is before the watermark count, if the reader is at the end, or at one that was asked for since."""
        assert unsettled.mark is not None
        unsettled.polls += 1
        reached = self._reader.reached(self._topic, partition)
        if self._reader.at_end(self._topic, partition):
            mark, count, read = unsettled.mark, unsettled.before_mark, reached
            while count < len(unsettled.entries) and isinstance(
                unsettled.entries[count], RecordKey
            ):
                count += 1  # what is dropped is held by what counts now, or by nothing
            unsettled.mark = None
        elif unsettled.asked is not None and reached >= unsettled.asked[0]:
            _, mark, count, read = unsettled.asked
        else:
            if unsettled.asked is None and unsettled.polls > _POLLS_WITHOUT_END:
                end = self._admin.end_position(self._topic, partition)
                unsettled.asked = (end, unsettled.mark, unsettled.before_mark, reached)
            return set()
        if read >= self._behind.get(partition, 0):
            self._behind.pop(partition, None)
        known = self.watermarks.get(partition)
        if known is None or mark.through >= known.through:
            self.watermarks[partition] = mark
        settled, unsettled.entries = unsettled.entries[:count], unsettled.entries[count:]
        unsettled.before_mark = max(0, unsettled.before_mark - count)
        unsettled.polls, unsettled.asked = 0, None
        return self._count(partition, settled, wanted)

    def _count(
        self, partition: int, settled: Iterable[Entry], wanted: Callable[[LogRecord], bool]
    ) -> set[str]:
        touched = set()
        for each in settled:
            if isinstance(each, SessionBeat):
                beats = self.beats[partition]
                beats[each.session] = max(
                    each.acknowledged_position, beats.get(each.session, BEFORE_FIRST)
                )
                continue
            touched.add(split_log_name(each.volume)[0])
            if isinstance(each, RecordKey):
                self.logs[each.volume].drop(each)
            elif isinstance(each, VolumeHead):
                self.logs[each.volume].add_head(each)
            elif wanted(each):
                self.logs[each.volume].add(each)
        return touched

    def _is_kept(self, record: LogRecord, wanted: Callable[[LogRecord], bool]) -> bool:
        return split_log_name(record.volume)[1] in (None, self._site) and wanted(record)

    def _entry(
        self, key: bytes, value: bytes, message: Message
    ) -> LogRecord | VolumeHead | SessionBeat | Watermark | None:
        """What a row says; None where it isn't for a reader of the log."""
        named = key_kind(key)
        kind = next((each for each in _READ if each is named), None)
        if kind is None:
            if named is None and key[:2] not in self._unknown_kinds:
                self._unknown_kinds.add(key[:2])
                log.warning(
                    "the log has rows that this mirrorlog doesn't know (%s…): a newer node writes it",
                    key[:2].hex(),
                )
            return None
        try:
            return decode(value, kind)
        except BadInput as error:
            if kind is not LogRecord:
                raise
            # It is a hole then, and that is found and said; other volumes go on.
            log.error(
                "a log record is damaged: %s (partition %d, %d)",
                error,
                message.partition,
                message.position,
            )
            return None
