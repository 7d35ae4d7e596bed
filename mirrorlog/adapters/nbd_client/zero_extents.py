"""What a server says is zeros needn't be read: parts of ranges by the extents of an export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from mirrorlog.adapters.nbd_client.libnbd import STATE_ZERO
from mirrorlog.adapters.nbd_client.nbd_connection import Extent
from mirrorlog.domain.range_columns import RangeColumns

_LONG_BYTES: Final = 256 << 10


def are_long(ranges: RangeColumns) -> npt.NDArray[np.bool_]:
    """Return which ranges are long enough to ask whether they are zeros, as a trim leaves them."""
    long: npt.NDArray[np.bool_] = ranges.lengths >= _LONG_BYTES
    return long


def without_zeros(
    ranges: RangeColumns,
    asked: npt.NDArray[np.bool_],
    extents: Sequence[Sequence[Extent]],
    memory: memoryview,
) -> RangeColumns:
    """Return the parts of the ranges that are to be read; `ranges` itself if that is all of them.

    asked: the ranges to which `extents` belong. The other parts are zeros, and made zeros in
    `memory`.
    """
    data = list(ranges.where(~asked))
    has_zeros = False
    for one, of_range in zip(ranges.where(asked), extents, strict=True):
        for offset, length, place, is_zero in _parts(one, of_range):
            if is_zero:
                has_zeros = True
                memory[place : place + length] = bytes(length)
            else:
                data.append((offset, length, place))
    if not has_zeros:
        return ranges
    columns = np.array(data, np.int64).reshape(-1, 3)
    return RangeColumns(columns[:, 0], columns[:, 1], columns[:, 2])


def _parts(
    one: tuple[int, int, int], extents: Sequence[Extent]
) -> Iterator[tuple[int, int, int, bool]]:
    """Yield (offset, length, place, is_zero) of the parts of a range.

    extents: from the range's start on. What the extents don't reach isn't known to be zeros.
    """
    offset, rest, place = one
    for size, flags in (*extents, (rest, 0)):
        length = min(size, rest)
        if length:
            yield offset, length, place, bool(flags & STATE_ZERO)
        offset, rest, place = offset + length, rest - length, place + length
