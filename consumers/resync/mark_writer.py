"""MarkWriter: writes the marks of a site's secondaries durably."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from mirrorlog.consumers.resync.secondaries import Secondaries
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.state.secondary_state import SecondaryIdentity
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed

Failed: TypeAlias = tuple[Secondary, DeviceFailed]
"""A secondary that can't go on, and why."""


class MarkWriter:
    """Writes marks of secondaries of the site `site`."""

    def __init__(self, site: str, secondaries: Secondaries) -> None:
        self._site, self._secondaries = site, secondaries

    def write(self, marked: Sequence[tuple[Secondary, SecondaryIdentity]]) -> list[Failed]:
        """Mark secondaries by these identities, durably, and note the identities.

        All marks are written together. If that fails, one by one: return those that failed.
        """
        try:
            self.write_together(marked)
        except DeviceFailed as error:
            if len(marked) == 1:
                return [(marked[0][0], error)]
            return [failed for one in marked for failed in self.write([one])]
        return []

    def write_together(self, marked: Sequence[tuple[Secondary, SecondaryIdentity]]) -> None:
        """Write all marks together, and note the identities. Raise DeviceFailed."""
        self._secondaries.write_marks(
            [
                (
                    secondary.volume,
                    self.mark(secondary.volume, identity.secondary_id, identity.epoch),
                )
                for secondary, identity in marked
            ]
        )
        for secondary, identity in marked:
            secondary.note_identity(identity)

    def mark(self, volume: Volume, secondary_id: str, epoch: int) -> SecondaryMark:
        """Return the mark of a volume's secondary."""
        return SecondaryMark(
            secondary_id=secondary_id, site=self._site, volume=volume.volume, epoch=epoch
        )
