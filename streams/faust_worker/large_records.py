"""Large records, sent with fewer copies.

The records of a large flush have up to 900 kB each. aiokafka copies such a record into a buffer
that grows, and its wheels compute the checksum without the processor's instruction. Then asyncio,
before Python 3.12, copies twice what a socket doesn't take at once. Here a batch that begins with a
large record keeps its parts until it is sent, google-crc32c computes their checksum where they are,
and what is left to send is copied once.

Everything else stays aiokafka's: which records are in a batch, when it is sent, and all batches
that are compressed, begin with a small record, or belong to a transaction.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from aiokafka.record.util import encode_varint
from google_crc32c import extend as extend_crc32c

from mirrorlog.streams.faust_worker.kafka_connections import prepare_connections
from mirrorlog.streams.faust_worker.record_batches import CHECKED_FROM, HEADER, MAGIC, SIZED_FROM

_LARGE_BYTES: Final = 1 << 15


def send_in_place(producer: Any) -> None:
    """Let an AIOKafkaProducer, which isn't started, send large records with fewer copies."""
    accumulator: Any = producer._message_accumulator
    create_builder = accumulator.create_builder

    def builder_of_parts(*arguments: Any, **named: Any) -> Any:
        batch: Any = create_builder(*arguments, **named)
        if not accumulator._compression_type and accumulator._txn_manager is None:
            batch._builder = BatchOfParts(batch._builder, accumulator._batch_size)
        return batch

    accumulator.create_builder = builder_of_parts
    prepare_connections(producer.client, _write_views)


def _write_views(connection: Any) -> None:
    """Let a connection hand views to its transport, which copies a part of bytes."""
    writer: Any = connection._writer
    if "write" not in vars(writer):
        transport = writer.transport
        writer.write = lambda data: transport.write(memoryview(data))


class SentRecord(NamedTuple):
    """What aiokafka wants to know of a record in a batch. timestamp: milliseconds since 1970."""

    offset: int
    size: int
    timestamp: int


class BatchOfParts:
    """Builds one batch in the place of aiokafka's DefaultRecordBatchBuilder.

    The format is that of Kafka's protocol guide, "Record Batch" and "Record".

    own: aiokafka's builder of this batch, which builds it if its first record is small.
    limit_bytes: a record that makes the batch larger doesn't belong to it, unless it is the first.
    """

    def __init__(self, own: Any, limit_bytes: int) -> None:
        self._own, self._limit_bytes = own, limit_bytes
        self._is_own: bool | None = None
        self._parts: list[bytes] = []
        self._size_bytes = HEADER.size
        self._timestamps: list[int] = []

    def append(
        self,
        offset: int,
        timestamp: int | None,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
    ) -> Any:
        """Add a record. Return a SentRecord, or aiokafka's; None if the batch has no room."""
        if self._is_own is None:
            self._is_own = value is None or len(value) < _LARGE_BYTES
        if self._is_own:
            return self._own.append(offset, timestamp, key=key, value=value, headers=headers)
        if timestamp is None:
            timestamp = int(time.time() * 1000)
        since_first = timestamp - self._timestamps[0] if self._timestamps else 0
        before = b"".join((b"\0", _varint(since_first), _varint(offset), _sized(key)))
        length = _varint(-1 if value is None else len(value))
        behind = _headers(headers)
        body_bytes = len(before) + len(length) + len(value or b"") + len(behind)
        parts = [_varint(body_bytes) + before + length, value or b"", behind]
        size_bytes = sum(map(len, parts))
        if self._timestamps and self._size_bytes + size_bytes > self._limit_bytes:
            return None
        self._parts += parts
        self._size_bytes += size_bytes
        self._timestamps.append(timestamp)
        return SentRecord(offset, size_bytes, timestamp)

    def size(self) -> int:
        """Return the size of the batch in bytes."""
        size_bytes: int = self._own.size() if self._is_own else self._size_bytes
        return size_bytes

    def build(self) -> bytes | bytearray:
        """Return the batch."""
        if self._is_own or not self._timestamps:
            own: bytearray = self._own.build()
            return own
        count = len(self._timestamps)
        # No codec, no transaction; no id of a producer, which numbers no batch.
        sized = (0, self._size_bytes - SIZED_FROM, -1, MAGIC)
        checked = (0, count - 1, self._timestamps[0], max(self._timestamps), -1, -1, 0, count)
        crc = 0
        for part in (HEADER.pack(*sized, crc, *checked)[CHECKED_FROM:], *self._parts):
            crc = extend_crc32c(crc, part)
        return b"".join((HEADER.pack(*sized, crc, *checked), *self._parts))


def _headers(headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    parts = [_varint(len(headers))]
    for name, value in headers:
        parts += [_sized(name.encode()), _sized(value)]
    return b"".join(parts)


def _sized(value: bytes | None) -> bytes:
    """Return bytes with their length before them; -1 stands for None."""
    return _varint(-1) if value is None else _varint(len(value)) + value


def _varint(number: int) -> bytes:
    encoded = bytearray()
    encode_varint(number, encoded.append)
    return bytes(encoded)
