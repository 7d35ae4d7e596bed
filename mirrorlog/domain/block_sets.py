"""BlockSet: a set of block numbers whose long runs cost what one run costs, not what they measure.

A Roaring bitmap holds a full container for each 65,536 blocks, also where it holds them as a run:
the whole of 1 PiB in blocks of 4 KiB takes 550 MiB of memory. So chunks, aligned runs of 65,536
blocks, are held apart from the bitmap where all of their blocks are in the set.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap64

__all__ = ["CHUNK_BITS", "CHUNK_BLOCKS", "BitMap64", "BlockSet", "whole_chunks"]

CHUNK_BITS: Final = 16
CHUNK_BLOCKS: Final = 1 << CHUNK_BITS
"""The blocks of a chunk: as many as a Roaring container has (RoaringFormatSpec)."""
_WINDOW_BLOCKS: Final = 1 << 20
"""How many blocks of the bitmap `run_arrays` expands at a time: at most 8 MiB of memory."""
_WINDOW_SPAN: Final = 1 << 28
"""No window is wider: the mask that cuts it out has a container for each 65,536 blocks."""
_FEW_BLOCKS: Final = 16
_RUN_COOKIE: Final = 12347
_HAS_OFFSETS_FROM: Final = 4  # RoaringFormatSpec, "NO_OFFSET_THRESHOLD"
_ARRAY_MAX: Final = 4096
_BITMAP_BYTES: Final = 8192

Edges: TypeAlias = npt.NDArray[np.int64]
"""Disjoint runs of chunks: first, end, first, end, … strictly ascending, counted in chunks."""
RunArrays: TypeAlias = tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]
"""The first block of each run, and the block behind its last."""
_NO_EDGES: Final[Edges] = np.empty(0, np.int64)


class BlockSet:
    """A set of block numbers, from 0 to 2^63 - 1.

    bits: the blocks outside `chunks`. It may hold whole chunks, too: `settle` moves them.
    chunks: the edges of the runs of whole chunks in the set.
    """

    __slots__ = ("bits", "chunks")

    def __init__(self, blocks: Iterable[int] = ()) -> None:
        self.bits: Any = BitMap64(blocks)
        self.chunks = _NO_EDGES

    @classmethod
    def of(cls, bits: Any, chunks: Edges = _NO_EDGES) -> BlockSet:
        """Return the union of a bitmap, which the set takes over, and of runs of chunks."""
        made = cls.__new__(cls)
        made.bits, made.chunks = bits, chunks
        _remove(bits, chunks)
        return made

    @classmethod
    def of_range(cls, first: int, end: int) -> BlockSet:
        """Return the blocks from `first` to `end` - 1; an empty set if there are none."""
        made = cls()
        made.add_range(first, end)
        return made

    @classmethod
    def of_ranges(
        cls, firsts: npt.NDArray[np.uint64], ends: npt.NDArray[np.uint64], bits: Any
    ) -> BlockSet:
        """Return the union of the ranges [first, end), which may overlap, and of a bitmap.

        The set takes the bitmap over.
        """
        if not len(firsts):
            return cls.of(bits)
        starts = (firsts + np.uint64(CHUNK_BLOCKS - 1)) >> np.uint64(CHUNK_BITS)
        stops = ends >> np.uint64(CHUNK_BITS)
        has_chunks = stops > starts
        edges = _united(starts[has_chunks].astype(np.int64), stops[has_chunks].astype(np.int64))
        for first, end in zip(
            firsts[~has_chunks].tolist(), ends[~has_chunks].tolist(), strict=True
        ):
            bits.add_range(first, end)
        shift = np.uint64(CHUNK_BITS)
        heads = zip(
            firsts[has_chunks].tolist(), (starts[has_chunks] << shift).tolist(), strict=True
        )
        tails = zip((stops[has_chunks] << shift).tolist(), ends[has_chunks].tolist(), strict=True)
        for first, end in (*heads, *tails):
            if end > first:
                bits.add_range(first, end)
        return cls.of(bits, edges)

    def add(self, block: int) -> None:
        """Add one block."""
        if block not in self:
            self.bits.add(block)

    def add_range(self, first: int, end: int) -> None:
        """Add the blocks from `first` to `end` - 1."""
        if end <= first:
            return
        if not len(self.chunks) and end >> CHUNK_BITS <= (first + CHUNK_BLOCKS - 1) >> CHUNK_BITS:
            self.bits.add_range(first, end)  # it holds no whole chunk
        else:
            one, other = np.array([first], np.uint64), np.array([end], np.uint64)
            self |= BlockSet.of_ranges(one, other, BitMap64())

    def remove_range(self, first: int, end: int) -> None:
        """Remove the blocks from `first` to `end` - 1."""
        rest = self - BlockSet.of_range(first, end)
        self.bits, self.chunks = rest.bits, rest.chunks

    def copy(self) -> BlockSet:
        """Return a set of its own with the same blocks."""
        return BlockSet.of(self.bits.copy(), self.chunks)

    def settle(self) -> bytes:
        """Move the whole chunks of the bitmap to `chunks`; return the bitmap's portable form.

        So the form depends on the blocks alone, not on how the set was made.
        """
        if not self.bits:
            return b""
        self.bits.run_optimize()
        data = bytes(self.bits.serialize())
        full = whole_chunks(data) if len(self.bits) >= CHUNK_BLOCKS else _NO_EDGES
        if not len(full):
            return data
        self.chunks = _combined(self.chunks, _united(full, full + 1), np.logical_or)
        _remove(self.bits, self.chunks)
        return self.settle()

    def __len__(self) -> int:
        if not len(self.chunks):
            return len(self.bits)
        return len(self.bits) + (int((self.chunks[1::2] - self.chunks[::2]).sum()) << CHUNK_BITS)

    def __bool__(self) -> bool:
        return bool(self.bits) or len(self.chunks) > 0

    def range_cardinality(self, first: int, end: int) -> int:
        """Return the number of blocks from `first` to `end` - 1."""
        return len(self & BlockSet.of_range(first, end))

    def min(self) -> int:
        """Return the lowest block. ValueError if the set is empty."""
        candidates = [int(self.chunks[0]) << CHUNK_BITS] if len(self.chunks) else []
        return min([self.bits.min(), *candidates] if self.bits else candidates)

    def max(self) -> int:
        """Return the highest block. ValueError if the set is empty."""
        candidates = [(int(self.chunks[-1]) << CHUNK_BITS) - 1] if len(self.chunks) else []
        return max([self.bits.max(), *candidates] if self.bits else candidates)

    def middle_bit(self) -> int | None:
        """Return the median of the blocks in `bits`, None if there are fewer than two."""
        return int(self.bits[len(self.bits) // 2]) if len(self.bits) > 1 else None

    def middle_run(self) -> int | None:
        """Return the first block of the middle run of chunks, None if there are below two."""
        count = len(self.chunks) // 2
        return int(self.chunks[2 * (count // 2)]) << CHUNK_BITS if count > 1 else None

    def __contains__(self, block: int) -> bool:
        if not len(self.chunks):
            return block in self.bits
        before = np.searchsorted(self.chunks, block >> CHUNK_BITS, "right")
        return bool(before % 2) or block in self.bits

    def __iter__(self) -> Iterator[int]:
        if not len(self.chunks) and len(self.bits) <= _WINDOW_BLOCKS:
            yield from self.bits.to_array()
            return
        for firsts, ends in self.run_arrays():
            for first, end in zip(firsts.tolist(), ends.tolist(), strict=True):
                yield from range(first, end)

    def to_array(self) -> array[int]:
        """Return the blocks as u64, ascending."""
        blocks: array[int] = array("Q", self) if len(self.chunks) else self.bits.to_array()
        return blocks

    def __repr__(self) -> str:
        return f"BlockSet of {len(self)} blocks"

    def __or__(self, other: BlockSet) -> BlockSet:
        chunks = _combined(self.chunks, other.chunks, np.logical_or)
        return BlockSet.of(self.bits | other.bits, chunks)

    def __ior__(self, other: BlockSet) -> BlockSet:
        self.bits |= other.bits
        self.chunks = _combined(self.chunks, other.chunks, np.logical_or)
        _remove(self.bits, self.chunks)
        return self

    def __and__(self, other: BlockSet) -> BlockSet:
        bits = self.bits & other.bits
        if len(other.chunks):
            bits |= _within(self.bits, other.chunks)
        if len(self.chunks):
            bits |= _within(other.bits, self.chunks)
        return BlockSet.of(bits, _combined(self.chunks, other.chunks, np.logical_and))

    def __sub__(self, other: BlockSet) -> BlockSet:
        bits = self.bits - other.bits
        _remove(bits, other.chunks)
        chunks = _combined(self.chunks, other.chunks, lambda mine, theirs: mine & ~theirs)
        if len(chunks) and (holes := _within(other.bits, chunks)):
            broken = _chunks_of(holes)
            chunks = _combined(chunks, broken, lambda mine, theirs: mine & ~theirs)
            rest = BitMap64()
            for first, end in _block_ranges(broken):
                rest.add_range(first, end)
            bits |= rest - holes
        return BlockSet.of(bits, chunks)

    def issubset(self, other: BlockSet) -> bool:
        """Return whether `other` holds every block of this set."""
        if not len(self.chunks) and not len(other.chunks):
            return bool(self.bits.issubset(other.bits))
        chunks = _combined(self.chunks, other.chunks, lambda mine, theirs: mine & ~theirs)
        if any(
            other.bits.range_cardinality(first, end) < end - first
            for first, end in _block_ranges(chunks)
        ):
            return False
        bits = self.bits
        if len(other.chunks) and bits:
            bits = bits.copy()
            _remove(bits, other.chunks)
        return bool(bits.issubset(other.bits))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BlockSet):
            return NotImplemented
        return len(self) == len(other) and self.issubset(other)

    __hash__ = None  # type: ignore[assignment]

    def run_arrays(self) -> Iterator[RunArrays]:
        """Yield the runs of consecutive blocks, ascending, many at a time. Each is whole."""
        if not len(self.chunks) and len(self.bits) <= _WINDOW_BLOCKS:
            if self.bits:
                yield _runs_of(self.bits)
            return
        open_run: RunArrays | None = None
        for firsts, ends in self._pieces():
            if open_run is not None:
                if firsts[0] == open_run[1][0]:
                    firsts[0] = open_run[0][0]
                else:
                    yield open_run
            if len(firsts) > 1:
                yield firsts[:-1], ends[:-1]
            open_run = firsts[-1:], ends[-1:]
        if open_run is not None:
            yield open_run

    def _pieces(self) -> Iterator[RunArrays]:
        """Yield runs as run_arrays does, but cut at windows and at chunks."""
        start = 0
        for first, end in _block_ranges(self.chunks):
            yield from _bitmap_runs(self.bits, start, first)
            yield np.array([first], np.uint64), np.array([end], np.uint64)
            start = end
        if self.bits:
            yield from _bitmap_runs(self.bits, start, self.bits.max() + 1)


def _bitmap_runs(bits: Any, start: int, end: int) -> Iterator[RunArrays]:
    """Yield the runs of a bitmap in [start, end), cut at windows.

    A window is as wide as its blocks allow, so a sparse bitmap has few of them.
    """
    span = _WINDOW_BLOCKS
    while bits and start < end and bits.max() >= start:
        start = bits.next_set_bit(start)
        if start >= end:
            return
        span = _window_span(bits, start, span)
        stop = min(start + span, end)
        mask = BitMap64()
        mask.add_range(start, stop)
        yield _runs_of(bits & mask)
        start = stop


def _window_span(bits: Any, start: int, span: int) -> int:
    """Return the width of the window at `start`. span: that of the window before."""
    while span < _WINDOW_SPAN and (
        bits.range_cardinality(start, start + 2 * span) <= _WINDOW_BLOCKS
    ):
        span *= 2
    while span > _WINDOW_BLOCKS and bits.range_cardinality(start, start + span) > _WINDOW_BLOCKS:
        span //= 2
    return span


def _runs_of(bits: Any) -> RunArrays:
    """Return the runs of a bitmap, which isn't empty."""
    numbers = bits.to_array()
    if len(numbers) <= _FEW_BLOCKS:  # numpy would take ten times as long
        breaks_at = [at for at in range(1, len(numbers)) if numbers[at] - numbers[at - 1] > 1]
        return (
            np.array([numbers[at] for at in (0, *breaks_at)], np.uint64),
            np.array([numbers[at - 1] + 1 for at in (*breaks_at, len(numbers))], np.uint64),
        )
    blocks = np.array(numbers, np.uint64)
    breaks = np.flatnonzero(np.diff(blocks) > 1)
    return (
        blocks[np.concatenate(([0], breaks + 1))],
        blocks[np.concatenate((breaks, [len(blocks) - 1]))] + np.uint64(1),
    )


def _united(firsts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> Edges:
    """Return the edges of the union of ranges of chunks, in any order, none of them empty."""
    if not len(firsts):
        return _NO_EDGES
    order = np.argsort(firsts, kind="stable")
    firsts, reach = firsts[order], np.maximum.accumulate(ends[order])
    begins = np.concatenate(([True], firsts[1:] > reach[:-1]))
    lasts = np.concatenate((begins[1:], [True]))
    return np.stack((firsts[begins], reach[lasts]), axis=1).ravel()


def _combined(
    one: Edges,
    other: Edges,
    rule: Callable[[npt.NDArray[np.bool_], npt.NDArray[np.bool_]], npt.NDArray[np.bool_]],
) -> Edges:
    """Return the edges of the chunks for which the rule holds, given whether each set has them."""
    if not len(one) and not len(other):
        return _NO_EDGES
    edges = np.union1d(one, other)
    in_one = np.searchsorted(one, edges, "right") % 2 == 1
    in_other = np.searchsorted(other, edges, "right") % 2 == 1
    held = rule(in_one, in_other)
    changes: Edges = edges[np.concatenate((held[:1], held[1:] != held[:-1]))]
    return changes


def _block_ranges(edges: Edges) -> list[tuple[int, int]]:
    """Return [first, end) in blocks of each run of chunks."""
    if not len(edges):
        return []
    blocks = edges.astype(np.uint64) << np.uint64(CHUNK_BITS)
    return list(zip(blocks[::2].tolist(), blocks[1::2].tolist(), strict=True))


def _remove(bits: Any, edges: Edges) -> None:
    """Remove the blocks of runs of chunks from a bitmap."""
    if not len(edges) or not bits:
        return
    for first, end in _block_ranges(edges):
        bits.remove_range(first, end)


def _within(bits: Any, edges: Edges) -> Any:
    """Return those blocks of a bitmap that lie in runs of chunks."""
    if not bits or not len(edges):
        return BitMap64()
    inside, end = bits.copy(), bits.max() + 1
    blocks = [0, *(bound for run in _block_ranges(edges) for bound in run), end]
    for first, stop in zip(blocks[::2], blocks[1::2], strict=True):
        if stop > first:
            inside.remove_range(first, stop)
    return inside


def _chunks_of(bits: Any) -> Edges:
    """Return the edges of the chunks of which a bitmap holds a block."""
    chunks, start, end = [], bits.min(), bits.max()
    while True:
        chunks.append(start >> CHUNK_BITS)
        following = (chunks[-1] + 1) << CHUNK_BITS
        if following > end:
            numbers = np.array(chunks, np.int64)
            return _united(numbers, numbers + 1)
        start = bits.next_set_bit(following)


def whole_chunks(data: bytes) -> npt.NDArray[np.int64]:
    """Return the numbers of the chunks that a bitmap in the portable 64-bit form holds whole.

    run_optimize() was called before: a whole container is one of runs.

    RoaringFormatSpec, "Extension for 64-bit implementations": the number of buckets (u64), and of
    each its number (u32) and a 32-bit bitmap.
    """
    view = np.frombuffer(data, np.uint8)
    entries, at = [], 8
    for _ in range(int.from_bytes(data[:8], "little")):
        bucket = int.from_bytes(data[at : at + 4], "little")
        chunks, size_bytes = _whole_containers(view[at + 4 :])
        entries.append(chunks + (bucket << CHUNK_BITS))
        at += 4 + size_bytes
    return np.concatenate(entries) if entries else _NO_EDGES


def _whole_containers(data: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], int]:
    """Return the keys of the whole containers of a 32-bit bitmap, and the size of the bitmap.

    RoaringFormatSpec, "Cookie header", "Descriptive header" and "Offset header".
    """
    cookie = int.from_bytes(data[:4].tobytes(), "little")
    has_runs = cookie & 0xFFFF == _RUN_COOKIE
    if has_runs:
        count, at = (cookie >> 16) + 1, 4
        flags = np.unpackbits(data[at : at + (count + 7) // 8], bitorder="little")[:count] == 1
        at += (count + 7) // 8
    else:
        count, at = int.from_bytes(data[4:8].tobytes(), "little"), 8
        flags = np.zeros(count, np.bool_)
    head = data[at : at + 4 * count].view("<u2").reshape(count, 2).astype(np.int64)
    keys, cardinalities = head[:, 0], head[:, 1] + 1
    at += 4 * count
    is_first_known = not has_runs or count >= _HAS_OFFSETS_FROM
    if is_first_known:
        at, left = int(data[at + 4 * (count - 1) : at + 4 * count].view("<u4")[0]), [count - 1]
    else:
        left = list(range(count))
    for number in left:
        cardinality = int(cardinalities[number])
        if flags[number]:
            at += 2 + 4 * int(data[at : at + 2].view("<u2")[0])
        else:
            at += 2 * cardinality if cardinality <= _ARRAY_MAX else _BITMAP_BYTES
    return keys[cardinalities == CHUNK_BLOCKS], at
