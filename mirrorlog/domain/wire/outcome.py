"""What a raw command does to the volume's blocks, as far as its bytes tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from mirrorlog.domain.extents import Extent, ExtentKind

_U64_MAX: Final = (1 << 64) - 1


class Verdict(Enum):
    """How far the bytes were understood. Where a device might have executed what they stand for, doubt is WHOLE_VOLUME."""

    EXTENTS = (
        auto()
    )  # the extents hold every block that the command may change; none where it transfers nothing
    READ_ONLY = auto()  # changes no block: answered, records nothing
    WHOLE_VOLUME = (
        auto()
    )  # may change blocks, and which isn't known: all of them are dirty, and the text says why
    MALFORMED = auto()  # no device can have executed it: refused, and the text says why


@dataclass(frozen=True, slots=True)
class Interpretation:
    """A verdict and its extents, in bytes, each inside [0, 2^64) and none of them empty.

    They aren't clipped to the volume: an address that doesn't fit in 64 bits stands at their upper end, where the check of
    ranges refuses it by itself and leaves the command's other extents alone (`mirrorlog.extraction`).
    """

    verdict: Verdict
    extents: tuple[Extent, ...] = ()
    text: str = ""


def known_extents(extents: Iterable[Extent]) -> Interpretation:
    """The command changes at most these; empty ones are left out."""
    return Interpretation(Verdict.EXTENTS, tuple(each for each in extents if each.length))


def read_only() -> Interpretation:
    """The command changes no block."""
    return Interpretation(Verdict.READ_ONLY)


def whole_volume(why: str) -> Interpretation:
    """The command may change any block; `mirrorlog.wire.interpret` puts the volume's size to it."""
    return Interpretation(Verdict.WHOLE_VOLUME, text=why)


def malformed(why: str) -> Interpretation:
    """No device can have executed this."""
    return Interpretation(Verdict.MALFORMED, text=why)


def extent(first: int, count: int, unit_bytes: int, kind: ExtentKind = ExtentKind.WRITE) -> Extent:
    """`count` units of `unit_bytes` from unit `first` on, held below 2^64 without wrapping; empty only where count is 0."""
    if not count:
        return Extent(0, 0, kind)
    offset = min(first * unit_bytes, _U64_MAX - 1)
    return Extent(offset, min((first + count) * unit_bytes, _U64_MAX) - offset, kind)
