"""Sets of block numbers as 64-bit Roaring bitmaps: made from extents, packed, read in runs.

On the wire and on disk a set has Roaring's portable 64-bit form (RoaringFormatSpec, "Extension for
64-bit implementations"), which CRoaring, Java, Go and Rust read too.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap64

from mirrorlog.domain.extents import ExtentColumns, ExtentKind
from mirrorlog.errors import BadInput

__all__ = ["BitMap64", "fingerprint", "pack", "runs", "touched", "union", "unpack", "zeroed"]

_MAX_EXPANDED_BLOCKS: Final = 1 << 10
"""numpy expands extents of up to that many blocks; longer ones are added to the set as ranges."""
_WINDOW_BLOCKS: Final = 1 << 20
"""How many blocks `runs` expands at a time: at most 8 MiB of memory, however large the set is."""


def touched(columns: ExtentColumns, block_size: int) -> BitMap64:
    """Return the blocks with at least one byte in an extent: rounded outwards (invariant 4).

    columns: extents inside the volume. block_size: bytes, a power of two.
    """
    has_bytes = columns.lengths > 0
    offsets, lengths = columns.offsets[has_bytes], columns.lengths[has_bytes]
    size = np.uint64(block_size)
    return _blocks(offsets // size, (offsets + lengths - np.uint64(1)) // size + np.uint64(1))


def zeroed(columns: ExtentColumns, *, block_size: int, size_bytes: int) -> BitMap64:
    """Return the blocks that one zero or discard covers whole: rounded inwards (invariant 4).

    The volume's last block may be partial: an extent that reaches the volume's end covers it whole.
    The result says what happened in the range of a record, not what the blocks hold now: a later
    write in the range doesn't remove a block from it.

    columns: extents inside the volume. size_bytes: the size of the volume.
    """
    if columns.kinds is None:
        return BitMap64()
    is_zero = columns.kinds != ExtentKind.WRITE
    offsets = columns.offsets[is_zero]
    ends = offsets + columns.lengths[is_zero]
    size = np.uint64(block_size)
    ends = np.where(ends == np.uint64(size_bytes), ends + size - np.uint64(1), ends)
    return _blocks((offsets + size - np.uint64(1)) // size, ends // size)


def _blocks(firsts: npt.NDArray[np.uint64], ends: npt.NDArray[np.uint64]) -> BitMap64:
    """Return the union of the ranges [first, end). An empty or inverted range adds nothing."""
    counts = np.where(ends > firsts, ends - firsts, np.uint64(0))
    short = counts <= _MAX_EXPANDED_BLOCKS
    blocks = BitMap64(array("Q", _expand(firsts[short], counts[short]).tobytes()))
    for first, count in zip(firsts[~short].tolist(), counts[~short].tolist(), strict=True):
        blocks.add_range(first, first + count)
    return blocks


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


def union(sets: Iterable[BitMap64]) -> BitMap64:
    """Return a new set with the blocks of all `sets`."""
    result = BitMap64()
    for blocks in sets:
        result |= blocks
    return result


def pack(blocks: BitMap64) -> bytes:
    """Return the portable 64-bit form of the set; no bytes for an empty set."""
    if not blocks:
        return b""
    blocks.run_optimize()
    return bytes(blocks.serialize())


def unpack(data: bytes) -> BitMap64:
    """Return the set whose portable 64-bit form is `data`.

    Raise BadInput if `data` isn't such a form.
    """
    if not data:
        return BitMap64()
    try:
        return BitMap64.deserialize(data)
    except ValueError as error:
        raise BadInput(f"{len(data)} bytes aren't a 64-bit Roaring bitmap") from error


def runs(blocks: BitMap64, *, max_blocks: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield (first, count) for each run of consecutive blocks, ascending.

    max_blocks: a longer run is yielded in pieces of at most that many blocks.
    """
    run_first, run_end = 0, 0
    for first, end in _window_runs(blocks):
        if first == run_end and run_end > run_first:
            run_end = end
        else:
            yield from _cut(run_first, run_end, max_blocks)
            run_first, run_end = first, end
    yield from _cut(run_first, run_end, max_blocks)


def fingerprint(blocks: BitMap64) -> bytes:
    """Return a digest of the set, 16 bytes, which is equal for equal sets.

    The result of `pack` can't serve as one: it depends on how the set was made, because Roaring has
    several kinds of containers of the same size.
    """
    digest = blake2b(digest_size=16)
    for firsts, lasts in _windows(blocks):
        digest.update(firsts.tobytes() + lasts.tobytes())
    return digest.digest()


def _window_runs(blocks: BitMap64) -> Iterator[tuple[int, int]]:
    """Yield [first, end) of each run. A run is cut where a window ends."""
    for firsts, lasts in _windows(blocks):
        yield from (
            (first, last + 1) for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
        )


def _windows(blocks: BitMap64) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]]:
    """Yield the first and the last block of each run, a window at a time. Windows cut runs."""
    if not blocks:
        return
    last = blocks.max()
    start = blocks.min()
    while True:
        window = np.array(
            (blocks & BitMap64(range(start, start + _WINDOW_BLOCKS))).to_array(), dtype=np.uint64
        )
        breaks = np.flatnonzero(np.diff(window) > 1)
        yield (
            window[np.concatenate(([0], breaks + 1))],
            window[np.concatenate((breaks, [len(window) - 1]))],
        )
        if last < start + _WINDOW_BLOCKS:
            return
        start = blocks.next_set_bit(start + _WINDOW_BLOCKS)


def _cut(first: int, end: int, max_blocks: int | None) -> Iterator[tuple[int, int]]:
    """Yield (first, count) of the pieces of the run [first, end)."""
    step = max_blocks or max(end - first, 1)
    for start in range(first, end, step):
        yield start, min(step, end - start)
