"""Blocks as a sorted array, and the Roaring bytes made of one: the way of the node's hot path, which needs no bitmap.

A batch of random writes is some 100,000 block numbers. Sorting them and writing the bytes of the format down costs a tenth of
adding them to a bitmap that is serialized and dropped. The bytes are those that mirrorlog.bitmaps.pack gives
(tests/property/test_block_arrays.py); the format is RoaringFormatSpec, "Extension for 64-bit implementations".
"""

from __future__ import annotations

from array import array
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mirrorlog.domain.bitmaps import BitMap64, pack
from mirrorlog.domain.extents import ExtentColumns

Blocks: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""Sorted, each once: u32 where all fit, otherwise u64."""

_MOST_BLOCKS: Final = 1 << 23
_ARRAY_MOST: Final = 4096  # blocks in an array container (RoaringFormatSpec, "Containers")
_COOKIE_NO_RUNS: Final = 12346
_CONTAINER_BITS: Final = 16


def blocks_of(columns: ExtentColumns, block_size: int) -> Blocks | None:
    """Blocks of which any byte lies in an extent, as mirrorlog.bitmaps.touched; None where they are too many to list."""
    some = columns.lengths > 0
    offsets, lengths = columns.offsets, columns.lengths
    if not some.all():
        offsets, lengths = offsets[some], lengths[some]
    shift = np.uint64(block_size.bit_length() - 1)
    firsts = offsets >> shift
    lasts = (offsets + lengths - np.uint64(1)) >> shift
    if not len(firsts):
        return firsts
    narrow = int(lasts.max()) < 1 << 32
    firsts, lasts = (
        (firsts.astype(np.uint32), lasts.astype(np.uint32)) if narrow else (firsts, lasts)
    )
    further = lasts - firsts
    if further.any():
        total = int(further.sum(dtype=np.uint64)) + len(firsts)
        if total > _MOST_BLOCKS:
            return None
        firsts = _expanded(firsts, further.astype(np.int64) + 1, total)
    firsts.sort()
    keep = np.empty(len(firsts), np.bool_)
    keep[0] = True
    np.not_equal(firsts[1:], firsts[:-1], out=keep[1:])
    return firsts if keep.all() else firsts[keep]


def _expanded(firsts: Blocks, counts: npt.NDArray[np.int64], total: int) -> Blocks:
    ends = np.cumsum(counts)
    within = np.arange(total, dtype=firsts.dtype) - np.repeat(
        (ends - counts).astype(firsts.dtype), counts
    )
    return np.repeat(firsts, counts) + within


def pack_blocks(blocks: Blocks) -> bytes:
    """The portable 64-bit form, each container in the smallest of its kinds; no blocks are no bytes at all."""
    if not len(blocks):
        return b""
    if blocks.dtype != np.uint32 or (keys := _array_containers(blocks)) is None:
        return pack(BitMap64(array("Q", blocks.astype(np.uint64).tobytes())))
    starts, cards = keys
    size = len(starts)
    head = np.empty((size, 2), "<u2")
    head[:, 0] = blocks[starts] >> np.uint32(_CONTAINER_BITS)
    head[:, 1] = cards - 1
    offsets = 8 + 8 * size + 2 * starts
    return b"".join(
        (
            np.array([1], "<u8").tobytes(),  # one bucket of 2^32 blocks, the first
            np.array([0, _COOKIE_NO_RUNS, size], "<u4").tobytes(),
            head.tobytes(),
            offsets.astype("<u4").tobytes(),
            blocks.astype("<u2").tobytes(),  # what is above 16 bits is cut off
        )
    )


def _array_containers(blocks: Blocks) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """(start, cardinality) of each container; None where any would be smaller as runs or as a bitmap."""
    keys = blocks >> np.uint32(_CONTAINER_BITS)
    starts = np.concatenate(([0], np.flatnonzero(keys[1:] != keys[:-1]) + 1))
    cards = np.diff(starts, append=len(blocks))
    if int(cards.max()) > _ARRAY_MOST:
        return None
    follows = np.zeros(len(blocks), np.int64)
    follows[1:] = blocks[1:] - blocks[:-1] == 1
    follows[starts] = 0
    if follows.any():
        runs = cards - np.add.reduceat(follows, starts)
        if (2 + 4 * runs < 2 + 2 * cards).any():
            return None
    return starts, cards
