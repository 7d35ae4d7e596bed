"""Sets of block numbers: 64-bit Roaring bitmaps, how extents become one, and how one is read back in runs.

On the wire and on disk a set is in Roaring's portable 64-bit form (RoaringFormatSpec, "Extension for 64-bit
implementations"), so that CRoaring, Java, Go and Rust readers take it as it is.
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

_EXPAND_AT_MOST: Final = 1 << 10
"""Extents of up to that many blocks are expanded by numpy; longer ones are added as ranges."""
_WINDOW: Final = 1 << 20
"""Blocks looked at together by `runs`: bounds its memory at 8 MiB whatever the set holds."""


def touched(columns: ExtentColumns, block_size: int) -> BitMap64:
    """Blocks of which any byte lies in an extent: rounded outwards (invariant 4). Extents must lie inside the volume."""
    some = columns.lengths > 0
    offsets, lengths = columns.offsets[some], columns.lengths[some]
    size = np.uint64(block_size)
    return _blocks(offsets // size, (offsets + lengths - np.uint64(1)) // size + np.uint64(1))


def zeroed(columns: ExtentColumns, block_size: int, size_bytes: int) -> BitMap64:
    """Blocks that one zero or discard covered whole: rounded inwards (invariant 4).

    The volume's last block may be partial: it is covered whole when the extent reaches the volume's end.
    Says what happened in the record's range, not what the blocks hold now: a later write in the range doesn't remove one.
    """
    if columns.kinds is None:
        return BitMap64()
    some = columns.kinds != ExtentKind.WRITE
    offsets, ends = columns.offsets[some], columns.offsets[some] + columns.lengths[some]
    size = np.uint64(block_size)
    ends = np.where(ends == np.uint64(size_bytes), ends + size - np.uint64(1), ends)
    return _blocks((offsets + size - np.uint64(1)) // size, ends // size)


def _blocks(firsts: npt.NDArray[np.uint64], ends: npt.NDArray[np.uint64]) -> BitMap64:
    """Union of the ranges [first, end); empty and inverted ranges hold nothing."""
    counts = np.where(ends > firsts, ends - firsts, np.uint64(0))
    short = counts <= _EXPAND_AT_MOST
    result = BitMap64(array("Q", _expand(firsts[short], counts[short]).tobytes()))
    for first, count in zip(firsts[~short].tolist(), counts[~short].tolist(), strict=True):
        result.add_range(first, first + count)
    return result


def _expand(
    firsts: npt.NDArray[np.uint64], counts: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Every block of the ranges, sorted, some more than once: what the bitmap's constructor takes fastest."""
    if not len(firsts):
        return firsts
    starts = np.cumsum(counts) - counts
    within = np.arange(int(counts.sum()), dtype=np.uint64) - np.repeat(
        starts, counts.astype(np.int64)
    )
    found = np.repeat(firsts, counts.astype(np.int64)) + within
    found.sort()  # np.unique hashes and takes ten times as long
    return found


def union(sets: Iterable[BitMap64]) -> BitMap64:
    """All blocks of any of the sets; none of them is changed."""
    result = BitMap64()
    for each in sets:
        result |= each
    return result


def pack(blocks: BitMap64) -> bytes:
    """The portable 64-bit form; an empty set is no bytes at all."""
    if not blocks:
        return b""
    blocks.run_optimize()
    return bytes(blocks.serialize())


def unpack(data: bytes) -> BitMap64:
    """The set from its portable 64-bit form; BadInput where the bytes aren't one."""
    if not data:
        return BitMap64()
    try:
        return BitMap64.deserialize(data)
    except ValueError as error:
        raise BadInput(f"{len(data)} bytes aren't a 64-bit Roaring bitmap") from error


def runs(blocks: BitMap64, *, most: int | None = None) -> Iterator[tuple[int, int]]:
    """(first, count) of each run of neighbouring blocks, ascending; a run is cut at `most` blocks where it is given."""
    open_first, open_end = 0, 0
    for first, end in _window_runs(blocks):
        if first == open_end and open_end > open_first:
            open_end = end
        else:
            yield from _cut(open_first, open_end, most)
            open_first, open_end = first, end
    yield from _cut(open_first, open_end, most)


def fingerprint(blocks: BitMap64) -> bytes:
    """The same for equal sets, however they came about: `pack` may choose another kind of container of the same size."""
    digest = blake2b(digest_size=16)
    for firsts, lasts in _windows(blocks):
        digest.update(firsts.tobytes() + lasts.tobytes())
    return digest.digest()


def _window_runs(blocks: BitMap64) -> Iterator[tuple[int, int]]:
    for firsts, lasts in _windows(blocks):
        yield from (
            (first, last + 1) for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
        )


def _windows(blocks: BitMap64) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]]:
    """First and last block of each run, a window at a time; a run is cut where a window ends."""
    if not blocks:
        return
    last = blocks.max()
    start = blocks.min()
    while True:
        window = np.array(
            (blocks & BitMap64(range(start, start + _WINDOW))).to_array(), dtype=np.uint64
        )
        breaks = np.flatnonzero(np.diff(window) > 1)
        yield (
            window[np.concatenate(([0], breaks + 1))],
            window[np.concatenate((breaks, [len(window) - 1]))],
        )
        if last < start + _WINDOW:
            return
        start = blocks.next_set_bit(start + _WINDOW)


def _cut(first: int, end: int, most: int | None) -> Iterator[tuple[int, int]]:
    step = most or max(end - first, 1)
    for begin in range(first, end, step):
        yield begin, min(step, end - begin)
