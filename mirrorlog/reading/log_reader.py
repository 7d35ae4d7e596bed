"""The tracking log as a site reads it: records and heads by volume, watermarks by partition."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from mirrorlog.codec.events import decode
from mirrorlog.domain.histories import NO_EPOCH
from mirrorlog.domain.log_questions import LogAnswer
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.errors import BadInput
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.reading.clusters import ClusterCheck, IdentifiedCluster
from mirrorlog.reading.mirrored_rows import MirroredRows
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import SessionBeat, VolumeHead, Watermark
from mirrorlog.tracking_log.keys import RecordKey, key_kind, read_record_key, split_log_name
from mirrorlog.tracking_log.records import LogRecord

log = logging.getLogger("mirrorlog.reading")

_POLLS_WITHOUT_END: Final = 20
"""The number of polls without reaching the end after which the reader asks where it is."""
LogRow: TypeAlias = LogRecord | VolumeHead | SessionBeat | RecordKey
"""A row of the log. A RecordKey means that the log deletes the record."""
IsWanted: TypeAlias = Callable[[LogRecord], bool]
"""Says whether the caller needs a record."""
_READ: Final[tuple[type[LogRecord | VolumeHead | SessionBeat | Watermark], ...]] = (
    LogRecord,
    VolumeHead,
    SessionBeat,
    Watermark,
)


class _EndQuestion(NamedTuple):
    """The reader asked for the partition's end, and what it had read by then.

    end: the answer. watermark: the last one that it had read. reached: the position that it had
    reached.
    """

    end: int
    watermark: Watermark
    reached: int


class _ProvenRows(NamedTuple):
    """An answer proves the first `rows` rows that were read of a mirrored partition.

    watermark: the last one by its order among all that was read; None if there is none.
    """

    watermark: Watermark | None
    rows: int


@dataclass(slots=True)
class _PendingRows:
    """The rows that were read of one partition and don't count yet.

    watermark: the last one among the rows. polls: since rows last counted. proven: of a mirror.
    passed: heads of a later history than the watermark's, by their identities, behind which the log
    has a head of the watermark's history. A worker wrote them that had not noticed that the log
    had gone back in time, and no watermark will reach them.
    """

    rows: list[LogRow] = field(default_factory=list)
    watermark: Watermark | None = None
    polls: int = 0
    question: _EndQuestion | None = None
    proven: _ProvenRows | None = None
    passed: dict[int, VolumeHead] = field(default_factory=dict)

    def note_passed(self, order: tuple[int, int]) -> None:
        """Note which heads the log has passed over, if it is complete through `order`."""
        later: dict[str, list[VolumeHead]] = defaultdict(list)
        passed: list[VolumeHead] = []
        for row in self.rows:
            if not isinstance(row, VolumeHead):
                continue
            if id(row) in self.passed:
                passed.append(row)
            if row.epoch > order[0]:
                later[row.volume].append(row)
            elif row.epoch == order[0] and _order(row) <= order:
                passed += later.pop(row.volume, ())
        self.passed = {id(row): row for row in passed}

    def volumes_ahead(self, order: tuple[int, int]) -> set[str]:
        """Return the volumes that have a head which only a later watermark than `order` reaches."""
        return {
            row.volume
            for row in self.rows
            if isinstance(row, VolumeHead) and _order(row) > order and id(row) not in self.passed
        }


class LogReader:
    """Reads the changelog from the oldest record that compaction left.

    A head or a beat counts only with a watermark that has reached its position: before that, other
    rows of its flush may be unread, and what it promises wouldn't be whole (invariant 8). A worker
    that dies in a flush leaves heads without their watermark, and the next watermark may be the one
    of before that flush, which a worker writes again beside a roll-up. What a record says stays
    true, and readers look at the log up to the watermark only: a record counts as soon as a
    watermark does. A roll-up that two workers wrote lies behind the watermark for a moment, and
    compaction may have taken the first copy.

    A watermark counts only once the reader was at the partition's end after it. While the reader
    reads, records are rolled up, and their parts may be compacted away before the reader meets the
    roll-up. But the roll-up, and a watermark after it, lie in the changelog before the tombstones
    of the parts. So a reader that missed a part has its roll-up at the next end. If the end moves
    away faster than the reader reads, the reader asks where the end is; the watermark that it had
    read before the question counts when it reaches that end, with all rows up to there. A head that
    lies behind that watermark may have taken the place of one before it: nobody knows the volume's
    sessions as of the watermark then (VolumeLog.is_ahead).

    A watermark of a later history ends what was read of the partition before: its logs, beats and
    watermark are forgotten. Rows of an earlier history don't count any more: a worker that lost the
    partition may still send them. A record names no history but a generation, which each history
    renews, and a log answers by one generation (VolumeLog). If compaction left only such a head of
    a volume, nobody knows its sessions (VolumeLog.is_replaced).

    The end of a mirror says nothing of the log. There, what was read counts once an answer of the
    node proves it (MirroredRows).

    partitions: those to read; all by default.
    forget_deleted: drop the records that the log deletes, whether they are compacted away or not. A
        site keeps them for as long as it needs them: what a record says stays true, and the parts
        say it more finely than their roll-up.
    site: keep the logs of what this site has missed; those of other sites are never kept.
    mirrored: the topic is a mirror, of which this knows what it proves; None: it is the log itself.
    cluster: whose positions the log holds; None: those of the cluster that `admin` asks.

    Attributes to read:

    logs: by the log's name (a volume, or a missed log), the records and the head.
    watermarks: by partition, the last watermark that counts.
    beats: by partition and session, the position that the session knew as acknowledged at its last
        heartbeat, for all its volumes.
    """

    def __init__(
        self,
        reader: TopicReader,
        admin: TopicAdmin,
        topic: str,
        partitions: Sequence[int] | None = None,
        *,
        forget_deleted: bool = False,
        site: str | None = None,
        mirrored: MirroredRows | None = None,
        cluster: IdentifiedCluster | None = None,
    ) -> None:
        self._reader, self._admin, self._topic = reader, admin, topic
        self._mirrored = mirrored
        self._cluster = ClusterCheck(admin if cluster is None else cluster)
        self._forget_deleted, self._site = forget_deleted, site
        partitions = range(admin.partitions(topic)) if partitions is None else partitions
        # By partition, where it ended at the start; a partition leaves once it is read that far.
        self._unread_ends = {
            partition: admin.end_position(topic, partition) for partition in partitions
        }
        self._pending: dict[int, _PendingRows] = defaultdict(_PendingRows)
        self._unknown_kinds: set[bytes] = set()
        self._names: dict[int, set[str]] = defaultdict(set)
        self._ahead: dict[int, set[str]] = defaultdict(set)
        self.beats: dict[int, dict[str, int]] = defaultdict(dict)
        self.logs: dict[str, VolumeLog] = defaultdict(VolumeLog)
        self.watermarks: dict[int, Watermark] = {}
        self._partitions = set(partitions)
        if mirrored is not None:
            for partition in partitions:
                mirrored.questions.follow(partition)
        reader.assign(topic, dict.fromkeys(partitions))

    def follow_partition(self, partition: int) -> None:
        """Read this partition, too, if it isn't read yet: it was added to the topic.

        Raise KafkaFailed if the topic has no such partition.
        """
        if partition not in self._partitions:
            self._unread_ends[partition] = self._admin.end_position(self._topic, partition)
            if self._mirrored is not None:
                self._mirrored.questions.follow(partition)
            self._reader.assign(self._topic, {partition: None})
            self._partitions.add(partition)

    def leave_partition(self, partition: int) -> None:
        """Read a partition no more, and forget what was read of it. Harmless if it isn't read."""
        if partition not in self._partitions:
            return
        self._reader.unassign(self._topic, [partition])
        self._partitions.discard(partition)
        for name in self._names.pop(partition, set()) | self._ahead.pop(partition, set()):
            self.logs.pop(name, None)
        for known in (self._unread_ends, self._pending, self.beats, self.watermarks):
            known.pop(partition, None)
        if self._mirrored is not None:
            self._mirrored.leave(partition)

    def read_again(self, partition: int) -> None:
        """Read a partition once more from the oldest record that is left.

        A caller that didn't want records may want them now. `caught_up` is False until then.
        """
        self._unread_ends[partition] = self._admin.end_position(self._topic, partition)
        self._reader.assign(self._topic, {partition: None})

    def caught_up(self) -> bool:
        """Return whether all that was there when the reader began is read, and counts.

        Before that, a watermark is one of the past: acting on it would copy blocks that change
        again later in the log.
        """
        if self._mirrored is not None:
            return not self._unread_ends
        for partition, end in list(self._unread_ends.items()):
            is_reached = self._reader.reached(self._topic, partition) >= end
            if is_reached and self._pending[partition].watermark is None:
                del self._unread_ends[partition]
        return not self._unread_ends

    def poll(self, timeout_s: float, is_wanted: IsWanted = lambda _: True) -> set[str]:
        """Read what has arrived; wait up to `timeout_s` for something.

        Return the volumes of which something new counts: a site decides by next_step what to do
        with each (consumers/resync/cycle.py). Records that aren't wanted aren't kept.
        Raise BadInput for a damaged row, except for a record: that is a hole, and its volume's
        readers find it. Raise WrongCluster if the log is a mirror of another cluster's.
        """
        for message in self._reader.poll(timeout_s):
            self._take(message, is_wanted)
        touched: set[str] = set()
        for partition, pending in self._pending.items():
            if self._mirrored is not None:
                touched |= self._count_proven(partition, pending, is_wanted)
            elif pending.watermark is not None:
                touched |= self._count_pending(partition, pending, is_wanted)
        if self._mirrored is not None:
            self._mirrored.questions.put_due()
        return touched

    def _take(self, message: Message, is_wanted: IsWanted) -> None:
        """Add a message to what is pending of its partition."""
        if message.key is None:
            return
        pending = self._pending[message.partition]
        if self._mirrored is not None and not self._is_row(message, pending, self._mirrored):
            return
        if message.value is None:
            if self._forget_deleted and key_kind(message.key) is LogRecord:
                pending.rows.append(read_record_key(message.key))
            return
        row = self._row(message.key, message.value, message)
        if isinstance(row, Watermark):
            self._cluster.check_watermark(row)
            # A worker that lost the partition may still send an old one.
            if pending.watermark is None or row.order >= pending.watermark.order:
                pending.watermark = row
        elif row is not None and (not isinstance(row, LogRecord) or self._is_kept(row, is_wanted)):
            pending.rows.append(row)

    def _is_row(self, message: Message, pending: _PendingRows, mirrored: MirroredRows) -> bool:
        """Return whether a message of a mirror is a row, and no answer. Hold it against the node.

        An answer proves the rows before it, unless one of them is a head that no watermark has
        reached: the worker died in a flush, and what was the head before may be gone.
        """
        assert message.key is not None
        partition = message.partition
        if key_kind(message.key) is not LogAnswer:
            mirrored.note_row(partition, message.key, message.value)
            return True
        last = max(
            (mark for mark in (pending.watermark, self.watermarks.get(partition)) if mark),
            key=lambda mark: mark.order,
            default=None,
        )
        order = (NO_EPOCH, BEFORE_FIRST) if last is None else last.order
        pending.note_passed(order)
        is_cut_off = bool(pending.volumes_ahead(order))
        if mirrored.take_answer(message, last, is_cut_off=is_cut_off):
            pending.proven = _ProvenRows(last, len(pending.rows))
        return False

    def _count_proven(self, partition: int, pending: _PendingRows, is_wanted: IsWanted) -> set[str]:
        """Let the rows of a mirror count that an answer has proved."""
        if pending.proven is None:
            return set()
        watermark, count = pending.proven
        pending.proven = None
        self._unread_ends.pop(partition, None)
        if watermark is None:
            return set()
        if pending.watermark is watermark:
            pending.watermark = None
        return self._count_rows(partition, pending, watermark, count, is_wanted)

    def _count_pending(
        self, partition: int, pending: _PendingRows, is_wanted: IsWanted
    ) -> set[str]:
        """Let the watermark and the rows count, if the reader is at an end after the watermark."""
        assert pending.watermark is not None
        pending.polls += 1
        reached = self._reader.reached(self._topic, partition)
        if self._reader.at_end(self._topic, partition):
            watermark, count, read = pending.watermark, len(pending.rows), reached
            pending.watermark = None
        elif pending.question is not None and reached >= pending.question.end:
            # What was compacted away before the watermark has its roll-up before this end.
            _, watermark, read = pending.question
            count = len(pending.rows)
        else:
            if pending.question is None and pending.polls > _POLLS_WITHOUT_END:
                end = self._admin.end_position(self._topic, partition)
                pending.question = _EndQuestion(end, pending.watermark, reached)
            return set()
        if read >= self._unread_ends.get(partition, 0):
            self._unread_ends.pop(partition, None)
        return self._count_rows(partition, pending, watermark, count, is_wanted)

    def _count_rows(
        self,
        partition: int,
        pending: _PendingRows,
        watermark: Watermark,
        count: int,
        is_wanted: IsWanted,
    ) -> set[str]:
        """Let the watermark, and the first `count` rows, count. Return the volumes of the rows."""
        known = self.watermarks.get(partition)
        if known is not None and watermark.epoch > known.epoch:
            self._forget_history(partition, known, watermark)
        if known is None or watermark.order >= known.order:
            self.watermarks[partition] = watermark
        rows, later = pending.rows[:count], pending.rows[count:]
        counting = self.watermarks[partition].order
        pending.note_passed(counting)
        now: list[LogRow] = []
        early: list[LogRow] = []
        for row in rows:
            (now if _order(row) <= counting else early).append(row)
        pending.rows = [*early, *later]
        pending.polls, pending.question = 0, None
        touched = self._count(partition, now, is_wanted)
        self._note_ahead(partition, pending.volumes_ahead(counting))
        return touched

    def _note_ahead(self, partition: int, ahead: set[str]) -> None:
        """Note of which volumes a head was read that no watermark has reached."""
        for name in self._ahead[partition] - ahead:
            self.logs[name].is_ahead = False
        for name in ahead:
            self.logs[name].is_ahead = True
        self._ahead[partition] = ahead

    def _count(self, partition: int, rows: Iterable[LogRow], is_wanted: IsWanted) -> set[str]:
        """Add rows to the logs; return their volumes."""
        touched = set()
        epoch = self.watermarks[partition].epoch
        for row in rows:
            if isinstance(row, SessionBeat | VolumeHead) and row.epoch != epoch:
                self._note_replaced(partition, row, epoch)
                continue
            if isinstance(row, SessionBeat):
                beats = self.beats[partition]
                known = beats.get(row.session, BEFORE_FIRST)
                beats[row.session] = max(row.acknowledged_position, known)
                continue
            touched.add(split_log_name(row.volume)[0])
            self._names[partition].add(row.volume)
            if isinstance(row, RecordKey):
                self.logs[row.volume].drop(row)
            elif isinstance(row, VolumeHead):
                self.logs[row.volume].add_head(row)
            elif is_wanted(row):
                self.logs[row.volume].add(row)
        return touched

    def _note_replaced(self, partition: int, row: SessionBeat | VolumeHead, epoch: int) -> None:
        """Note that a volume has no head of the watermark's history, but one of an earlier one.

        A renewal writes a head of each volume, and a node whose log others write to writes all of
        them again. An older node's log has heads without an epoch (NO_EPOCH).
        """
        if isinstance(row, VolumeHead) and NO_EPOCH < row.epoch < epoch:
            volume_log = self.logs[row.volume]
            volume_log.is_replaced = volume_log.head is None
            self._names[partition].add(row.volume)

    def _forget_history(self, partition: int, before: Watermark, now: Watermark) -> None:
        """Forget what was read of the partition: it belongs to an earlier history."""
        log.warning(
            "partition %d: its history of epoch %d ended, and another began: what was read of it "
            "no longer counts (epoch %d, from position %d on)",
            partition,
            before.epoch,
            now.epoch,
            now.through + 1,
        )
        for name in self._names.pop(partition, set()):
            ended = self.logs.pop(name, None)
            if ended is not None and ended.head is not None:
                self._note_replaced(partition, ended.head, now.epoch)
        self.beats.pop(partition, None)

    def _is_kept(self, record: LogRecord, is_wanted: IsWanted) -> bool:
        return split_log_name(record.volume)[1] in (None, self._site) and is_wanted(record)

    def _row(
        self, key: bytes, value: bytes, message: Message
    ) -> LogRecord | VolumeHead | SessionBeat | Watermark | None:
        """Return the row in a message.

        Return None if it isn't for readers of the log, or is a damaged record.
        """
        named = key_kind(key)
        kind = next((kind for kind in _READ if kind is named), None)
        if kind is None:
            if named is None and key[:2] not in self._unknown_kinds:
                self._unknown_kinds.add(key[:2])
                log.warning(
                    "the log has rows that this mirrorlog doesn't know (%s…): "
                    "a newer node writes it",
                    key[:2].hex(),
                )
            return None
        try:
            return decode(value, kind)
        except BadInput as error:
            if kind is not LogRecord:
                raise
            # The record is a hole then. Readers of its volume find it; other volumes go on.
            log.error(
                "a log record is damaged: %s (partition %d, %d)",
                error,
                message.partition,
                message.position,
            )
            return None


def _order(row: LogRow) -> tuple[int, int]:
    """Return the order of the first watermark with which a row may count (Watermark.order).

    A record's may be any: what it says stays true.
    """
    match row:
        case SessionBeat():
            return row.epoch, row.position
        case VolumeHead():
            return row.epoch, max(row.through, row.order[1])
    return NO_EPOCH, BEFORE_FIRST
