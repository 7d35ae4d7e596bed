"""A volume in ranges of one size, and what writes amount to in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from mirrorlog.domain.volumes import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeGrid:
    """The ranges of a volume. range_bytes: of each but the last; a power of two, whole blocks."""

    range_bytes: int
    ranges: int

    @classmethod
    def of(cls, volume: Volume, *, at_most: int) -> Self:
        """Return the finest grid of the volume with at most so many ranges."""
        range_bytes = volume.block_size
        while -(-volume.size_bytes // range_bytes) > at_most:
            range_bytes *= 2
        return cls(range_bytes=range_bytes, ranges=-(-volume.size_bytes // range_bytes))

    def counts(
        self, offsets: npt.NDArray[np.uint64], lengths: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.int64]:
        """Return how many of the extents touch each range. lengths: above 0."""
        firsts, lasts = self._bounds(offsets, lengths)
        begins = np.bincount(firsts, minlength=self.ranges + 1)
        ends = np.bincount(lasts + 1, minlength=self.ranges + 1)
        counts: npt.NDArray[np.int64] = np.cumsum(begins - ends)[: self.ranges]
        return counts

    def bytes_in(
        self, offsets: npt.NDArray[np.uint64], lengths: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.uint64]:
        """Return how many bytes of the extents lie in each range, u64. lengths: above 0."""
        size = np.uint64(self.range_bytes)
        firsts, lasts = self._bounds(offsets, lengths)
        is_within = firsts == lasts
        in_first = np.where(is_within, lengths, (firsts + 1).astype(np.uint64) * size - offsets)
        in_last = offsets + lengths - lasts.astype(np.uint64) * size
        result = np.zeros(self.ranges, np.uint64)
        np.add.at(result, firsts, in_first)
        np.add.at(result, lasts[~is_within], in_last[~is_within])
        # The ranges between the first and the last one of an extent lie in it whole.
        between = np.zeros(self.ranges + 1, np.int64)
        np.add.at(between, firsts[~is_within] + 1, 1)
        np.add.at(between, lasts[~is_within], -1)
        return result + np.cumsum(between)[: self.ranges].astype(np.uint64) * size

    def _bounds(
        self, offsets: npt.NDArray[np.uint64], lengths: npt.NDArray[np.uint64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the first and the last range of each extent."""
        shift = np.uint64(self.range_bytes.bit_length() - 1)
        firsts = (offsets >> shift).astype(np.int64)
        return firsts, ((offsets + lengths - np.uint64(1)) >> shift).astype(np.int64)
