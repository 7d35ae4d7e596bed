"""CopyCounts: what copies read, found equal and wrote (pure)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final


@dataclass(frozen=True, slots=True)
class CopyCounts:
    """The counts of one batch of a copy, or of many.

    blocks, written_bytes: written to the secondary. Zeros that a comparison wrote are among them;
        zeros that were written because the primary has nothing allocated, without a comparison,
        aren't.
    read_bytes: read from the primary.
    compared_bytes: of the primary, compared with the secondary: the bytes that were read, or the
        digests of bytes that weren't.
    equal_bytes: of these, the ones that the secondary held already.
    """

    blocks: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    compared_bytes: int = 0
    equal_bytes: int = 0

    def __add__(self, other: CopyCounts) -> CopyCounts:
        return CopyCounts(*(getattr(self, name) + getattr(other, name) for name in _NAMES))

    def __sub__(self, other: CopyCounts) -> CopyCounts:
        return CopyCounts(*(getattr(self, name) - getattr(other, name) for name in _NAMES))


_NAMES: Final = tuple(field.name for field in fields(CopyCounts))
