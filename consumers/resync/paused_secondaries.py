"""PausedSecondaries: which secondaries an operator has paused, or a drill holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

from mirrorlog.consumers.resync.copy_pace import CopyPausedError
from mirrorlog.consumers.resync.cycle_steps import Idle
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.state.pauses import Pauses
from mirrorlog.domain.site_progress import SiteState

_DRILL_STEP: Final = Idle(
    SiteState.STOPPED,
    "a drill holds it at its consistent position (`mirrorlog site serve`)",
    "It goes on when the drill ends.",
    is_wanted=True,
)
"""The step of a secondary that a drill holds."""


class PausedSecondaries:
    """What the site `name` keeps off.

    look_at_pauses: returns what an operator has paused. look_at_drills: returns the volumes that
    drills hold. A drill holds a secondary only once that is consistent: until then its cycles and
    their proofs go on.
    """

    def __init__(
        self,
        name: str,
        look_at_pauses: Callable[[], Pauses],
        look_at_drills: Callable[[], frozenset[str]],
    ) -> None:
        self._name = name
        self._look_at_pauses, self._look_at_drills = look_at_pauses, look_at_drills
        self._pauses = Pauses()
        self._held: frozenset[str] = frozenset()

    def follow(self, secondaries: Mapping[str, Secondary]) -> set[str]:
        """Take what is paused and held now. Return the volumes of which that is new."""
        before, self._pauses = self._pauses, self._look_at_pauses()
        held_before, self._held = self._held, self._look_at_drills()
        changed = set(held_before ^ self._held) & secondaries.keys()
        if self._pauses == before:
            return changed
        return changed | {
            name
            for name in secondaries
            if before.covers(name) != self._pauses.covers(name) or self._pauses.damage
        }

    def covers(self, secondary: Secondary) -> bool:
        """Return whether the site keeps off a secondary."""
        name, saved = secondary.volume.volume, secondary.saved
        is_at_rest = saved is not None and saved.consistent_position is not None
        is_covered = self._pauses.covers(name) or (name in self._held and is_at_rest)
        return is_covered and secondary.volume.is_followed_by(self._name)

    def others(self, secondaries: Collection[Secondary]) -> list[Secondary]:
        """Return those that aren't covered."""
        return [secondary for secondary in secondaries if not self.covers(secondary)]

    def step(self, secondary: Secondary) -> Idle:
        """Return the step of a secondary that is covered."""
        name = secondary.volume.volume
        return _pause_step(name, self._pauses) if self._pauses.covers(name) else _DRILL_STEP

    def check(self, secondary: Secondary, secondaries: Mapping[str, Secondary]) -> None:
        """Raise CopyPausedError if an operator has paused a secondary that is copied."""
        if self._look_at_pauses().covers(secondary.volume.volume):
            self.follow(secondaries)
            raise CopyPausedError


def _pause_step(volume: str, pauses: Pauses) -> Idle:
    """Return the step of a secondary that an operator has paused."""
    if pauses.damage is not None:
        return Idle(
            SiteState.STOPPED,
            pauses.damage,
            "Remove that file, then pause again what is to be paused.",
        )
    whom = "--all" if pauses.is_all else volume
    return Idle(
        SiteState.STOPPED,
        "an operator has paused it",
        f"`mirrorlog site resume {whom}` with the site's folder (--dir) lets it go on.",
        is_wanted=True,
    )
