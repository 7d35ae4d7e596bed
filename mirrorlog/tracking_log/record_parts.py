"""Log records in parts that fit into a message, and records whose bitmaps are packed already.

A record whose bitmaps take more than `max_bytes` is split by block range, at the median of its
changed blocks, until each part fits. Where it is split depends on the blocks and on `max_bytes`
alone, whether they are held as a bitmap or as a sorted array: so a replay writes the same parts
under the same keys. Roll-ups are cut at other blocks (`streams/compaction/rollups.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

from mirrorlog.domain.bitmaps import BitMap64, pack, unpack
from mirrorlog.domain.block_arrays import Blocks, pack_blocks
from mirrorlog.tracking_log.records import LogRecord

BlockSet = TypeVar("BlockSet", BitMap64, Blocks)


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
    """Return the record in parts, each with packed bitmaps of at most `max_bytes` together.

    A part of one block may be larger.
    """
    parts = list(_split(_BITMAP, record.changed, record.zeroed, max_bytes))
    return [
        replace(record, changed=part.changed, zeroed=part.zeroed, part=number, parts=len(parts))
        for number, part in enumerate(parts)
    ]


def pack_record(
    header: LogRecord, changed: Blocks, zeroed: BitMap64, max_bytes: int
) -> list[PackedRecord]:
    """Return the record in packed parts, each with bitmaps of at most `max_bytes` together.

    A part of one block may be larger.
    header: the record with empty bitmaps. zeroed: a subset of `changed`.
    """
    parts = list(_split(_SORTED_ARRAY, changed, zeroed, max_bytes))
    return [
        PackedRecord(
            replace(header, part=number, parts=len(parts)),
            changed=part.changed_bytes,
            zeroed=part.zeroed_bytes,
        )
        for number, part in enumerate(parts)
    ]


@dataclass(frozen=True, slots=True)
class _Form(Generic[BlockSet]):
    """One form in which the changed blocks are held.

    pack: returns the bytes of bitmaps.pack. halve: returns the lower and the upper half of the
    blocks, the upper one with the median.
    """

    pack: Callable[[BlockSet], bytes]
    halve: Callable[[BlockSet], tuple[BlockSet, BlockSet]]


class _Part(NamedTuple, Generic[BlockSet]):
    changed: BlockSet
    zeroed: BitMap64
    changed_bytes: bytes
    zeroed_bytes: bytes


def _split(
    form: _Form[BlockSet], changed: BlockSet, zeroed: BitMap64, max_bytes: int
) -> Iterator[_Part[BlockSet]]:
    """Yield the parts in the order of blocks."""
    part = _Part(changed, zeroed, form.pack(changed), pack(zeroed))
    if len(changed) < 2 or len(part.changed_bytes) + len(part.zeroed_bytes) <= max_bytes:
        yield part
        return
    low, high = form.halve(changed)
    first_of_high, end = int(high[0]), int(high[-1]) + 1
    yield from _split(form, low, _within(zeroed, 0, first_of_high), max_bytes)
    yield from _split(form, high, _within(zeroed, first_of_high, end), max_bytes)


def _halve_bitmap(blocks: BitMap64) -> tuple[BitMap64, BitMap64]:
    median = blocks[len(blocks) // 2]
    return _within(blocks, 0, median), _within(blocks, median, blocks.max() + 1)


def _halve_array(blocks: Blocks) -> tuple[Blocks, Blocks]:
    middle = len(blocks) // 2
    return blocks[:middle], blocks[middle:]


def _within(blocks: BitMap64, first: int, end: int) -> BitMap64:
    """Return those of the blocks that lie in [first, end)."""
    if not blocks:
        return blocks
    mask = BitMap64()
    mask.add_range(first, end)
    return blocks & mask


_BITMAP = _Form(pack, _halve_bitmap)
_SORTED_ARRAY = _Form(pack_blocks, _halve_array)
