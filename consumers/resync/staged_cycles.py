"""StagedCycles: reads cycles into journals, and applies those that are proved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from mirrorlog.consumers.journal.journal_store import JournalFullError
from mirrorlog.consumers.resync.copy_pace import CopyPausedError
from mirrorlog.consumers.resync.cycle import next_step
from mirrorlog.consumers.resync.cycle_calls import CycleCalls
from mirrorlog.consumers.resync.cycle_copier import CycleCopier
from mirrorlog.consumers.resync.cycle_steps import Idle, Resync
from mirrorlog.consumers.resync.journaled_cycles import CycleJournals
from mirrorlog.consumers.resync.left_journals import SealedCycle
from mirrorlog.consumers.resync.mark_writer import Failed
from mirrorlog.consumers.resync.meetings import SecondaryMeetings
from mirrorlog.consumers.resync.replica_logs import ReplicaLogs
from mirrorlog.consumers.resync.samples import samples_to_save
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.resync.snapshot_reads import SnapshotReads
from mirrorlog.consumers.resync.staging_step import StageBlocks, StagingStep
from mirrorlog.consumers.resync.traced_cycles import CycleTraces
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.errors import DeviceFailed


class StagedCycles:
    """The cycles of one site that go through journals."""

    def __init__(
        self,
        journals: CycleJournals,
        copier: CycleCopier,
        meetings: SecondaryMeetings,
        logs: ReplicaLogs,
        traces: CycleTraces,
        calls: CycleCalls,
        snapshots: SnapshotReads,
    ) -> None:
        self._journals: Final = journals
        self._copier, self._meetings, self._logs = copier, meetings, logs
        self._traces, self._calls, self._snapshots = traces, calls, snapshots

    def next_step(self, secondary: Secondary) -> StagingStep:
        """Return the next step of a secondary that was met (staging_step.py)."""
        return self._journals.next_step(secondary, self._calls.cycle_input(secondary))

    def forget(self, secondary: Secondary) -> None:
        """Drop what is staged for a secondary for which the site works no more."""
        self._journals.drop(secondary)

    def look_for_left(self) -> None:
        """Let redo() look for journals of other processes once more."""
        self._journals.left.look_for_all()

    def redo(self, secondaries: Sequence[Secondary]) -> set[Secondary]:
        """Apply what an earlier process sealed. Return the secondaries for which that failed."""
        sealed, failed = self._journals.left.sealed(
            secondaries, lambda secondary: self._logs.of(secondary.volume.volume).fork is not None
        )
        failed += self._journals.apply(sealed)
        return self._stop(failed)

    def stage(
        self, to_stage: Sequence[tuple[Secondary, StageBlocks]]
    ) -> list[tuple[Secondary, Resync]]:
        """Read blocks into journals. Return the cycles for which there is no room: run them."""
        failed = self._stop(
            self._meetings.check_primaries(
                [(secondary, step.step) for secondary, step in to_stage], self._logs.changed_since
            )
        )
        in_place = list[tuple[Secondary, Resync]]()
        for secondary, step in to_stage:
            if secondary in failed:
                self._journals.drop(secondary)
                continue
            try:
                self._stage(secondary, step)
            except JournalFullError as error:
                secondary.note_in_place(f"the cycle is applied in place: {error}")
                whole = next_step(secondary.saved, self._calls.cycle_input(secondary))
                if isinstance(whole, Resync):
                    in_place.append((secondary, whole))
            except DeviceFailed as error:
                self._calls.stop(secondary, error)
            except CopyPausedError:
                self._calls.pause(secondary)
        return in_place

    def apply(self, proved: Sequence[tuple[Secondary, SecondaryState]]) -> list[Secondary]:
        """Seal and apply journals that are proved. Return the secondaries that have moved."""
        sealed, failed = list[SealedCycle](), list[Failed]()
        for secondary, state in proved:
            try:
                sealed.append(self._journals.seal(secondary, self._with_samples(secondary, state)))
            except JournalFullError as error:
                where = f"volume {secondary.volume.volume}"
                failed.append((secondary, DeviceFailed(str(error), where=where)))
            except DeviceFailed as error:
                failed.append((secondary, error))
        failed += self._journals.apply(sealed)
        stopped = self._stop(failed)
        moved = [cycle.secondary for cycle in sealed if cycle.secondary not in stopped]
        for secondary in moved:
            assert secondary.saved is not None
            self._traces.note_durable(secondary)
            self._traces.end([(secondary, secondary.saved)])
            secondary.go_idle(Idle(SiteState.CONSISTENT))
            self._snapshots.take_if_due(secondary)
        return moved

    def _stage(self, secondary: Secondary, step: StageBlocks) -> None:
        secondary.go_idle(Idle(SiteState.CONSISTENT, "a cycle is read into the journal"))
        if step.is_new:
            self._traces.begin(secondary, self._logs.of(secondary.volume.volume).volume)
        self._calls.reading(secondary)
        copy = partial(self._copier.stage, snapshots=self._snapshots)
        self._journals.stage(secondary, step, copy)
        self._calls.read(secondary)
        self._snapshots.drop(secondary.volume.volume)
        self._snapshots.take_if_due(secondary)
        if step.step.reads_snapshot:
            secondary.look_again()

    def _with_samples(self, secondary: Secondary, state: SecondaryState) -> SecondaryState:
        """Return the state with its samples, and those of earlier cycles that still hold."""
        saved, volume = secondary.saved, secondary.volume
        assert saved is not None
        log_of = self._logs.of(volume.volume)
        samples = samples_to_save(volume, saved, state, state.samples, log_of)
        return replace(state, samples=samples)

    def _stop(self, failed: Sequence[Failed]) -> set[Secondary]:
        for secondary, error in failed:
            self._calls.stop(secondary, error)
        return {secondary for secondary, _ in failed}
