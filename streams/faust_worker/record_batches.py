"""The record batches of a fetch: checked, and decompressed into memory that is used again.

aiokafka's own reader copies what is compressed, and copies it again when it is decompressed, and
its wheels compute checksums without the processor's instruction. Here a batch is checked by
google-crc32c, and one with lz4 is decompressed to where the one before was
(docs/decisions/fetching-commands.md). aiokafka still reads the records in it, and all batches of
older formats and other codecs.

The format is that of Kafka's protocol guide, "Record Batch".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import cramjam
import numpy as np
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords
from google_crc32c import value as crc32c

HEADER: Final = struct.Struct(">qiibIhiqqqhii")
SIZED_FROM: Final = 12
"""The batch's length counts the bytes from there on."""
CHECKED_FROM: Final = 21
"""The checksum covers the bytes from there on, the attributes first."""
_CODEC_AT: Final = 22
_CODEC_MASK, _LZ4 = 0x07, 3
_LOG_APPEND_TIME, _CONTROL = 0x08, 0x20
MAGIC: Final = 2
_MAGIC_AT: Final = 16
_OLD_HEADER_BYTES: Final = 14
_SCRATCH_BYTES: Final = 4 << 20
"""Producers begin another batch at 1 MB unless they are told otherwise."""


@dataclass(frozen=True, slots=True, eq=False)
class RecordBatch:
    """A batch whose checksum is right.

    records: aiokafka's batch, of which nothing was read. They must be read before the next batch.
    next_offset: the offset behind it. is_control: it holds markers of a transaction, no messages.
    first_offset: that of the first record, if each one follows the one before; otherwise None.
    appended_ms: when the broker appended all of them, milliseconds since 1970. None: it isn't the
        broker who says when, or the format is older.
    """

    records: Any
    next_offset: int
    is_control: bool
    first_offset: int | None = None
    appended_ms: int | None = None


class BatchReader:
    """Reads the batches of fetches, one fetch after the other, in one thread."""

    def __init__(self) -> None:
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))

    def batches(self, fetched: Any, *, check_crcs: bool) -> Iterator[RecordBatch]:
        """Yield the batches of a MemoryRecords of aiokafka, of which nothing was read.

        An incomplete one at the end isn't yielded. Raise CorruptRecordException for bytes that
        can't be a batch, or, with `check_crcs`, if a checksum isn't right.
        """
        data = _bytes_of(fetched)
        if data is None:
            yield from _batches_of(fetched, check_crcs=check_crcs)
            return
        at = 0
        while at + SIZED_FROM <= len(data):
            length = int.from_bytes(data[at + 8 : at + SIZED_FROM], "big", signed=True)
            end = at + SIZED_FROM + length
            if length < _OLD_HEADER_BYTES:
                raise CorruptRecordException(f"a record batch of {length} bytes")
            if end > len(data):
                return
            if data[at + _MAGIC_AT] == MAGIC:
                yield self._batch(data, at, end, check_crcs=check_crcs)
            else:
                yield from _batches_of(MemoryRecords(data[at:end]), check_crcs=check_crcs)
            at = end

    def _batch(self, data: bytes, at: int, end: int, *, check_crcs: bool) -> RecordBatch:
        if end - at < HEADER.size:
            raise CorruptRecordException(f"a record batch of {end - at} bytes")
        header = HEADER.unpack_from(data, at)
        base, _, _, _, crc, attributes, last_delta, _, newest_ms, _, _, _, count = header
        # google-crc32c takes no memoryview. A view by numpy isn't a copy either.
        covered: Any = np.frombuffer(data, np.uint8)[at + CHECKED_FROM : end]
        if check_crcs and crc32c(covered) != crc:
            raise CorruptRecordException("the checksum of a record batch isn't right")
        records: Any = None
        if attributes & _CODEC_MASK == _LZ4:
            compressed = memoryview(covered)[HEADER.size - CHECKED_FROM :]
            records = self._decompressed(data[at : at + HEADER.size], compressed)
        return RecordBatch(
            DefaultRecordBatch(memoryview(data)[at:end]) if records is None else records,
            base + last_delta + 1,
            bool(attributes & _CONTROL),
            base if count == last_delta + 1 else None,
            newest_ms if attributes & _LOG_APPEND_TIME else None,
        )

    def _decompressed(self, header: bytes, compressed: memoryview) -> Any:
        """Return the batch with lz4 as one without; None if aiokafka must read it.

        It must if the records don't fit into the scratch, and it says what is wrong with damaged
        ones.
        """
        scratch, first = self._scratch, HEADER.size
        try:
            size = cramjam.lz4.decompress_into(compressed, scratch[first:])
        except cramjam.DecompressionError:
            return None
        scratch[:first] = header
        scratch[_CODEC_AT] &= ~_CODEC_MASK & 0xFF
        return DefaultRecordBatch(scratch[: first + size])


def _bytes_of(records: Any) -> bytes | None:
    """Return the bytes of a MemoryRecords, of which nothing was read, without a copy of them.

    They are a part of what it says of itself to pickle. None: it doesn't say so.
    """
    match records.__reduce__():
        case (_, _, (bytes() as data, 0)):
            return data
        case _:
            return None


def _batches_of(records: Any, *, check_crcs: bool) -> Iterator[RecordBatch]:
    """Yield the batches as aiokafka reads them."""
    while records.has_next():
        batch = records.next_batch()
        if check_crcs and not batch.validate_crc():
            raise CorruptRecordException("the checksum of a record batch isn't right")
        yield RecordBatch(batch, batch.next_offset, batch.is_control_batch)
