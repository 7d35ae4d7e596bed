"""The port of everything that holds rows of histories: the commands topic, an archive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from mirrorlog.domain.volumes import Volume
from mirrorlog.history.batches import HistoryBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class CoveredRange:
    """The positions `(after, through]`: no command of them is missing.

    Nothing is covered if after >= through.
    """

    after: int
    through: int


class HistorySource(Protocol):
    """Holds rows of volumes' histories, and says of which positions it has all."""

    def covered(self, volume: Volume) -> list[CoveredRange]:
        """Return the ranges of positions of which the source has every command of the volume.

        They are ascending and apart: between two of them, something is missing. Positions where the
        partition has no command of the volume count as covered.
        """

    def batches(self, volume: Volume, *, after: int, through: int) -> Iterator[HistoryBatch]:
        """Yield the volume's rows in `(after, through]`, in order, in batches of bounded size.

        volume: its newest description, by which extents are clipped as the node clips them.

        The batches' `through` ascend, and the last one's is the argument. Rows of one command are
        in one batch. Before anything is yielded, raise OutOfRetention if the source doesn't cover
        the range, with the position where it begins.
        """
