"""What a source says of one range of a volume, and what an importer is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto


class ChangeKind(Enum):
    """What happened to the range. UNCHANGED is said only by maps that say something of every byte."""

    UNCHANGED = auto()
    DIRTY = auto()  # it may differ: a map doesn't know the writes that it was made of
    WRITE = auto()
    ZERO = auto()  # it reads as zeros now
    DISCARD = auto()  # it reads as zeros now, and takes no room


@dataclass(frozen=True, slots=True)
class Change:
    """`length` bytes from byte `offset` on; at_us in microseconds by the source's clock, None where it says no time."""

    kind: ChangeKind
    offset: int
    length: int
    at_us: int | None = None

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Where a volume lies in the addresses of a source; negative where the source begins inside the volume."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class ImportSource:
    """One source, read as often as one likes, in bounded memory. Only a whole pass proves it sound.

    changes: a pass over it. BadInput, saying where, for what isn't what the format says.
    warnings: what the last pass took for dirty without being told so, or in doubt.
    whole: a map that says something of every byte of its volume, in order.
    joins: neighbours of a kind may be joined; where False each change was one write, and audits count them.
    dated: its times are microseconds since 1970, UTC.
    """

    name: str
    changes: Callable[[], Iterator[Change]]
    warnings: list[str] = field(default_factory=list)
    whole: bool = False
    joins: bool = True
    dated: bool = False
