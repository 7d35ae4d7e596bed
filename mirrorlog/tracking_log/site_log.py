"""The log of one volume as one site reads it: what changed, and which of it the site's secondary has missed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mirrorlog.domain.bitmaps import BitMap64, union
from mirrorlog.tracking_log.coverage import Hole, VolumeLog
from mirrorlog.tracking_log.heads import ForkHead


@dataclass(frozen=True, slots=True)
class SiteLog:
    """`volume` is the volume's log, `missed_log` that of what `site` has missed, as far as there is one.

    Where no host sends its writes to the site's secondary, it has missed all that changed; so it has before its missed log
    begins.
    """

    volume: VolumeLog
    missed_log: VolumeLog
    site: str

    @property
    def fork(self) -> ForkHead | None:
        """Where the missed log begins and ends; None where there is none."""
        return None if self.volume.head is None else self.volume.head.forks.get(self.site)

    @property
    def has_open(self) -> bool:
        """Whether a host doesn't know yet what became of a write at the site's secondary."""
        return self.volume.head is not None and self.volume.head.has_open(self.site)

    def changed(self, after: int, through: int) -> BitMap64:
        """Blocks that may have changed in `(after, through]`."""
        return self.volume.changed(after, through)

    def missed(self, after: int, through: int) -> BitMap64:
        """Blocks that the secondary may have missed in `(after, through]`."""
        return union(log.changed(*span) for log, *span in self._parts(after, through))

    def missed_hole(self, after: int, through: int) -> Hole | None:
        """The first stretch of which it isn't proved what the secondary has missed (invariant 5)."""
        for log, start, end in self._parts(after, through):
            chain_end = self.fork.through if self.fork and log is self.missed_log else None
            if (hole := log.hole(start, end, chain_end)) is not None:
                return hole
        return None

    def hole(self, after: int, through: int) -> Hole | None:
        """The first stretch of which it isn't proved what changed, or what the secondary has missed."""
        return self.volume.hole(after, through) or self.missed_hole(after, through)

    def reach(self, after: int, through: int) -> int:
        """How far down the records of `missed(after, through)` reach: they are taken whole."""
        return min([after, *(log.reach(*span) for log, *span in self._parts(after, through))])

    def oldest_missed_at_us(self, after: int, through: int) -> int | None:
        """When the first write that the secondary has missed was made, by its host's clock; None where there is none."""
        times = (log.oldest_at_us(*span) for log, *span in self._parts(after, through))
        return min((each for each in times if each is not None), default=None)

    def _parts(self, after: int, through: int) -> Iterator[tuple[VolumeLog, int, int]]:
        """Which log says what was missed, and from where to where."""
        fork = self.fork
        begins = through if fork is None else min(max(fork.after, after), through)
        if begins > after:
            yield self.volume, after, begins
        if through > begins:
            yield self.missed_log, begins, through
