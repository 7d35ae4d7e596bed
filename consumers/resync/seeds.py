"""Which copies compare both sides: the secondary may hold most of its volume already (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mirrorlog.domain.volumes import Volume


@dataclass(frozen=True, slots=True)
class Seeds:
    """What an operator says of the secondaries of a site.

    patterns: of the names of volumes whose secondary is a seed: a copy that was put there by other
        means. That is no proof of what it holds, so it is compared with the primary.
    compares_all: every copy of everything compares both sides.
    """

    patterns: Sequence[str] = ()
    compares_all: bool = False

    def has_seed(self, volume: Volume) -> bool:
        """Return whether the secondary of the volume is a seed."""
        return any(fnmatchcase(volume.volume, pattern) for pattern in self.patterns)

    def is_compared(self, volume: Volume) -> bool:
        """Return whether a copy of everything writes only the blocks that differ."""
        return self.compares_all or self.has_seed(volume)
