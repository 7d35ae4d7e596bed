"""The port to the marks of primaries."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from mirrorlog.domain.primary_marks import PrimaryMark
from mirrorlog.ports.devices import BlockDevice


class PrimaryMarks(Protocol):
    """Keeps the mark of each primary.

    Raise StateDamaged for a mark that is damaged, DeviceFailed if one can't be read or written.
    """

    def read(self, device: BlockDevice) -> PrimaryMark | None:
        """Return the mark of a primary; None if it has none."""
        ...

    def write(self, marks: Collection[tuple[BlockDevice, PrimaryMark]]) -> None:
        """Write marks durably, each in place of the one before."""
        ...
