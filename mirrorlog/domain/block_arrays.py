"""Blocks as a sorted array, and their Roaring bytes: the node's hot path, without a bitmap.

A batch of random writes holds about 100,000 block numbers. Sorting them and writing the bytes of
the format takes a tenth of the time of adding them to a bitmap, which would then be serialized and
dropped. The bytes equal those of bitmaps.pack (tests/property/domain/test_block_arrays.py). The
format is RoaringFormatSpec, "Extension for 64-bit implementations".
"""

from __future__ import annotations

from array import array
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mirrorlog.domain.bitmaps import NOTHING_PACKED, PackedBlocks, pack
from mirrorlog.domain.block_sets import CHUNK_BLOCKS, BlockSet
from mirrorlog.domain.extents import ExtentColumns

Blocks: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""Block numbers, sorted and unique: u32 if all of them fit, otherwise u64."""

_MAX_BLOCKS: Final = 1 << 23
_MAX_EXTENT_BLOCKS: Final = CHUNK_BLOCKS
_ARRAY_CONTAINER_MAX: Final = 4096  # RoaringFormatSpec, "Containers"
_COOKIE_NO_RUNS: Final = 12346
_CONTAINER_BITS: Final = 16
_CONTAINER_BLOCKS: Final = np.uint32(1 << _CONTAINER_BITS)


def blocks_of(columns: ExtentColumns, block_size: int) -> Blocks | None:
    """Return the blocks with at least one byte in an extent, as bitmaps.touched does.

    Return None if there are more than 2^23 of them, or if an extent touches more than 2^16: a
    BlockSet is the better form then.

    columns: extents inside the volume. block_size: bytes, a power of two.
    """
    offsets, lengths = columns.offsets, columns.lengths
    if not len(offsets):
        return offsets
    blocks = _single_blocks(offsets, lengths, block_size)
    if blocks is None:
        blocks = _expanded_blocks(offsets, lengths, block_size)
        if blocks is None or not len(blocks):
            return blocks
    blocks.sort()
    is_new = np.empty(len(blocks), np.bool_)
    is_new[0] = True
    np.not_equal(blocks[1:], blocks[:-1], out=is_new[1:])
    return blocks if is_new.all() else blocks[is_new]


def _single_blocks(
    offsets: npt.NDArray[np.uint64], lengths: npt.NDArray[np.uint64], block_size: int
) -> Blocks | None:
    """Return the block of each extent, None unless each begins and ends in one block.

    It is enough to look at the extents together: most of them are whole blocks, from hosts whose
    file systems have blocks of the same size. It takes half as many steps over all extents.
    """
    bits = int(np.bitwise_or.reduce(offsets))
    if bits % block_size or not 0 < int(lengths.min()) <= int(lengths.max()) <= block_size:
        return None
    shift = block_size.bit_length() - 1
    dtype = np.uint32 if bits >> shift < 1 << 32 else np.uint64
    blocks: Blocks = np.empty(len(offsets), dtype)
    np.right_shift(offsets, np.uint64(shift), out=blocks, casting="unsafe")
    return blocks


def _expanded_blocks(
    offsets: npt.NDArray[np.uint64], lengths: npt.NDArray[np.uint64], block_size: int
) -> Blocks | None:
    """Return the blocks of each extent, in the order of the extents. None: see blocks_of."""
    has_bytes = lengths > 0
    if not has_bytes.all():
        offsets, lengths = offsets[has_bytes], lengths[has_bytes]
    shift = np.uint64(block_size.bit_length() - 1)
    firsts = offsets >> shift
    lasts = (offsets + lengths - np.uint64(1)) >> shift
    if not len(firsts):
        return firsts
    if int(lasts.max()) < 1 << 32:
        blocks, lasts = firsts.astype(np.uint32), lasts.astype(np.uint32)
    else:
        blocks = firsts
    further = lasts - blocks
    if (most := int(further.max())) > 0:
        if most > _MAX_EXTENT_BLOCKS:
            return None
        total = int(further.sum(dtype=np.uint64)) + len(blocks)
        if total > _MAX_BLOCKS:
            return None
        blocks = _expand(blocks, further.astype(np.int64) + 1, total)
    return blocks


def _expand(firsts: Blocks, counts: npt.NDArray[np.int64], total: int) -> Blocks:
    """Return all blocks of the ranges [first, first + count), which are `total` blocks together."""
    ends = np.cumsum(counts)
    within = np.arange(total, dtype=firsts.dtype) - np.repeat(
        (ends - counts).astype(firsts.dtype), counts
    )
    return np.repeat(firsts, counts) + within


def pack_blocks(blocks: Blocks) -> PackedBlocks:
    """Return the bytes of the blocks.

    Each container has the kind that takes the fewest bytes, as in bitmaps.pack.
    """
    if not len(blocks):
        return NOTHING_PACKED
    if blocks.dtype != np.uint32 or (containers := _array_containers(blocks)) is None:
        return pack(BlockSet(array("Q", blocks.astype(np.uint64).tobytes())))
    starts, cardinalities = containers
    size = len(starts)
    head = np.empty((size, 2), "<u2")
    head[:, 0] = blocks[starts] >> np.uint32(_CONTAINER_BITS)
    head[:, 1] = cardinalities - 1
    offsets = 8 + 8 * size + 2 * starts
    parts = (
        np.array([1], "<u8").tobytes(),  # one bucket of 2^32 blocks, the first
        np.array([0, _COOKIE_NO_RUNS, size], "<u4").tobytes(),
        head.tobytes(),
        offsets.astype("<u4").tobytes(),
        blocks.astype("<u2").tobytes(),  # the conversion drops the bits above 16
    )
    return PackedBlocks(b"".join(parts))


def _array_containers(blocks: Blocks) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Return the start and the cardinality of each container.

    Return None if a container of another kind, runs or a bitmap, would be smaller for any of them.
    """
    is_end = (blocks[1:] ^ blocks[:-1]) >= _CONTAINER_BLOCKS
    starts = np.concatenate(([0], np.flatnonzero(is_end) + 1))
    cardinalities = np.diff(starts, append=len(blocks))
    if int(cardinalities.max()) > _ARRAY_CONTAINER_MAX:
        return None
    is_next = np.diff(blocks) == 1
    # Runs of two blocks take at least as many bytes as the two blocks.
    if (np.diff(np.flatnonzero(is_next)) == 1).any():
        follows = np.concatenate(([False], is_next & ~is_end))
        runs = cardinalities - np.add.reduceat(follows, starts, dtype=np.int64)
        if (2 + 4 * runs < 2 + 2 * cardinalities).any():
            return None
    return starts, cardinalities
