"""SiteVolumes: the secondaries that a site has, by the descriptions in the catalog."""

from __future__ import annotations

import logging
from typing import Final

from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.resync.secondary_turns import SecondaryTurns
from mirrorlog.consumers.resync.site_cycles import SiteCycles
from mirrorlog.consumers.resync.site_parts import SiteParts
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed, StateDamaged

log = logging.getLogger("mirrorlog.site")


class SiteVolumes:
    """Takes on the chosen volumes (chosen_volumes.py) that are this process's, and leaves them."""

    def __init__(self, parts: SiteParts, turns: SecondaryTurns, cycles: SiteCycles) -> None:
        self._parts: Final = parts
        self._ports, self._chosen, self._secondaries = parts.ports, parts.chosen, parts.secondaries
        self._meetings, self._logs, self._watch = parts.meetings, parts.logs, parts.watch
        self._read_ends, self._turns = parts.read_ends, turns
        self._staged, self._groups = cycles.staged, cycles.groups

    def follow_catalog(self) -> set[str]:
        """Take new descriptions; return their volumes."""
        changed, in_groups = set[str](), list[Volume]()
        for name, volume in self._ports.catalog.items():
            if volume.group is not None and not volume.is_retired:
                in_groups.append(volume)
            secondary = self._secondaries.get(name)
            if not self._ports.share.is_held(volume.partition):
                if secondary is not None:  # it was described in a partition of this process
                    self._leave(secondary)
            elif secondary is None:
                was_other = name in self._chosen.others
                if self._chosen.take(volume):
                    changed.add(name)
                    self._add(volume)
                    if was_other:
                        self._turns.read_log_again(self._secondaries[name])
            elif secondary.volume is not volume and secondary.volume != volume:
                changed.add(name)
                self._describe(secondary, volume)
        self._groups.follow(in_groups)
        return changed

    def _describe(self, secondary: Secondary, volume: Volume) -> None:
        """Take a new description of a volume.

        While the secondary is the primary, others may change it and its saved state (`promote`,
        `rejoin`). So it is met again afterwards, and the state is loaded again.
        """
        was_primary = secondary.volume.primary_site == self._parts.name
        secondary.describe(volume)
        if was_primary != (volume.primary_site == self._parts.name):
            self._meetings.let_go(secondary)
            secondary.note_unloaded()

    def leave_partition(self, partition: int) -> None:
        """Leave all volumes of a partition that another worker is to have."""
        for secondary in list(self._secondaries.values()):
            if secondary.volume.partition == partition:
                self._leave(secondary)

    def _leave(self, secondary: Secondary) -> None:
        """Forget a volume, as the end of the process would, and close its secondary."""
        name = secondary.volume.volume
        self._staged.forget(secondary)
        self._parts.snapshots.forget(name)
        self._meetings.forget(secondary)
        del self._secondaries[name]
        self._parts.active.discard(name)
        for part in (
            self._read_ends,
            self._watch,
            self._logs,
            self._parts.reporter,
            self._parts.changes,
            self._parts.failures,
        ):
            part.forget(name)

    def _add(self, volume: Volume) -> None:
        self._ports.log.follow_partition(volume.partition)
        secondary = self._secondaries[volume.volume] = Secondary(volume)
        self._read_ends.note_over(volume.volume)
        self.load(secondary)

    def load(self, secondary: Secondary) -> bool:
        """Load the saved state unless it is loaded. Return False if that failed.

        The site tries again later: what can't be read now may say that nothing is to be copied.
        A damaged state is never guessed: the secondary counts as unknown, and all of it is copied.
        """
        if secondary.is_loaded:
            return True
        before, is_again = secondary.saved, secondary.is_unloaded
        self._watch.note_unchecked(secondary.volume.volume)
        try:
            secondary.note_saved(self._ports.states.load(secondary.volume.volume))
        except StateDamaged as error:
            log.error("%s", error)
            secondary.note_damaged(str(error))
        except DeviceFailed as error:
            self._turns.stop(secondary, error)
            return False
        self._logs.forget_applied(secondary)
        if is_again and secondary.saved != before:
            self._turns.read_log_again(secondary)
            return False
        return True
