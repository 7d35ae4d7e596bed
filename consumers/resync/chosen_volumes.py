"""Which volumes a site mirrors: those that an operator chose, or whose descriptions name it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from mirrorlog.domain.volumes import Volume


def is_chosen(
    volume: Volume, site: str, patterns: Sequence[str], secondaries: Container[str] = ()
) -> bool:
    """Return whether a site mirrors a volume.

    patterns: if there are any, the volumes whose names match one of them (`*`, `?`, `[…]`, in which
        case counts). Otherwise those in `secondaries`, for which the site's settings name an
        address; those whose description names the site; and those whose description names no site.
    """
    if patterns:
        return any(fnmatchcase(volume.volume, pattern) for pattern in patterns)
    return volume.volume in secondaries or volume.is_expected_at(site)


class ChosenVolumes:
    """Remembers what was chosen, so that ten thousand other volumes cost a round nearly nothing."""

    def __init__(
        self, site: str, patterns: Sequence[str], secondaries: Container[str] = ()
    ) -> None:
        self._site: Final = site
        self._patterns: Final = tuple(patterns)
        self._secondaries: Final = secondaries
        self._others: Final[dict[str, Volume]] = {}

    @property
    def others(self) -> Mapping[str, Volume]:
        """The volumes that take() passed over, by name."""
        return self._others

    def take(self, volume: Volume) -> bool:
        """Return whether a volume that isn't mirrored yet is chosen, by its present description."""
        if self._others.get(volume.volume) is volume:
            return False
        if is_chosen(volume, self._site, self._patterns, self._secondaries):
            self._others.pop(volume.volume, None)
            return True
        self._others[volume.volume] = volume
        return False
