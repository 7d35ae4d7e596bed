"""Changes of ranges of a volume, and sources of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto


class ChangeKind(Enum):
    """The kind of change to a range. Only maps that describe every byte contain UNCHANGED."""

    UNCHANGED = auto()
    DIRTY = auto()  # It may differ. A map doesn't hold the single writes.
    WRITE = auto()
    ZERO = auto()  # It reads as zeros now.
    DISCARD = auto()  # It reads as zeros now and takes no space.


@dataclass(frozen=True, slots=True)
class Change:
    """A change of `length` bytes from byte `offset` on.

    at_us: microseconds by the source's clock, or None if the source has no time for it.
    """

    kind: ChangeKind
    offset: int = field(kw_only=True)
    length: int = field(kw_only=True)
    at_us: int | None = field(kw_only=True, default=None)

    @property
    def end(self) -> int:
        """Return the first byte behind the range."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRange:
    """The range of a source's addresses in which a volume lies, in bytes.

    The offset is negative if the source begins inside the volume.
    """

    offset: int
    length: int

    @property
    def end(self) -> int:
        """Return the first byte behind the range."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class ImportSource:
    """A source of changes that can be read repeatedly, in bounded memory.

    Only a complete pass proves that the source is sound.

    changes: starts a pass. It raises BadInput, with the place, for what violates the format.
    warnings: what the last pass treated as dirty in doubt, or because the source didn't say.
    whole: the source is a map that describes every byte of its volume, in order.
    joins: adjacent changes of one kind may be joined. If False, each change was one write, and
    audits count them.
    dated: the times are microseconds since 1970, UTC.
    """

    name: str
    changes: Callable[[], Iterator[Change]]
    warnings: list[str] = field(default_factory=list)
    whole: bool = False
    joins: bool = True
    dated: bool = False
