"""LeftJournals: the journals that an earlier process of a site left, sealed or not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mirrorlog.consumers.journal.apply_journal import staged_ranges
from mirrorlog.consumers.journal.group_commit import is_committed
from mirrorlog.consumers.journal.journal_format import SealedJournal, read_journal
from mirrorlog.consumers.journal.journal_store import JournalStore
from mirrorlog.consumers.journal.redo import refuse_redo
from mirrorlog.consumers.resync.mark_writer import Failed
from mirrorlog.consumers.resync.samples import samples_without
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.consumers.state.state_files import decode_state
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.errors import DeviceFailed, StateDamaged
from mirrorlog.ports.folders import StateFile

log = logging.getLogger("mirrorlog.site")


class SealedCycle(NamedTuple):
    """A sealed journal of a secondary that was met, and its file, open."""

    secondary: Secondary
    journal: SealedJournal
    file: StateFile


class LeftJournals:
    """The journals in `store` that an earlier process of the site `site` left.

    opened: by volume, the journals that this process began. They aren't left.
    """

    def __init__(self, site: str, store: JournalStore, opened: Mapping[str, object]) -> None:
        self._site, self._store, self._opened = site, store, opened
        # Volumes whose file may hold a journal; None: not looked yet.
        self._names: set[str] | None = None

    def look_for_all(self) -> None:
        """Look once more what others left: they may have worked for volumes that are new here."""
        self._names = None

    def look_again(self, name: str) -> None:
        """Look for the journal of a volume once more."""
        if self._names is not None:
            self._names.add(name)

    def sealed(
        self, secondaries: Sequence[Secondary], is_forked: Callable[[Secondary], bool]
    ) -> tuple[list[SealedCycle], list[Failed]]:
        """Return the sealed journals of these secondaries that an earlier process left.

        is_forked: returns whether the log that was read names a fork to the secondary. Its host may
        begin to write there as soon as it hears of the site, so no journal is applied then.
        The secondaries were met. What isn't sealed, or isn't to be applied, is emptied. The other
        result names the secondaries whose journals can't be read.
        """
        sealed, failed = list[SealedCycle](), list[Failed]()
        for secondary in secondaries:
            name = secondary.volume.volume
            try:
                if self._names is None:
                    self._names = set(self._store.volumes()) - self._opened.keys()
                if name not in self._names:
                    continue
                cycle = self._read(secondary, is_forked)
            except DeviceFailed as error:
                failed.append((secondary, error))
                continue
            self._names.discard(name)
            if cycle is not None:
                sealed.append(cycle)
        return sealed, failed

    def _read(
        self, secondary: Secondary, is_forked: Callable[[Secondary], bool]
    ) -> SealedCycle | None:
        """Return the journal that is left of a secondary, if it is sealed and is to be applied."""
        name = secondary.volume.volume
        file = self._store.open(name)
        if file is None:
            return None
        try:
            journal = read_journal(file.pread)
            reason = None if journal is None else self._refusal(secondary, journal, file)
            if reason is None and is_forked(secondary):
                reason = "hosts write to the secondary themselves"
            if journal is not None and reason is None:
                log.warning(
                    "%s at %s: the journal through position %d is applied, which was sealed before "
                    "the site ended",
                    name,
                    self._site,
                    journal.through,
                )
                return SealedCycle(secondary, journal, file)
            if journal is not None and not _is_spent(journal, secondary.saved):
                log.warning("%s at %s: a journal is dropped: %s", name, self._site, reason)
            self._store.clear(name)
        except BaseException:
            file.close()
            raise
        file.close()
        return None

    def _refusal(self, secondary: Secondary, journal: SealedJournal, file: StateFile) -> str | None:
        """Return why a journal isn't applied; None if it is.

        What earlier cycles wrote must still be there, but for what the journal replaces.
        """
        if not is_committed(journal, self._store):
            return f"its group {journal.header.group} hasn't committed it"
        try:
            state_of(journal)
        except StateDamaged as error:
            return str(error)
        reason = refuse_redo(journal, secondary.saved)
        if reason is None and secondary.differing:
            size, replaced = secondary.volume.block_size, BlockSet()
            for offset, length, _ in staged_ranges(journal, file):
                replaced.add_range(offset // size, -(-(offset + length) // size))
            if samples_without(secondary.differing, replaced, size):
                return "the secondary lacks what earlier cycles wrote"
        return reason


def state_of(journal: SealedJournal) -> SecondaryState:
    """Return the state to save when a journal is applied. Raise StateDamaged."""
    return decode_state(journal.state, journal.header.volume, "the journal")


def _is_spent(journal: SealedJournal, saved: SecondaryState | None) -> bool:
    """Return whether all of a journal was applied before."""
    return saved is not None and saved.applied_position == journal.through
