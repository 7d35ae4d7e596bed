"""CycleJournals: the journals of the cycles of a site, from their beginning to the secondary.

staging_step.py decides. docs/decisions/redo-journal.md has the order of the steps, and why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

from mirrorlog.codec.events import encode
from mirrorlog.consumers.journal.apply_journal import apply_journal
from mirrorlog.consumers.journal.group_commit import GroupCommit, encode_commit
from mirrorlog.consumers.journal.journal_format import JournalHeader
from mirrorlog.consumers.journal.journal_store import JournalFullError, JournalStore
from mirrorlog.consumers.journal.journal_writer import JournalWriter
from mirrorlog.consumers.range_reads import has_whole_pages
from mirrorlog.consumers.resync.cycle import next_step
from mirrorlog.consumers.resync.cycle_steps import CycleInput, Idle
from mirrorlog.consumers.resync.left_journals import LeftJournals, SealedCycle, state_of
from mirrorlog.consumers.resync.mark_writer import Failed
from mirrorlog.consumers.resync.meetings import SaveStates, SecondaryMeetings
from mirrorlog.consumers.resync.samples import joined_samples, samples_without
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.resync.staging_step import (
    ApplyStaged,
    InPlace,
    StageBlocks,
    Staged,
    StagingStep,
    applying_state,
    next_staging_step,
)
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.consumers.state.state_files import encode_state
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.ports.folders import StateFile
from mirrorlog.ports.task_runner import TaskRunner

log = logging.getLogger("mirrorlog.site")

CopyInto: TypeAlias = Callable[[Secondary, StageBlocks, JournalWriter], SecondaryState]
"""Copies the blocks of a step to the writer; returns the state of the secondary and the journal
together, with samples of what it copied."""
OnApply: TypeAlias = Callable[[Secondary], None]
"""Called when a journal begins to be applied, and after each of its records."""


@dataclass(slots=True)
class _OpenJournal:
    """A journal that isn't sealed. staged: None until the first blocks are staged."""

    writer: JournalWriter
    file: StateFile
    staged: Staged | None = None


class CommitName(NamedTuple):
    """The commit record without which a journal of a group doesn't count (group_commit.py)."""

    group: str
    commit_id: str


class CycleJournals:
    """The journals of the secondaries of the site `site`. One thread calls it.

    left: the journals that an earlier process left.
    max_bytes: the bound of each journal. 0: no cycle is staged, but what an earlier process sealed
        is applied.
    save: saves states with the identity that each secondary has at that moment.
    tasks_for: returns what writes a journal to a secondary.
    """

    def __init__(
        self,
        site: str,
        store: JournalStore,
        meetings: SecondaryMeetings,
        *,
        max_bytes: int,
        save: SaveStates,
        draw_id: Callable[[], str],
        tasks_for: Callable[[BlockDevice], TaskRunner],
        on_apply: OnApply,
    ) -> None:
        self._site, self._store, self._meetings = site, store, meetings
        self._max_bytes, self._save, self._draw_id = max_bytes, save, draw_id
        self._tasks_for, self._on_apply = tasks_for, on_apply
        self._open: dict[str, _OpenJournal] = {}
        self._told: dict[str, str] = {}
        self.left: Final = LeftJournals(site, store, self._open)

    @property
    def are_used(self) -> bool:
        """Whether cycles are staged."""
        return self._max_bytes > 0

    def next_step(self, secondary: Secondary, cycle_input: CycleInput) -> StagingStep:
        """Return the next step of a secondary (next_staging_step). Drop its journal if that ends.

        Only Idle, ApplyStaged and StageBlocks leave it as it is.
        """
        journal = self._open.get(secondary.volume.volume)
        staged = None if journal is None else journal.staged
        if not self._max_bytes:
            return next_step(secondary.saved, cycle_input)
        step = next_staging_step(secondary.saved, staged, cycle_input, max_bytes=self._max_bytes)
        if not isinstance(step, Idle | ApplyStaged | StageBlocks):
            self.drop(secondary)
        if isinstance(step, InPlace):
            self._tell(secondary.volume.volume, step.reason)
        return step

    def drop(self, secondary: Secondary) -> None:
        """Drop what is staged for a secondary, if anything is. It counted for nothing."""
        name = secondary.volume.volume
        journal = self._open.pop(name, None)
        secondary.note_staged(None)
        if journal is not None:
            journal.writer.close()
            with suppress(DeviceFailed):  # it only frees the room
                self._store.clear(name)

    def begin(self, secondary: Secondary, commit: CommitName) -> None:
        """Begin a journal without entries, of a group. Raise JournalFullError, or DeviceFailed."""
        self.drop(secondary)
        self._begin(secondary, commit)

    def stage(
        self,
        secondary: Secondary,
        step: StageBlocks,
        copy: CopyInto,
        commit: CommitName | None = None,
    ) -> None:
        """Copy the blocks of a step into the secondary's journal.

        commit: of the journal that is begun, if it is one of a group.

        The primary was checked. If it fails, nothing is staged any more. Raise JournalFullError,
        DeviceFailed, or what `copy` raises.
        """
        volume = secondary.volume
        try:
            if step.is_new:
                self.drop(secondary)
                self._begin(secondary, commit)
            journal = self._open[volume.volume]
            journal.writer.begin_round()
            copied = copy(secondary, step, journal.writer)
            assert secondary.saved is not None and step.step.blocks is not None
            older = () if journal.staged is None else journal.staged.state.samples
            older = samples_without(older, step.step.blocks, volume.block_size)
            state = replace(copied, samples=joined_samples(copied.samples, older))
            saved = secondary.saved if journal.staged is None else journal.staged.saved
            journal.staged = Staged(volume, saved, state, journal.writer.written_bytes)
        except Exception:
            self.drop(secondary)
            raise
        secondary.note_staged(state)

    def seal(self, secondary: Secondary, state: SecondaryState) -> SealedCycle:
        """Seal the journal of a secondary; return it when it is durable.

        state: the state to save when it is applied. Raise JournalFullError or DeviceFailed: then
        nothing is staged any more.
        """
        journal = self._open[secondary.volume.volume]
        assert state.consistent_position is not None
        content = encode_state(replace(state, identity=secondary.identity))
        try:
            sealed = journal.writer.seal(through=state.consistent_position, state=content)
        except Exception:
            self.drop(secondary)
            raise
        return SealedCycle(secondary, sealed, journal.file)

    def commit(self, commit: CommitName, cycles: Sequence[SealedCycle]) -> None:
        """Make all sealed journals of a group's cycle count, durably and in one step.

        Raise JournalFullError, or DeviceFailed: then none of them counts. The record may be there
        all the same, if only its folder can't be made durable. So a record without journals takes
        its place, before the caller drops them one after the other.
        """
        ids = {cycle.secondary.volume.volume: str(cycle.journal.journal_id) for cycle in cycles}
        try:
            self._write_commit(commit, ids)
        except (JournalFullError, DeviceFailed):
            with suppress(JournalFullError, DeviceFailed):  # it may be replaced all the same
                self._write_commit(commit, {})
            raise

    def apply(self, cycles: Sequence[SealedCycle]) -> list[Failed]:
        """Apply sealed journals. The order keeps every claim true (invariants 6 and 8):

        1. Count a cycle in the mark of each secondary, durably.
        2. Save durably that the cycle of the journal runs.
        3. Write the entries, and flush the secondary.
        4. Save the state that the journal holds, durably.
        5. Empty the journal.

        A crash between any two steps repeats all of it, or finds it done (redo.py). Return the
        secondaries for which it failed, and why. Their journals stay, and are applied later.
        """
        failed = self._meetings.count_cycles([cycle.secondary for cycle in cycles])  # 1
        unable = {secondary for secondary, _ in failed}
        running = [cycle for cycle in cycles if cycle.secondary not in unable]
        states = []
        for secondary, journal, _ in running:
            assert secondary.saved is not None
            states.append((secondary, applying_state(secondary.saved, journal.through)))
        self._save(states)  # 2
        done = []
        for cycle in running:
            try:
                self._write(cycle)  # 3
            except DeviceFailed as error:
                failed.append((cycle.secondary, error))
            else:
                cycle.secondary.end_cycle()
                done.append(cycle)
        self._save([(cycle.secondary, state_of(cycle.journal)) for cycle in done])  # 4
        for cycle in cycles:
            self._forget(cycle)
            if cycle not in done:
                self.left.look_again(cycle.secondary.volume.volume)
        return failed + self._empty(done)  # 5

    def _tell(self, name: str, reason: str) -> None:
        """Log why cycles aren't staged, once for each kind of reason."""
        kind = reason.partition(":")[2][:16]
        if self._told.get(name) != kind:
            self._told[name] = kind
            log.warning("%s at %s: %s", name, self._site, reason)

    def _write_commit(self, commit: CommitName, journals: Mapping[str, str]) -> None:
        record = encode_commit(GroupCommit(commit.group, commit.commit_id, journals))
        self._store.write_commit(commit.group, record)

    def _begin(self, secondary: Secondary, commit: CommitName | None) -> None:
        """Begin a journal of a secondary that is consistent."""
        volume, saved, identity = secondary.volume, secondary.saved, secondary.identity
        assert saved is not None and saved.applied_position is not None and identity is not None
        header = JournalHeader(
            site=self._site,
            volume=volume.volume,
            generation=saved.generation,
            history_id=saved.history_id,
            secondary_id=identity.secondary_id,
            epoch=identity.epoch,
            after=saved.applied_position,
            description=encode(volume),
            group=None if commit is None else commit.group,
            commit_id=None if commit is None else commit.commit_id,
        )
        file = self._store.create(volume.volume)
        try:
            journal_id = UUID(self._draw_id())
            writer = JournalWriter(file, header, journal_id, max_bytes=self._max_bytes)
        except BaseException:
            file.close()
            raise
        self._open[volume.volume] = _OpenJournal(writer, file)

    def _write(self, cycle: SealedCycle) -> None:
        """Write a journal to its secondary, durably."""
        self._on_apply(cycle.secondary)
        with self._meetings.open_secondary(cycle.secondary) as device:
            apply_journal(
                cycle.journal,
                cycle.file,
                device,
                self._tasks_for(device),
                lambda: self._on_apply(cycle.secondary),
                has_whole_pages=has_whole_pages(cycle.secondary.volume),
            )

    def _empty(self, done: Sequence[SealedCycle]) -> list[Failed]:
        """Empty journals that are applied. Return the secondaries for which that failed."""
        failed = list[Failed]()
        for cycle in done:
            try:
                self._store.clear(cycle.secondary.volume.volume)
            except DeviceFailed as error:
                failed.append((cycle.secondary, error))
        return failed

    def _forget(self, cycle: SealedCycle) -> None:
        self._open.pop(cycle.secondary.volume.volume, None)
        cycle.secondary.note_staged(None)
        cycle.file.close()
