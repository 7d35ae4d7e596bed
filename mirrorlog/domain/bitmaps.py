"""Sets of blocks made from extents, packed for the wire, and read in runs.

On the wire and on disk a set is a Roaring bitmap in its portable 64-bit form (RoaringFormatSpec,
"Extension for 64-bit implementations"), which CRoaring, Java, Go and Rust read too, and beside it
the runs of whole chunks (block_sets.py), which the bitmap leaves out.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mirrorlog.domain.block_sets import CHUNK_BITS, BitMap64, BlockSet
from mirrorlog.domain.extents import U64, ExtentColumns, ExtentKind
from mirrorlog.errors import BadInput

__all__ = [
    "NOTHING_PACKED",
    "BlockSet",
    "PackedBlocks",
    "fingerprint",
    "pack",
    "runs",
    "touched",
    "union",
    "unpack",
    "zeroed",
]

_MAX_EXPANDED_BLOCKS: Final = 1 << 10
"""numpy expands extents of up to that many blocks; longer ones are added to the set as ranges."""
_END_MAX: Final = 1 << 63
_FEW_EXTENTS: Final = 8
_FEW_BLOCKS: Final = 64


class PackedBlocks(NamedTuple):
    """A set of blocks in bytes. It depends on the blocks alone, not on how the set was made.

    bitmap: the portable 64-bit form; no bytes for an empty one.
    runs: (first block, count) of each run of whole chunks, as u64, little-endian.
    """

    bitmap: bytes
    runs: bytes = b""

    @property
    def size_bytes(self) -> int:
        """The size of both."""
        return len(self.bitmap) + len(self.runs)


NOTHING_PACKED: Final = PackedBlocks(b"")


def touched(columns: ExtentColumns, block_size: int) -> BlockSet:
    """Return the blocks with at least one byte in an extent: rounded outwards (invariant 4).

    columns: extents inside the volume. block_size: bytes, a power of two.
    """
    has_bytes = columns.lengths > 0
    offsets, lengths = columns.offsets[has_bytes], columns.lengths[has_bytes]
    size = np.uint64(block_size)
    return _blocks(offsets // size, (offsets + lengths - np.uint64(1)) // size + np.uint64(1))


def zeroed(columns: ExtentColumns, *, block_size: int, size_bytes: int) -> BlockSet:
    """Return the blocks that one zero or discard covers whole: rounded inwards (invariant 4).

    The volume's last block may be partial: an extent that reaches the volume's end covers it whole.
    The result says what happened in the range of a record, not what the blocks hold now: a later
    write in the range doesn't remove a block from it.

    columns: extents inside the volume. size_bytes: the size of the volume.
    """
    if columns.kinds is None:
        return BlockSet()
    is_zero = columns.kinds != ExtentKind.WRITE
    offsets = columns.offsets[is_zero]
    ends = offsets + columns.lengths[is_zero]
    size = np.uint64(block_size)
    ends = np.where(ends == np.uint64(size_bytes), ends + size - np.uint64(1), ends)
    return _blocks((offsets + size - np.uint64(1)) // size, ends // size)


def _blocks(firsts: npt.NDArray[np.uint64], ends: npt.NDArray[np.uint64]) -> BlockSet:
    """Return the union of the ranges [first, end). An empty or inverted range adds nothing."""
    if len(firsts) <= _FEW_EXTENTS:  # numpy would take five times as long
        ranges = list(zip(firsts.tolist(), ends.tolist(), strict=True))
        if sum(max(end - first, 0) for first, end in ranges) <= _FEW_BLOCKS:
            expanded = sorted(block for first, end in ranges for block in range(first, end))
            return BlockSet.of(BitMap64(array("Q", expanded)))
    counts = np.where(ends > firsts, ends - firsts, np.uint64(0))
    is_short = counts <= _MAX_EXPANDED_BLOCKS
    blocks = BitMap64(array("Q", _expand(firsts[is_short], counts[is_short]).tobytes()))
    return BlockSet.of_ranges(firsts[~is_short], ends[~is_short], blocks)


def _expand(
    firsts: npt.NDArray[np.uint64], counts: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Return all blocks of the ranges, sorted and with duplicates.

    BitMap64() takes that form fastest.
    """
    if not len(firsts):
        return firsts
    starts = np.cumsum(counts) - counts
    within = np.arange(int(counts.sum()), dtype=np.uint64) - np.repeat(
        starts, counts.astype(np.int64)
    )
    blocks = np.repeat(firsts, counts.astype(np.int64)) + within
    blocks.sort()  # np.unique hashes, which takes ten times as long
    return blocks


def union(sets: Iterable[BlockSet]) -> BlockSet:
    """Return a new set with the blocks of all `sets`."""
    result = BlockSet()
    for blocks in sets:
        result |= blocks
    return result


def pack(blocks: BlockSet) -> PackedBlocks:
    """Return the bytes of the set.

    Equal sets may have different bytes: Roaring keeps a container as it was made where an array and
    runs take equally many. Compare sets, or their fingerprints.
    """
    if not blocks:
        return NOTHING_PACKED
    bitmap = blocks.settle()
    if not len(blocks.chunks):
        return PackedBlocks(bitmap)
    edges = blocks.chunks.astype(np.uint64) << np.uint64(CHUNK_BITS)
    edges[1::2] -= edges[::2]
    return PackedBlocks(bitmap, edges.astype(U64).tobytes())


def unpack(bitmap: bytes, run_bytes: bytes = b"") -> BlockSet:
    """Return the set whose bytes are these, as in PackedBlocks.

    Raise BadInput if they aren't such bytes.
    """
    try:
        bits = BitMap64.deserialize(bitmap) if bitmap else BitMap64()
        if not run_bytes:
            return BlockSet.of(bits)
        firsts, counts = np.frombuffer(run_bytes, U64).reshape(-1, 2).T
    except ValueError as error:
        raise BadInput(
            f"{len(bitmap)} bytes aren't a 64-bit Roaring bitmap, or {len(run_bytes)} no runs"
        ) from error
    ends = firsts + counts
    if (ends < firsts).any() or ends.max() > _END_MAX:
        raise BadInput("a run of blocks ends above 2^63")
    return BlockSet.of_ranges(firsts, ends, bits)


def runs(blocks: BlockSet, *, max_blocks: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield (first, count) for each run of consecutive blocks, ascending.

    max_blocks: a longer run is yielded in pieces of at most that many blocks.
    """
    for firsts, ends in blocks.run_arrays():
        for first, end in zip(firsts.tolist(), ends.tolist(), strict=True):
            yield from _cut(first, end, max_blocks)


def fingerprint(blocks: BlockSet) -> bytes:
    """Return a digest of the set, 16 bytes, which is equal for equal sets."""
    digest = blake2b(digest_size=16)
    for firsts, ends in blocks.run_arrays():
        digest.update(np.stack((firsts, ends), axis=1).tobytes())
    return digest.digest()


def _cut(first: int, end: int, max_blocks: int | None) -> Iterator[tuple[int, int]]:
    """Yield (first, count) of the pieces of the run [first, end)."""
    step = max_blocks or max(end - first, 1)
    for start in range(first, end, step):
        yield start, min(step, end - start)
