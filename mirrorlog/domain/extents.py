"""Extents: byte ranges of a volume, one by one for people and tests, as columns on hot paths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import repeat
from typing import Final

import numpy as np
import numpy.typing as npt

U64: Final = np.dtype("<u8")
U8: Final = np.dtype("u1")
MAX_BYTE: Final = (1 << 63) - 1
"""The highest possible end of a volume: Linux loff_t, and the sizes of NBD and SCSI, in bytes."""


class ExtentKind(IntEnum):
    """The kind of a change. The numbers are on the wire and never change their meaning."""

    WRITE = 0
    ZERO = 1
    DISCARD = 2


@dataclass(frozen=True, slots=True)
class Extent:
    """The `length` bytes that begin at byte `offset`."""

    offset: int
    length: int
    kind: ExtentKind = ExtentKind.WRITE

    @property
    def end(self) -> int:
        """The offset of the first byte behind the extent."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True, eq=False)
class ExtentColumns:
    """n extents as three columns of length n.

    offsets, lengths: u64, in bytes.
    kinds: u8, ExtentKind; None if all extents are writes.

    On the wire, each column is an Avro `bytes` field in little-endian order, so that
    numpy.frombuffer reads it.
    """

    offsets: npt.NDArray[np.uint64]
    lengths: npt.NDArray[np.uint64]
    kinds: npt.NDArray[np.uint8] | None = None

    @classmethod
    def of(cls, extents: Iterable[Extent]) -> ExtentColumns:
        """Return the columns of extents."""
        rows = list(extents)
        kinds = None
        if any(row.kind is not ExtentKind.WRITE for row in rows):
            kinds = np.fromiter((row.kind for row in rows), U8, len(rows))
        return cls(
            np.fromiter((row.offset for row in rows), U64, len(rows)),
            np.fromiter((row.length for row in rows), U64, len(rows)),
            kinds,
        )

    @classmethod
    def unpack(cls, offsets: bytes, lengths: bytes, kinds: bytes) -> ExtentColumns:
        """Return the columns from their bytes on the wire.

        kinds: empty if all extents are writes. Raise ValueError if the lengths of the columns
        disagree or a kind is unknown.
        """
        if (
            len(offsets) % 8
            or len(lengths) != len(offsets)
            or len(kinds) not in (0, len(offsets) // 8)
        ):
            raise ValueError(
                f"columns disagree: {len(offsets)} bytes of offsets, {len(lengths)} of lengths, "
                f"{len(kinds)} of kinds"
            )
        if kinds and max(kinds) > max(ExtentKind):
            raise ValueError(f"extent kind {max(kinds)} is unknown")
        return cls(
            np.frombuffer(offsets, U64),
            np.frombuffer(lengths, U64),
            np.frombuffer(kinds, U8) if kinds else None,
        )

    def pack(self) -> tuple[bytes, bytes, bytes]:
        """Return (offsets, lengths, kinds) as bytes on the wire."""
        return (
            self.offsets.tobytes(),
            self.lengths.tobytes(),
            b"" if self.kinds is None else self.kinds.tobytes(),
        )

    def total_bytes(self, *, longest: int) -> int:
        """Return the sum of the lengths; 2^63 - 1 if it is larger, the largest number in an event.

        longest: no extent is longer.
        """
        if len(self) * longest <= MAX_BYTE:
            return int(self.lengths.sum())
        total: int = sum(self.lengths.tolist())
        return min(total, MAX_BYTE)

    def __len__(self) -> int:
        return len(self.offsets)

    def __iter__(self) -> Iterator[Extent]:
        kinds = (
            repeat(ExtentKind.WRITE) if self.kinds is None else map(ExtentKind, self.kinds.tolist())
        )
        return map(Extent, self.offsets.tolist(), self.lengths.tolist(), kinds)
