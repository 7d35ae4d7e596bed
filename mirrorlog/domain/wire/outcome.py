"""The effect of a raw command on the volume's blocks, as far as its bytes tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from mirrorlog.domain.extents import Extent, ExtentKind

_U64_MAX: Final = (1 << 64) - 1


class Verdict(Enum):
    """The extent to which the command's bytes were understood.

    In doubt it is WHOLE_VOLUME, if a device may have executed the command.

    EXTENTS: the extents hold every block that the command may change. There is none if the command
    transfers nothing.
    READ_ONLY: the command changes no block. It is answered and not recorded.
    WHOLE_VOLUME: the command may change blocks, but it isn't known which. All blocks are dirty, and
    the text says why.
    MALFORMED: no device can have executed the command. It is refused, and the text says why.
    """

    EXTENTS = auto()
    READ_ONLY = auto()
    WHOLE_VOLUME = auto()
    MALFORMED = auto()


@dataclass(frozen=True, slots=True)
class Interpretation:
    """A verdict, with its extents in bytes. Each lies in [0, 2^64), and none is empty.

    The extents aren't clipped to the volume. An address that doesn't fit in 64 bits becomes the
    upper end of that range. There the check of ranges refuses that extent alone, and keeps the
    command's other extents (`mirrorlog.domain.extraction`).
    """

    verdict: Verdict
    extents: tuple[Extent, ...] = ()
    text: str = ""


def known_extents(extents: Iterable[Extent]) -> Interpretation:
    """Return a verdict that the command changes at most these extents. Empty ones are left out."""
    return Interpretation(Verdict.EXTENTS, tuple(extent for extent in extents if extent.length))


def read_only() -> Interpretation:
    """Return a verdict that the command changes no block."""
    return Interpretation(Verdict.READ_ONLY)


def whole_volume(reason: str) -> Interpretation:
    """Return a verdict that the command may change any block.

    `mirrorlog.domain.wire.interpret` adds the extent, because it knows the volume's size.
    """
    return Interpretation(Verdict.WHOLE_VOLUME, text=reason)


def malformed(reason: str) -> Interpretation:
    """Return a verdict that no device can have executed the command."""
    return Interpretation(Verdict.MALFORMED, text=reason)


def extent(
    first: int, count: int, *, unit_bytes: int, kind: ExtentKind = ExtentKind.WRITE
) -> Extent:
    """Return the extent of `count` units of `unit_bytes` bytes, from unit `first` on.

    Its end is limited to 2^64 - 1, so that it doesn't wrap. It is empty only if `count` is 0.
    """
    if not count:
        return Extent(0, 0, kind)
    offset = min(first * unit_bytes, _U64_MAX - 1)
    return Extent(offset, min((first + count) * unit_bytes, _U64_MAX) - offset, kind)
