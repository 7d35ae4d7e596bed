"""Byte ranges in columns: what a device reads or writes in one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Integers: TypeAlias = npt.NDArray[np.int64]
"""Offsets or lengths, in bytes."""


@dataclass(frozen=True, slots=True)
class RangeColumns:
    """Ranges of a device, and the place of each in one piece of memory. Arrays of equal length.

    offsets: on the device. lengths: at least 1 each. places: offsets in the memory.
    """

    offsets: Integers
    lengths: Integers
    places: Integers

    @classmethod
    def packed(cls, offsets: Integers, lengths: Integers) -> RangeColumns:
        """Return ranges whose places in memory follow each other without a gap, from 0 on."""
        return cls(offsets, lengths, np.cumsum(lengths) - lengths)

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int]]) -> RangeColumns:
        """Return packed ranges of (offset, length)."""
        columns = np.array(list(ranges), np.int64).reshape(-1, 2)
        return cls.packed(columns[:, 0], columns[:, 1])

    def __len__(self) -> int:
        return len(self.offsets)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Yield (offset, length, place) of each range."""
        return zip(self.offsets.tolist(), self.lengths.tolist(), self.places.tolist(), strict=True)

    @property
    def size_bytes(self) -> int:
        """The bytes of all ranges together."""
        return int(self.lengths.sum())

    def between(self, first: int, end: int) -> RangeColumns:
        """Return the ranges from index `first` to before index `end`."""
        part = slice(first, end)
        return RangeColumns(self.offsets[part], self.lengths[part], self.places[part])

    def where(self, chosen: npt.NDArray[np.bool_]) -> RangeColumns:
        """Return the ranges for which `chosen` is true. Their places stay the same."""
        return RangeColumns(self.offsets[chosen], self.lengths[chosen], self.places[chosen])

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of the pieces of memory that hold the ranges, in their order."""
        if not len(self):
            return
        ends = self.places + self.lengths
        gaps = np.flatnonzero(self.places[1:] != ends[:-1])
        starts = self.places[np.concatenate(([0], gaps + 1))]
        yield from zip(
            starts.tolist(), ends[np.concatenate((gaps, [len(ends) - 1]))].tolist(), strict=True
        )

    def are_multiples_of(self, size: int) -> bool:
        """Return whether all numbers are multiples of `size`, a power of two."""
        mixed = self.offsets | self.lengths | self.places
        return not int(np.bitwise_or.reduce(mixed)) & (size - 1)

    def are_inside(self, size_bytes: int) -> bool:
        """Return whether all ranges lie in [0, size_bytes)."""
        if not len(self):
            return True
        ends = self.offsets + self.lengths
        return int(self.offsets.min()) >= 0 and int(ends.max()) <= size_bytes

    def overlap(self) -> bool:
        """Return whether any two of the ranges overlap on the device."""
        order = self.offsets.argsort()
        ends = (self.offsets + self.lengths)[order]
        return bool((self.offsets[order][1:] < ends[:-1]).any())
