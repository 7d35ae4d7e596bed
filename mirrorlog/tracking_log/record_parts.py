"""Log records in parts that fit into a message, and records whose bitmaps are packed already.

A record whose bitmaps take more than `max_bytes` is split by block range, at the median of its
changed blocks, until each part fits. Where it is split depends on the blocks and on `max_bytes`
alone, and both functions here split alike: so a replay writes the same parts under the same keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mirrorlog.domain.bitmaps import BitMap64, pack, unpack
from mirrorlog.domain.block_arrays import Blocks, pack_blocks
from mirrorlog.tracking_log.records import LogRecord


@dataclass(frozen=True, slots=True, eq=False)
class PackedRecord:
    """A log record that the node writes without making a bitmap.

    header: the record with empty bitmaps.
    changed, zeroed: the bitmaps in the form of bitmaps.pack.
    """

    header: LogRecord
    changed: bytes
    zeroed: bytes

    def unpacked(self) -> LogRecord:
        """Return the record with its bitmaps."""
        return replace(self.header, changed=unpack(self.changed), zeroed=unpack(self.zeroed))


def split_record(record: LogRecord, max_bytes: int) -> list[LogRecord]:
    """Return the record in parts, each with packed bitmaps of at most `max_bytes` together."""
    pieces = list(_split_bitmaps(record.changed, record.zeroed, max_bytes))
    return [
        replace(record, changed=changed, zeroed=zeroed, part=number, parts=len(pieces))
        for number, (changed, zeroed) in enumerate(pieces)
    ]


def pack_record(
    header: LogRecord, changed: Blocks, zeroed: BitMap64, max_bytes: int
) -> list[PackedRecord]:
    """Return the record in packed parts, each with bitmaps of at most `max_bytes` together.

    header: the record with empty bitmaps. zeroed: a subset of `changed`.
    """
    pieces = list(_split_blocks(changed, zeroed, max_bytes))
    return [
        PackedRecord(
            replace(header, part=number, parts=len(pieces)),
            changed=changed_bytes,
            zeroed=zeroed_bytes,
        )
        for number, (changed_bytes, zeroed_bytes) in enumerate(pieces)
    ]


def _split_bitmaps(
    changed: BitMap64, zeroed: BitMap64, max_bytes: int
) -> Iterator[tuple[BitMap64, BitMap64]]:
    if len(changed) < 2 or len(pack(changed)) + len(pack(zeroed)) <= max_bytes:
        yield changed, zeroed
        return
    first_of_high = changed[len(changed) // 2]
    low = _range(0, first_of_high)
    high = _range(first_of_high, changed.max() + 1)
    yield from _split_bitmaps(changed & low, zeroed & low, max_bytes)
    yield from _split_bitmaps(changed & high, zeroed & high, max_bytes)


def _split_blocks(
    changed: Blocks, zeroed: BitMap64, max_bytes: int
) -> Iterator[tuple[bytes, bytes]]:
    packed = pack_blocks(changed), pack(zeroed)
    if len(changed) < 2 or len(packed[0]) + len(packed[1]) <= max_bytes:
        yield packed
        return
    middle = len(changed) // 2
    low, high = changed[:middle], changed[middle:]
    first_of_high = int(high[0])
    if zeroed:
        zeroed_low = zeroed & _range(0, first_of_high)
        zeroed_high = zeroed & _range(first_of_high, int(high[-1]) + 1)
    else:
        zeroed_low = zeroed_high = zeroed
    yield from _split_blocks(low, zeroed_low, max_bytes)
    yield from _split_blocks(high, zeroed_high, max_bytes)


def _range(first: int, end: int) -> BitMap64:
    """The blocks [first, end)."""
    blocks = BitMap64()
    blocks.add_range(first, end)
    return blocks
