"""A log record whose bitmaps are bytes already: what the node writes without ever making a bitmap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mirrorlog.domain.bitmaps import BitMap64, pack, unpack
from mirrorlog.domain.block_arrays import Blocks, pack_blocks
from mirrorlog.tracking_log.records import LogRecord


@dataclass(frozen=True, slots=True, eq=False)
class PackedRecord:
    """header: the record without its blocks. changed, zeroed: in the form of mirrorlog.bitmaps.pack."""

    header: LogRecord
    changed: bytes
    zeroed: bytes

    def unpacked(self) -> LogRecord:
        """The record with its bitmaps."""
        return replace(self.header, changed=unpack(self.changed), zeroed=unpack(self.zeroed))


def pack_record(
    header: LogRecord, changed: Blocks, zeroed: BitMap64, max_bytes: int
) -> list[PackedRecord]:
    """The record in parts by block range, each with bitmaps of at most `max_bytes`; in one where it is small enough."""
    pieces = list(_pieces(changed, zeroed, max_bytes))
    return [
        PackedRecord(replace(header, part=number, parts=len(pieces)), *piece)
        for number, piece in enumerate(pieces)
    ]


def _pieces(changed: Blocks, zeroed: BitMap64, max_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    packed = pack_blocks(changed), pack(zeroed)
    if len(changed) < 2 or len(packed[0]) + len(packed[1]) <= max_bytes:
        yield packed
        return
    middle = len(changed) // 2
    low, high = changed[:middle], changed[middle:]
    first_of_high = int(high[0])
    # What is zeroed is changed too: a record's zeroed blocks lie where its changed ones do.
    yield from _pieces(low, zeroed & _range(0, first_of_high) if zeroed else zeroed, max_bytes)
    yield from _pieces(
        high, zeroed & _range(first_of_high, int(high[-1]) + 1) if zeroed else zeroed, max_bytes
    )


def _range(first: int, end: int) -> BitMap64:
    found = BitMap64()
    found.add_range(first, end)
    return found
