"""What the readers of layouts have in common: how they read bytes, numbers and bitmaps."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
ReadAt = Callable[[int, int], bytes]
"""Returns at most so many bytes from an offset in the file system: (offset, length)."""


class UnsupportedLayout(Exception):
    """The file system has a layout that isn't read here. The text says which."""


def number_at(data: bytes, at: int, letter: str) -> int:
    """Return one little-endian number. letter: its type, as struct names it."""
    return int(struct.unpack_from("<" + letter, data, at)[0])


def bits_of(data: bytes) -> npt.NDArray[np.uint8]:
    """Return the bits of a bitmap, the lowest of each byte first."""
    return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")


def runs_of(is_in: npt.NDArray[np.bool_]) -> Int64s:
    """Return rows (first, count) of the runs of True, ascending."""
    padded = np.concatenate(([0], is_in.astype(np.int8), [0]))
    steps = np.diff(padded)
    firsts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    return np.stack((firsts, ends - firsts), axis=1).astype(np.int64)
