"""GroupJournals: reads a cycle of a group into journals, commits all of them, and applies them.

docs/decisions/consistency-groups.md has the order of the steps, and why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from mirrorlog.consumers.journal.journal_store import JournalFullError
from mirrorlog.consumers.resync.copy_pace import CopyPausedError
from mirrorlog.consumers.resync.cycle_calls import CycleCalls
from mirrorlog.consumers.resync.cycle_copier import CycleCopier
from mirrorlog.consumers.resync.cycle_steps import Idle, Resync
from mirrorlog.consumers.resync.journaled_cycles import CommitName, CycleJournals
from mirrorlog.consumers.resync.left_journals import SealedCycle
from mirrorlog.consumers.resync.replica_logs import ReplicaLogs
from mirrorlog.consumers.resync.samples import samples_to_save
from mirrorlog.consumers.resync.secondaries import TakenSnapshot
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.resync.snapshot_reads import SnapshotReads
from mirrorlog.consumers.resync.staging_step import StageBlocks
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.errors import DeviceFailed


class GroupCycleEndedError(Exception):
    """A cycle of a group ends, and nothing of it counts. The text says why."""


class GroupJournals:
    """The journals of cycles of groups. One thread calls it."""

    def __init__(
        self,
        journals: CycleJournals,
        copier: CycleCopier,
        logs: ReplicaLogs,
        calls: CycleCalls,
        snapshots: SnapshotReads,
    ) -> None:
        self._journals, self._copier, self._logs = journals, copier, logs
        self._calls, self._snapshots = calls, snapshots

    @property
    def are_used(self) -> bool:
        """Whether the site stages cycles."""
        return self._journals.are_used

    def stage(
        self,
        steps: Sequence[tuple[Secondary, Resync | None]],
        taken: Mapping[str, TakenSnapshot],
        commit: CommitName,
    ) -> None:
        """Read what changed of all members into journals of `commit`.

        steps: None for a member of which nothing changed: its journal has no entries. taken: by
        volume, the snapshots to read; none where the primaries themselves are read, which were
        checked. Raise GroupCycleEndedError if that can't be done; then nothing is staged.
        """
        try:
            for secondary, step in steps:
                self._stage(secondary, step, taken.get(secondary.volume.volume), commit)
        except Exception:
            self.drop([secondary for secondary, _ in steps])
            raise

    def apply(self, states: Sequence[tuple[Secondary, SecondaryState]], commit: CommitName) -> None:
        """Commit what is staged of all members, and apply it. states: to be saved then.

        Seal each journal, then write the commit record: from there on all of them count. Raise
        GroupCycleEndedError if that can't be done; then nothing is staged. DeviceFailed if the
        states can't be saved. A member whose device fails is stopped, and its journal stays.
        """
        members = [secondary for secondary, _ in states]
        try:
            sealed = [self._seal(secondary, state) for secondary, state in states]
            self._journals.commit(commit, sealed)
        except (JournalFullError, DeviceFailed) as error:
            self.drop(members)
            raise GroupCycleEndedError(f"its journals can't be committed: {error}") from error
        for secondary, failure in self._journals.apply(sealed):
            self._calls.stop(secondary, failure)
        for secondary in members:
            if secondary.saved is not None and secondary.saved.common_point_id == commit.commit_id:
                secondary.go_idle(Idle(SiteState.CONSISTENT))

    def drop(self, members: Sequence[Secondary]) -> None:
        """Drop what is staged of members. It counted for nothing."""
        for secondary in members:
            self._journals.drop(secondary)

    def _stage(
        self,
        secondary: Secondary,
        step: Resync | None,
        taken: TakenSnapshot | None,
        commit: CommitName,
    ) -> None:
        """Read what changed of one member into its journal."""
        name = secondary.volume.volume
        secondary.note_reading()
        self._calls.reading(secondary)
        try:
            if step is None:
                self._journals.begin(secondary, commit)
            else:
                secondary.go_idle(Idle(SiteState.CONSISTENT, "a cycle is read into the journal"))
                copy = partial(self._copier.stage, snapshots=self._snapshots)
                with nullcontext() if taken is None else self._snapshots.holding(name, taken):
                    self._journals.stage(secondary, StageBlocks(step, True), copy, commit)
        except JournalFullError as error:
            raise GroupCycleEndedError(f"{name}: {error}") from error
        except CopyPausedError as error:
            self._calls.pause(secondary)
            raise GroupCycleEndedError(f"volume {name} is paused") from error
        except DeviceFailed as error:
            self._calls.stop(secondary, error)
            raise GroupCycleEndedError(f"{name}: {error}") from error
        self._calls.read(secondary)
        staged = secondary.staged
        if taken is not None and staged is not None and staged.consistent_position is None:
            raise GroupCycleEndedError(f"the snapshot of {name} broke while it was read")

    def _seal(self, secondary: Secondary, state: SecondaryState) -> SealedCycle:
        """Seal the journal of one member, with the samples that hold once it is applied."""
        volume, saved, staged = secondary.volume, secondary.saved, secondary.staged
        assert saved is not None
        taken, log_of = () if staged is None else staged.samples, self._logs.of(volume.volume)
        samples = samples_to_save(volume, saved, state, taken, log_of)
        return self._journals.seal(secondary, replace(state, samples=samples))
