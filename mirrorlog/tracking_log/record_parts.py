"""Log records in parts that fit into a message, and records whose bitmaps are packed already.

A record whose bitmaps take more than `max_bytes` is split by block range, in the middle of what
takes the most bytes, until each part fits. Where it is split depends on the blocks and on
`max_bytes` alone, whether they are held as a BlockSet or as a sorted array: so a replay writes the
same parts under the same keys. Roll-ups are cut at other blocks (`streams/compaction/rollups.py`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mirrorlog.domain.bitmaps import BlockSet, PackedBlocks, pack, unpack
from mirrorlog.domain.block_arrays import Blocks, pack_blocks
from mirrorlog.tracking_log.records import LogRecord


@dataclass(frozen=True, slots=True, eq=False)
class PackedRecord:
    """A log record that the node writes without making a bitmap.

    header: the record with empty bitmaps.
    changed, zeroed: the bitmaps in the form of bitmaps.pack.
    """

    header: LogRecord
    changed: PackedBlocks
    zeroed: PackedBlocks

    def unpacked(self) -> LogRecord:
        """Return the record with its bitmaps."""
        return replace(self.header, changed=unpack(*self.changed), zeroed=unpack(*self.zeroed))


def split_record(record: LogRecord, max_bytes: int) -> list[LogRecord]:
    """Return the record in parts, each with packed bitmaps of at most `max_bytes` together.

    A part of one block may be larger.
    """
    parts = list(_split(record.changed, record.zeroed, max_bytes))
    return [
        replace(record, changed=part.changed, zeroed=part.zeroed, part=number, parts=len(parts))
        for number, part in enumerate(parts)
    ]


def pack_record(
    header: LogRecord, changed: Blocks, zeroed: BlockSet, max_bytes: int
) -> list[PackedRecord]:
    """Return the record in packed parts, each with bitmaps of at most `max_bytes` together.

    A part of one block may be larger.
    header: the record with empty bitmaps. zeroed: a subset of `changed`.
    """
    parts = list(_split_array(changed, zeroed, max_bytes))
    return [
        PackedRecord(
            replace(header, part=number, parts=len(parts)),
            changed=part.changed,
            zeroed=part.zeroed,
        )
        for number, part in enumerate(parts)
    ]


class _PackedPart(NamedTuple):
    changed: PackedBlocks
    zeroed: PackedBlocks

    def fits(self, max_bytes: int) -> bool:
        return self.changed.size_bytes + self.zeroed.size_bytes <= max_bytes


class _Part(NamedTuple):
    changed: BlockSet
    zeroed: BlockSet


def _split(changed: BlockSet, zeroed: BlockSet, max_bytes: int) -> Iterator[_Part]:
    """Yield the parts in the order of blocks."""
    packed = _PackedPart(pack(changed), pack(zeroed))
    middle = None if packed.fits(max_bytes) else _middle(changed, zeroed, packed)
    if middle is None:
        yield _Part(changed, zeroed)
        return
    low = BlockSet.of_range(0, middle)
    yield from _split(changed & low, zeroed & low, max_bytes)
    yield from _split(changed - low, zeroed - low, max_bytes)


def _split_array(changed: Blocks, zeroed: BlockSet, max_bytes: int) -> Iterator[_PackedPart]:
    """Yield the parts in the order of blocks, the same ones as `_split`."""
    packed = _PackedPart(pack_blocks(changed), pack(zeroed))
    if len(changed) < 2 or packed.fits(max_bytes):
        yield packed
        return
    if packed.changed.runs:
        blocks = BlockSet(array("Q", changed.astype(np.uint64).tobytes()))
        for part in _split(blocks, zeroed, max_bytes):
            yield _PackedPart(pack(part.changed), pack(part.zeroed))
        return
    middle = len(changed) // 2
    low = BlockSet.of_range(0, int(changed[middle]))
    yield from _split_array(changed[:middle], zeroed & low, max_bytes)
    yield from _split_array(changed[middle:], zeroed - low, max_bytes)


def _middle(changed: BlockSet, zeroed: BlockSet, packed: _PackedPart) -> int | None:
    """Return the block at which to split: the first one of the upper half.

    It is the median of the changed blocks. If there are runs of whole chunks, it is the middle of
    what takes the most bytes: a bitmap or the runs, of the changed or of the zeroed blocks. Return
    None if there is nothing to halve.

    Both sets are packed, so that they are settled.
    """
    if not packed.changed.runs:
        return None if len(changed) < 2 else int(changed.bits[len(changed) // 2])
    halves = [
        (len(part), middle)
        for blocks, form in ((changed, packed.changed), (zeroed, packed.zeroed))
        for part, middle in ((form.bitmap, blocks.middle_bit()), (form.runs, blocks.middle_run()))
        if middle is not None
    ]
    return max(halves)[1] if halves else None
