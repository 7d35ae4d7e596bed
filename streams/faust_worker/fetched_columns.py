"""What one fetch brings of a partition of the commands, by column.

aiokafka makes an object of eleven fields for each message, in a generator, and that costs more than
decoding the message. Here the fetched messages of the commands topic become columns in one step,
one record batch after the other (record_batches.py). They are the same messages
(tests/unit/streams/test_fetched_columns.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from mirrorlog.streams.faust_worker.record_batches import BatchReader, RecordBatch

_LOG_APPEND_TIME: Final = 1
"""aiokafka's number for a timestamp that is the broker's."""
_UNREAD_PATIENCE_S: Final = 10.0
"""How long commands that wait to be read keep those of other partitions from being fetched.

aiokafka has one request to a broker under way. After its own patience, 0.1 s, it would ask for the
partitions that have nothing to be read. If they have nothing to be fetched either, the broker
answers after 1.5 s, and until then no partition gets anything.
"""


@dataclass(frozen=True, slots=True, eq=False)
class FetchedColumns:
    """At least one message of one partition.

    offsets, keys, values, timestamps: one for each message; timestamps in milliseconds since 1970.
    ends_by_broker, all_by_broker: the broker set the timestamp of the last one, or of all.
    last: aiokafka's record of the last one.
    headers: of each message; None if nobody wants them.
    """

    offsets: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    timestamps: Sequence[int]
    ends_by_broker: bool
    all_by_broker: bool
    last: Any
    headers: Sequence[Sequence[tuple[str, bytes]]] | None = None


class FetchedPartition:
    """Stands in the place of aiokafka's PartitionRecords: yields FetchedColumns, at most once.

    fetched: the PartitionRecords, of which nothing was read. It reads uncommitted (invariant 16).
    reader: of its batches, shared with the other partitions of the consumer's thread.
    with_headers: whether the headers of the messages are wanted.
    next_fetch_offset: where the next fetch begins. It moves once all messages are read.
    """

    def __init__(self, fetched: Any, reader: BatchReader, *, with_headers: bool = False) -> None:
        # Its unused generator refers to it: the bytes would stay until garbage is collected.
        fetched._records_iterator = None
        self._fetched: Any = fetched
        self._reader = reader
        self._with_headers = with_headers
        self._is_read = False
        self.next_fetch_offset: int = fetched.next_fetch_offset

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> FetchedColumns:
        """Return the messages. Raise CorruptRecordException if a checksum isn't right.

        The messages are fetched again then.
        """
        if self._is_read:
            raise StopIteration
        self._is_read = True
        fetched: Any = self._fetched
        self._fetched = None
        columns, self.next_fetch_offset = _read(
            fetched, self._reader, with_headers=self._with_headers
        )
        if columns is None:
            raise StopIteration
        return columns


def _read(
    fetched: Any, reader: BatchReader, *, with_headers: bool
) -> tuple[FetchedColumns | None, int]:
    """Return the messages, None if there is none, and where the next fetch begins.

    As PartitionRecords does: control batches, and messages before the fetch's offset, which begins
    inside a batch, are left out.
    """
    rows = _Rows(with_headers=with_headers)
    next_offset: int = fetched.next_fetch_offset
    for batch in reader.batches(fetched._records, check_crcs=fetched._check_crcs):
        if not batch.is_control:
            rows.add(batch, next_offset)
        next_offset = batch.next_offset
    last = rows.last
    if last is None:
        return None, next_offset
    ends_by_broker = last.timestamp_type == _LOG_APPEND_TIME
    columns = FetchedColumns(
        rows.offsets,
        rows.keys,
        rows.values,
        rows.timestamps,
        ends_by_broker,
        # From a message with the broker's time on, all have it.
        ends_by_broker and rows.first_time_type == _LOG_APPEND_TIME,
        fetched._consumer_record(fetched._tp, last),
        rows.headers if with_headers else None,
    )
    return columns, next_offset


class _Rows:
    """The columns of the messages that were read so far.

    first_time_type: the kind of the first one's timestamp. last: aiokafka's record of the last one.
    """

    def __init__(self, *, with_headers: bool) -> None:
        self._with_headers = with_headers
        self.offsets: list[int] = []
        self.keys: list[bytes | None] = []
        self.values: list[bytes | None] = []
        self.timestamps: list[int] = []
        self.headers: list[Sequence[tuple[str, bytes]]] = []
        self.first_time_type: int | None = None
        self.last: Any = None

    def add(self, batch: RecordBatch, first_offset: int) -> None:
        """Add the messages of a batch from an offset on."""
        base, appended_ms = batch.first_offset, batch.appended_ms
        if self._with_headers or base is None or base < first_offset or appended_ms is None:
            self._add_each(batch.records, first_offset)
        else:
            self._add_alike(batch.records, base, appended_ms)
        if self.first_time_type is None and self.last is not None:
            self.first_time_type = self.last.timestamp_type  # all records of a batch have the same

    def _add_each(self, records: Any, first_offset: int) -> None:
        for record in records:
            if record.offset >= first_offset:
                self.offsets.append(record.offset)
                self.keys.append(record.key)
                self.values.append(record.value)
                self.timestamps.append(record.timestamp)
                if self._with_headers:
                    self.headers.append(tuple(record.headers))
                self.last = record

    def _add_alike(self, records: Any, base: int, appended_ms: int) -> None:
        """Add records whose offsets follow one another, and which have one time.

        To ask each record for both would take as long as to ask it for its key and its value.
        """
        before = len(self.keys)
        add_key, add_value = self.keys.append, self.values.append
        for record in records:
            add_key(record.key)
            add_value(record.value)
            self.last = record
        count = len(self.keys) - before
        self.offsets.extend(range(base, base + count))
        self.timestamps.extend([appended_ms] * count)


class FetchedResults(OrderedDict[Any, Any]):
    """The results of a Fetcher of aiokafka, of which those of one topic become columns.

    results: those that it has already. with_headers: whether headers of messages are wanted.
    """

    def __init__(
        self, topic: str, results: Mapping[Any, Any], *, with_headers: bool = False
    ) -> None:
        super().__init__()
        self._topic, self._with_headers = topic, with_headers
        self._reader = BatchReader()
        for tp, result in results.items():
            self[tp] = result

    def __setitem__(self, tp: Any, result: Any) -> None:
        """Enter a result (FetchResult), or an error (FetchError), which has no records."""
        fetched: Any = getattr(result, "_partition_records", None)
        if tp.topic == self._topic and fetched is not None:
            result._partition_records = FetchedPartition(
                fetched, self._reader, with_headers=self._with_headers
            )
            result._backoff = _UNREAD_PATIENCE_S
        super().__setitem__(tp, result)


def fetch_by_column(fetcher: Any, topic: str, *, with_headers: bool) -> None:
    """Let a Fetcher of aiokafka hand on FetchedColumns of that topic, and records of all others.

    with_headers: whether the columns have the headers of the messages.
    """
    if not isinstance(fetcher._records, FetchedResults):
        fetcher._records = FetchedResults(topic, fetcher._records, with_headers=with_headers)
