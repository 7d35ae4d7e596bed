"""BatchedWrites: copies all ranges of a batch with a few calls, where the secondary can do that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from mirrorlog.consumers.range_reads import PageMemory, zero_ranges
from mirrorlog.consumers.resync.copy_batches import CopiedBatch, CopyBatch
from mirrorlog.consumers.resync.samples import sample_digest
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.ports.devices import CopyTarget, WritesRanges


class BatchedWrites:
    """Copies batches to `target`, in any number of threads.

    memory: of the batches. is_only_writer: as WritesRanges.pwrite_ranges says.
    """

    def __init__(
        self,
        target: CopyTarget,
        ranges: WritesRanges,
        memory: PageMemory,
        *,
        is_only_writer: bool,
    ) -> None:
        """target, ranges: the same object."""
        self._target: Final = target
        self._ranges: Final = ranges
        self._is_only_writer: Final = is_only_writer
        self._memory: Final = memory

    def copy(
        self, read: Callable[[RangeColumns, memoryview], None], batch: CopyBatch
    ) -> CopiedBatch:
        """Copy the ranges of a batch. What is zeros is released where that is possible.

        read: reads ranges of the primary to their places in memory.
        """
        ranges = batch.ranges
        with self._memory.lent(batch.size_bytes) as memory:
            read(ranges, memory)
            are_zeros = _zeros(ranges, memory)
            to_write = ranges
            if are_zeros.any():
                zero_ranges(self._target, ranges.where(are_zeros))
                to_write = ranges.where(~are_zeros)
            if len(to_write):
                self._ranges.pwrite_ranges(to_write, memory, is_only_writer=self._is_only_writer)
            digests = {}
            for index, chosen in batch.chosen.items():
                start = int(ranges.places[index]) + chosen.offset - int(ranges.offsets[index])
                digests[index] = sample_digest(memory[start : start + chosen.length])
        return CopiedBatch(batch, digests, batch.size_bytes)


def _zeros(ranges: RangeColumns, memory: memoryview) -> npt.NDArray[np.bool_]:
    """Return which of the ranges are zeros. Most begin with another byte."""
    are_zeros: npt.NDArray[np.bool_] = np.frombuffer(memory, np.uint8)[ranges.places] == 0
    for index in np.flatnonzero(are_zeros).tolist():
        place, length = int(ranges.places[index]), int(ranges.lengths[index])
        are_zeros[index] = bytes(length) == memory[place : place + length]
    return are_zeros
