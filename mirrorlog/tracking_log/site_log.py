"""The log of one volume as one site reads it: what changed, and what the secondary has missed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mirrorlog.domain.bitmaps import BlockSet, union
from mirrorlog.tracking_log.coverage import Hole, VolumeLog
from mirrorlog.tracking_log.heads import ForkHead


class _LogRange(NamedTuple):
    """The positions `(after, through]` of one log."""

    log: VolumeLog
    after: int
    through: int


@dataclass(frozen=True, slots=True)
class SiteLog:
    """A volume's log, and the log of what `site` has missed of it.

    The missed log exists only where hosts send their writes to the site's secondary themselves
    (forked writes). Before the missed log begins, the secondary has missed everything that changed.
    """

    volume: VolumeLog
    missed_log: VolumeLog
    site: str

    @property
    def fork(self) -> ForkHead | None:
        """The range of the missed log; None if there is no such log."""
        return None if self.volume.head is None else self.volume.head.forks.get(self.site)

    @property
    def has_open_fork(self) -> bool:
        """Return whether the outcome of a host's write at the site's secondary is unknown."""
        return self.volume.head is not None and self.volume.head.has_open_fork(self.site)

    def changed(self, *, after: int, through: int) -> BlockSet:
        """Return the blocks that may have changed in `(after, through]`."""
        return self.volume.changed(after=after, through=through)

    def missed(self, *, after: int, through: int) -> BlockSet:
        """Return the blocks that the secondary may have missed in `(after, through]`."""
        return union(
            part.log.changed(
                after=part.after, through=part.through, generation=self.volume.generation
            )
            for part in self._parts(after=after, through=through)
        )

    def missed_hole(self, *, after: int, through: int) -> Hole | None:
        """Return the first part of the range where it isn't proved what the secondary has missed.

        Return None if all of it is proved (invariant 5).
        """
        for part in self._parts(after=after, through=through):
            chain_end = self.fork.through if self.fork and part.log is self.missed_log else None
            hole = part.log.hole(
                after=part.after,
                through=part.through,
                chain_end=chain_end,
                generation=self.volume.generation,
            )
            if hole is not None:
                return hole
        return None

    def hole(self, *, after: int, through: int) -> Hole | None:
        """Return the first part where it isn't proved what changed or what was missed."""
        return self.volume.hole(after=after, through=through) or self.missed_hole(
            after=after, through=through
        )

    def covered_from(self, *, after: int, through: int) -> int:
        """Return the lowest `after` of the records on which missed() of the same range stands."""
        parts = self._parts(after=after, through=through)
        generation = self.volume.generation
        lowest = (
            log.covered_from(after=start, through=end, generation=generation)
            for log, start, end in parts
        )
        return min([after, *lowest])

    def oldest_missed_at_us(self, *, after: int, through: int) -> int | None:
        """Return the time of the first write that the secondary missed, by its host's clock.

        Return None if it missed none in `(after, through]`.
        """
        parts = self._parts(after=after, through=through)
        generation = self.volume.generation
        times_us = (
            log.oldest_at_us(after=start, through=end, generation=generation)
            for log, start, end in parts
        )
        return min((time_us for time_us in times_us if time_us is not None), default=None)

    def _parts(self, *, after: int, through: int) -> Iterator[_LogRange]:
        """Yield the logs, with their ranges, that say what was missed in `(after, through]`."""
        fork = self.fork
        begin = through if fork is None else min(max(fork.after, after), through)
        if begin > after:
            yield _LogRange(self.volume, after, begin)
        if through > begin:
            yield _LogRange(self.missed_log, begin, through)
