"""A site: it reads the tracking log and keeps its secondaries up to date by it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from mirrorlog.consumers.resync.chosen_volumes import ChosenVolumes
from mirrorlog.consumers.resync.command_ends import CommandEnds, OwnCommandEnds
from mirrorlog.consumers.resync.copy_pace import CopyPace, CopyPausedError
from mirrorlog.consumers.resync.copy_rate import parse_rates
from mirrorlog.consumers.resync.cycle_calls import CycleCalls
from mirrorlog.consumers.resync.cycle_copier import CycleCopier
from mirrorlog.consumers.resync.cycle_steps import (
    AdvancePosition,
    ContinueLog,
    CycleInput,
    CycleStep,
    Idle,
    MarkConsistent,
    Resync,
    SkipInitialCopy,
)
from mirrorlog.consumers.resync.failure_log import FailureLog
from mirrorlog.consumers.resync.group_cycles import GroupCycles, GroupPorts
from mirrorlog.consumers.resync.group_journals import GroupJournals
from mirrorlog.consumers.resync.history_watch import HistoryWatch
from mirrorlog.consumers.resync.in_place_cycles import InPlaceCycles
from mirrorlog.consumers.resync.journaled_cycles import CycleJournals
from mirrorlog.consumers.resync.log_watch import LogWatch
from mirrorlog.consumers.resync.meetings import Failed, SecondaryMeetings
from mirrorlog.consumers.resync.paused_secondaries import PausedSecondaries
from mirrorlog.consumers.resync.read_ends import ReadEnds
from mirrorlog.consumers.resync.replica_logs import ReplicaLogs
from mirrorlog.consumers.resync.reporting import (
    ProgressReporter,
    ReportedReplica,
    SiteSummary,
    summarize_site,
)
from mirrorlog.consumers.resync.samples import SampleVerdict, moved_samples, verdict_of
from mirrorlog.consumers.resync.secondary import Secondary, save_states
from mirrorlog.consumers.resync.seeds import Seeds
from mirrorlog.consumers.resync.share_follower import ShareFollower
from mirrorlog.consumers.resync.site_ports import SitePorts
from mirrorlog.consumers.resync.snapshot_reads import SnapshotReads
from mirrorlog.consumers.resync.staged_cycles import StagedCycles
from mirrorlog.consumers.resync.staging_step import (
    ApplyStaged,
    InPlace,
    StageBlocks,
    StagingStep,
)
from mirrorlog.consumers.resync.state_changes import StateChanges
from mirrorlog.consumers.resync.traced_cycles import CycleTraces
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.site_progress import Rung, SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import CopyDiverged, DeviceFailed, StateDamaged
from mirrorlog.settings import Settings

log = logging.getLogger("mirrorlog.site")

_FINAL: Final = (SiteState.CONSISTENT, SiteState.RETIRED, SiteState.DETACHED)

_RETRY_S: Final = 5.0
"""The time for which a secondary waits after a failure of its device."""
_CHECK_S: Final = 30.0
"""How often the site looks whether its idle secondaries are still there, and the same."""
_SAVED_TOGETHER: Final = 64
"""How many secondaries have their states saved together. More means fewer waits for the disk, and
later reports."""


@dataclass(slots=True)
class _Steps:
    """The next steps of several secondaries, by what is done about them.

    cycles: run in place. to_stage: read into journals. proved: journals to apply. to_save: states
    to save.
    """

    cycles: list[tuple[Secondary, Resync]]
    to_stage: list[tuple[Secondary, StageBlocks]]
    proved: list[tuple[Secondary, SecondaryState]] = field(default_factory=list)
    to_save: list[tuple[Secondary, SecondaryState]] = field(default_factory=list)


class Site:
    """Mirrors the volumes of the catalog that are chosen (chosen_volumes.py). One thread calls it.

    secondaries: by volume, to read.
    worked_at_us: when it last did a round or copied a run of blocks, microseconds since 1970.
    """

    def __init__(self, name: str, ports: SitePorts, settings: Settings) -> None:
        self.name, self._ports, self._settings = name, ports, settings
        self._secondaries: dict[str, Secondary] = {}
        self.secondaries: Final[Mapping[str, Secondary]] = MappingProxyType(self._secondaries)
        self._reporter = ProgressReporter(
            name, ports.publisher, settings.topics.progress, ports.clock, settings.site_report_s
        )
        self.worked_at_us = ports.clock.now_us()
        self._failures = FailureLog(name, ports.clock)
        self._changes = StateChanges(ports.clock, ports.on_change)
        self._chosen = ChosenVolumes(name, settings.site_volumes, settings.site_secondaries)
        self._ends: CommandEnds = ports.ends or OwnCommandEnds(
            ports.open_reader,
            ports.admin,
            settings.topics.commands,
            ports.clock,
            settings.patience_s,
            ports.ask_end,
        )
        self._logs = ReplicaLogs(name, ports.log, self.secondaries, self._chosen.others, self._ends)
        seeds = Seeds(settings.site_seeds, settings.site_checksum)
        self._meetings = SecondaryMeetings(
            name,
            ports.secondaries,
            self._save,
            ports.draw_id,
            seeds,
        )
        self._checked_at_s = ports.clock.monotonic_s()
        histories = HistoryWatch(self._ends.commands_now)
        self._snapshots = SnapshotReads(ports.secondaries, ports.clock, settings.site_snapshot_s)
        self._copier = CycleCopier(
            settings,
            ports,
            CopyPace(
                parse_rates(settings.site_max_rate),
                ports.clock,
                ports.sleep,
                worker_count=ports.worker_count,
            ),
            meetings=self._meetings,
            logs=self._logs,
            seeds=seeds,
            save=lambda secondary, state: self._save([(secondary, state)]),
            on_step=self._on_copy_step,
        )
        run_by = (self._copier, self._meetings, self._logs)
        calls = self._cycle_calls()
        journals = self._cycle_journals()
        self._staged = StagedCycles(journals, *run_by, self._traces(), calls, self._snapshots)
        self._in_place = InPlaceCycles(*run_by, self._traces(), calls, self._snapshots)
        self._paused = PausedSecondaries(name, ports.pauses, ports.held_for_drills)
        self._watch = LogWatch(self.secondaries, ports.log, histories, ports.clock, self._ends)
        self._groups = self._group_cycles(journals, calls)
        self._share = ShareFollower(
            ports.share,
            ports.log,
            self._watch,
            ports.publisher,
            leave_volumes=self._leave_partition,
            look_for_journals=self._staged.look_for_left,
            patience_s=settings.patience_s,
        )
        self._has_copy_to_go_on = False
        # Volumes that may need a step or a report.
        self._active: set[str] = set()
        self._read_ends = ReadEnds(self._ends)

    def run_once(self, timeout_s: float) -> None:
        """Read what has arrived, then take a step with each volume that needs one.

        0. ShareFollower.follow gives partitions back, and takes others.
        1. LogReader.poll reads the log, and Catalog.poll the descriptions.
        2. _take_read_ends asks for the end of the commands topic where the reads of a cycle are
           over.
        3. _check_histories holds new secondaries' positions, and now and then the log, against the
           commands topic.
        4. _advance: next_step (cycle.py) decides for each volume, and InPlaceCycles or StagedCycles
           copies. Then GroupCycles.run takes the next step of each consistency group.
        5. ProgressReporter.report publishes what is due.

        Steps 3 to 5 are left out until the reader has caught up with the log.
        Wait up to `timeout_s` for the log. Raise KafkaFailed, OutOfRetention, BadInput (an event of
        the log or a description is damaged), BadUse (another process runs the site) or DeviceFailed
        (of the state store): the site can't go on then. A device of one volume stops that volume
        only.
        """
        self._keep_name()
        self._share.follow()
        touched = self._ports.log.poll(
            0.0 if self._has_copy_to_go_on else timeout_s, self._logs.is_needed
        )
        self._has_copy_to_go_on = False
        self._ports.catalog.poll(0)
        if any(self._has_newer_description(name) for name in touched):
            self._ports.catalog.refresh()
        for name in touched & self._secondaries.keys():
            self._logs.forget_rolled_up(self._secondaries[name])
        touched |= self._follow_catalog() | self._take_read_ends() | self._due_for_a_check()
        touched |= self._paused.follow(self._secondaries) | self._snapshots.drop_late()
        self._active |= touched
        if not self._ports.log.caught_up():
            self._report_waiting()
            return
        self._active |= self._watch.follow_lag()
        touched |= self._check_histories(touched)
        active = [
            self._secondaries[name] for name in sorted(self._active & self._secondaries.keys())
        ]
        due = [
            secondary
            for secondary in active
            if secondary.volume.volume in touched
            or secondary.is_due(self._logs.watermark(secondary))
        ]
        for start in range(0, len(due), _SAVED_TOGETHER):
            self._advance(due[start : start + _SAVED_TOGETHER])
        moved = self._groups.run()
        self._active |= moved
        active += [self._secondaries[name] for name in sorted(moved - {*map(_name, active)})]
        for secondary in active:
            self._report_and_go_idle(secondary)
        self._reporter.poll()
        if (age_s := self._ends.age_s()) is not None:
            self._ports.note_caught_up(age_s)

    def progress(self, secondary: Secondary) -> SiteProgress:
        """Return the progress of a secondary as of now."""
        return self._reporter.progress_of(secondary, self._cycle_input(secondary))

    def summary(self) -> SiteSummary:
        """Return the summary of all secondaries."""
        return summarize_site(self.name, self._secondaries.values())

    def reported(self) -> list[ReportedReplica]:
        """Return all secondaries as they were reported last. Any thread may call it."""
        return self._reporter.reported()

    def log_complete_us(self, partition: int) -> int | None:
        """Return when the log was last known to hold all commands (LogWatch.complete_us)."""
        return self._watch.complete_us(partition)

    def now_us(self) -> int:
        """Return the time by the site's clock, in microseconds since 1970."""
        return self._ports.clock.now_us()

    def _keep_name(self) -> None:
        self._ports.keep_name()
        self.worked_at_us = self._ports.clock.now_us()

    # The catalog

    def _has_newer_description(self, name: str) -> bool:
        """Return whether the log is by a newer description of the volume than the site has."""
        known, head = self._ports.catalog.get(name), self._ports.log.logs[name].head
        return known is None or (
            head is not None and (head.epoch, head.described_position) > known.description_order
        )

    def _follow_catalog(self) -> set[str]:
        """Take new descriptions; return their volumes."""
        changed, in_groups = set[str](), list[Volume]()
        for name, volume in self._ports.catalog.items():
            if volume.group is not None and not volume.is_retired:
                in_groups.append(volume)
            secondary = self._secondaries.get(name)
            if not self._share.is_held(volume.partition):
                if secondary is not None:  # it was described in a partition of this process
                    self._leave(secondary)
            elif secondary is None:
                was_other = name in self._chosen.others
                if self._chosen.take(volume):
                    changed.add(name)
                    self._add(volume)
                    if was_other:
                        self._read_log_again(self._secondaries[name])
            elif secondary.volume != volume:
                changed.add(name)
                self._describe(secondary, volume)
        self._groups.follow(in_groups)
        return changed

    def _describe(self, secondary: Secondary, volume: Volume) -> None:
        """Take a new description of a volume.

        While the secondary is the primary, others may change it and its saved state (`promote`,
        `rejoin`). So it is met again afterwards, and the state is loaded again.
        """
        was_primary = secondary.volume.primary_site == self.name
        secondary.describe(volume)
        if was_primary != (volume.primary_site == self.name):
            self._meetings.let_go(secondary)
            secondary.note_unloaded()

    def _leave_partition(self, partition: int) -> None:
        """Leave all volumes of a partition that another worker is to have."""
        for secondary in list(self._secondaries.values()):
            if secondary.volume.partition == partition:
                self._leave(secondary)

    def _leave(self, secondary: Secondary) -> None:
        """Forget a volume, as the end of the process would, and close its secondary."""
        name = secondary.volume.volume
        self._staged.forget(secondary)
        self._snapshots.forget(name)
        self._meetings.forget(secondary)
        del self._secondaries[name]
        self._active.discard(name)
        for part in (
            self._read_ends,
            self._watch,
            self._logs,
            self._reporter,
            self._changes,
            self._failures,
        ):
            part.forget(name)

    def _add(self, volume: Volume) -> None:
        self._ports.log.follow_partition(volume.partition)
        secondary = self._secondaries[volume.volume] = Secondary(volume)
        self._read_ends.note_over(volume.volume)
        self._load(secondary)

    def _load(self, secondary: Secondary) -> bool:
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
            self._stop(secondary, error)
            return False
        self._logs.forget_applied(secondary)
        if is_again and secondary.saved != before:
            self._read_log_again(secondary)
            return False
        return True

    def _due_for_a_check(self) -> set[str]:
        """Return all volumes if it is time to look whether idle secondaries are still there."""
        now_s = self._ports.clock.monotonic_s()
        if now_s - self._checked_at_s < _CHECK_S:
            return set()
        self._checked_at_s = now_s
        self._watch.check_all()
        return set(self._secondaries)

    def _check_histories(self, touched: set[str]) -> set[str]:
        """Call LogWatch.check. The volumes that it returns need a step or a report."""
        changed = self._watch.check(touched)
        self._active |= changed
        return changed

    # Steps

    def _take_read_ends(self) -> set[str]:
        """Ask where the commands end, where reads are over. Return the volumes that know it now."""
        ends = self._read_ends.take(self._secondaries)
        for name, end in ends.items():
            self._secondaries[name].note_read_end(end.end)
        self._watch.note_ends(
            {self._secondaries[name].volume.partition: end for name, end in ends.items()}
        )
        return set(ends)

    def _advance(self, secondaries: Sequence[Secondary]) -> None:
        """Take the next steps of these secondaries, until each is idle or has run one cycle.

        Each is met first: nothing is claimed of a secondary that isn't there, or isn't the same.
        States are saved for all of them together.
        """
        looking = self._meet(self._begin_looks(secondaries))
        unable = self._staged.redo([each for each in looking if each.is_met])
        looking = [secondary for secondary in looking if secondary not in unable]
        cycles: list[tuple[Secondary, Resync]] = []
        to_stage: list[tuple[Secondary, StageBlocks]] = []
        while looking:
            steps = _Steps(cycles, to_stage)
            for secondary in looking:
                self._note_step(secondary, steps)
            self._save(steps.to_save)
            saved = [secondary for secondary, _ in steps.to_save]
            looking = self._without_paused(saved + self._staged.apply(steps.proved))
        cycles += self._staged.stage(to_stage)
        if cycles:
            self._in_place.run(cycles)

    def _note_step(self, secondary: Secondary, steps: _Steps) -> None:
        """Add the next step of a secondary to `steps`, or go idle."""
        match self._next_step(secondary):
            case Idle() as step:
                secondary.go_idle(step)
                if step.state is SiteState.STOPPED and not step.is_wanted:
                    self._failures.stopped(secondary.volume.volume, step.reason or "")
            case Resync() as step:
                steps.cycles.append((secondary, self._copier.described(secondary, step)))
            case InPlace(step, reason):
                secondary.note_in_place(reason)
                steps.cycles.append((secondary, step))
            case StageBlocks() as step:
                steps.to_stage.append((secondary, step))
            case ApplyStaged(state):
                steps.proved.append((secondary, state))
            case SkipInitialCopy(state):
                steps.to_save.append((secondary, state))
            case MarkConsistent(state) | AdvancePosition(state):
                log_of = self._logs.of(secondary.volume.volume)
                samples = moved_samples(secondary.volume, secondary.saved, state, log_of)
                steps.to_save.append((secondary, replace(state, samples=samples)))
            case ContinueLog(state):
                self._continue_log(secondary, state)

    def _begin_looks(self, secondaries: Sequence[Secondary]) -> list[Secondary]:
        """Begin to look for the next steps. Return those that can be met now.

        Others wait after a failure, can't be loaded, or are paused.
        """
        now_s = self._ports.clock.monotonic_s
        looking = [
            secondary
            for secondary in secondaries
            if secondary.begin_look(now_s(), self._logs.watermark(secondary))
            and self._load(secondary)
        ]
        return self._without_paused(looking)

    def _without_paused(self, secondaries: Sequence[Secondary]) -> list[Secondary]:
        """Pause those of these that an operator has paused or a drill holds; return the others."""
        for secondary in filter(self._paused.covers, secondaries):
            self._pause(secondary)
        return self._paused.others(secondaries)

    def _continue_log(self, secondary: Secondary, state: SecondaryState) -> None:
        """Let a secondary follow another copy that was promoted (parting.py).

        Its log is read again: records below the position that it had applied were dropped.
        """
        log.warning(
            "%s at %s: site %s was promoted; the log is applied again after position %s",
            secondary.volume.volume,
            self.name,
            secondary.volume.primary_site,
            state.applied_position,
        )
        secondary.expect_other_primary()
        self._save([(secondary, state)])
        self._read_log_again(secondary)

    def _read_log_again(self, secondary: Secondary) -> None:
        """Read again what was dropped of the log and is needed now. No step is taken before."""
        self._ports.log.read_again(secondary.volume.partition)
        secondary.look_again()
        self._active.add(secondary.volume.volume)

    def _meet(self, secondaries: Sequence[Secondary]) -> list[Secondary]:
        """Meet secondaries. Return those whose next step may be taken."""
        before = [(secondary, secondary.differing) for secondary in secondaries]
        failed = self._meetings.meet_all(
            [secondary for secondary in secondaries if secondary.volume.is_followed_by(self.name)]
        )
        self._stop_all(failed)
        for secondary, _ in failed:
            if secondary.volume.promotions:
                secondary.note_unloaded()  # a former primary that rejoins gets a state meanwhile
        for secondary, differing in before:
            if secondary.differing and secondary.differing is not differing:  # read just now
                secondary.note_reading()
                self._read_ends.note_over(secondary.volume.volume)
        stopped = {secondary for secondary, _ in failed}
        return [secondary for secondary in secondaries if secondary not in stopped]

    def _next_step(self, secondary: Secondary) -> StagingStep:
        """Return the next step of a secondary that was met.

        Start over first if it doesn't hold what earlier cycles wrote (samples.py).
        """
        if (step := self._step_of_ended_history(secondary)) is not None:
            return step
        if self._has_newer_description(secondary.volume.volume):
            return Idle(
                SiteState.SETTLING,
                "the log is by a newer description of the volume than the one that is known here",
                awaits_source=True,
            )
        saved = secondary.saved
        if secondary.differing and saved is not None:
            cycle_input = self._cycle_input(secondary)
            verdict = verdict_of(secondary.differing, saved.known_position, cycle_input)
            if verdict is SampleVerdict.WAIT:
                if saved.consistent_position is not None:
                    self._save([(secondary, replace(saved, consistent_position=None))])
                return Idle(SiteState.SETTLING, "what cycles wrote has changed: by a fork?")
            secondary.note_differing(())
            if verdict is SampleVerdict.WENT_BACK:
                failed = self._meetings.start_over(
                    secondary, "the secondary has gone back in time: it lacks what was written"
                )
                if failed:
                    self._stop_all(failed)
                    return secondary.status
        if (of_group := self._groups.own_step(secondary)) is not None:
            return of_group
        next_one = self._groups.member_step(secondary, self._staged.next_step(secondary))
        watermark = self._logs.watermark(secondary)
        self._snapshots.note_step(secondary.volume.volume, next_one, watermark)
        return next_one

    def _step_of_ended_history(self, secondary: Secondary) -> CycleStep | None:
        """Return the step of a secondary whose log contradicts the commands topic; None otherwise.

        What was applied is forgotten, durably: if the topic grows past the position later, the
        position means something else. The same is done if only the saved position contradicts the
        topic: the secondary is copied in full then.
        """
        volume = secondary.volume
        if not volume.is_followed_by(self.name):
            return None
        if self._watch.is_unchecked(volume.volume):  # it was loaded a moment ago
            self._check_histories(set())
            if self._watch.is_unchecked(volume.volume) and self._logs.watermark(secondary):
                return Idle(
                    SiteState.SETTLING,
                    self._ends.stall_reason(volume.partition)
                    or "the source hasn't said yet whether the saved position is one of its log's",
                    awaits_source=True,
                )
        ended = self._watch.ended(volume.partition)
        reason = ended or self._watch.take_other(volume.volume)
        saved = secondary.saved
        if reason is None or saved is None or saved.known_position is None:
            failed = []
        else:
            failed = self._meetings.start_over(secondary, reason)
        if failed:
            self._stop_all(failed)
            return secondary.status
        return None if ended is None else Idle(SiteState.STOPPED, ended)

    def _go_on_later(self, secondary: Secondary) -> None:
        """Let the copy of everything go on in the next round, after the other volumes."""
        secondary.look_again()
        self._active.add(secondary.volume.volume)
        self._has_copy_to_go_on = True

    def _note_begun(self, secondary: Secondary, step: Resync) -> None:
        """Tell people that a cycle in place has begun."""
        self._changes.begin_cycle(secondary, step)
        if step.reason is not None:
            self._failures.took_rung(secondary.volume.volume, step.rung, step.reason)

    def _cycle_calls(self) -> CycleCalls:
        """Return what those call who run the cycles."""
        return CycleCalls(
            stop=self._stop,
            pause=self._pause,
            reading=lambda secondary: self._read_ends.note_reading(secondary.volume.volume),
            read=lambda secondary: self._read_ends.note_over(secondary.volume.volume),
            cycle_input=self._snapshots.with_snapshot(self._cycle_input),
            began=self._note_begun,
            go_on_later=self._go_on_later,
            save=self._save,
        )

    def _traces(self) -> CycleTraces:
        return CycleTraces(
            self._ports.tracer, self._settings.topics.commands, self.name, self._ports.clock
        )

    def _cycle_journals(self) -> CycleJournals:
        """Return the journals of the cycles: those of earlier processes at least."""
        settings, ports = self._settings, self._ports
        return CycleJournals(
            self.name,
            ports.journals,
            self._meetings,
            max_bytes=settings.site_journal_bytes if settings.site_consistency == "crash" else 0,
            save=self._save,
            draw_id=ports.draw_id,
            tasks=ports.task_runner,
            on_apply=self._on_apply,
        )

    def _group_cycles(self, journals: CycleJournals, calls: CycleCalls) -> GroupCycles:
        """Return the cycles of consistency groups."""
        ports = GroupPorts(
            site=self.name,
            secondaries=self.secondaries,
            devices=self._ports.secondaries,
            clock=self._ports.clock,
            is_paused=self._paused.covers,
            draw_id=self._ports.draw_id,
            interval_s=self._settings.site_snapshot_s,
        )
        group_journals = GroupJournals(journals, self._copier, self._logs, calls, self._snapshots)
        return GroupCycles(ports, group_journals, self._meetings, self._logs, calls)

    def _on_apply(self, secondary: Secondary) -> None:
        """Report a secondary to which a journal is applied: it is inconsistent meanwhile."""
        if secondary.state is not SiteState.SYNCING and secondary.saved is not None:
            step = Resync(Rung.CHANGED, secondary.saved, secondary.saved, BlockSet(), None)
            secondary.begin_cycle(None)
            self._changes.begin_cycle(secondary, step)
        self._keep_name()
        self._report(secondary)

    def _on_copy_step(self, secondary: Secondary) -> None:
        """Do what is due while a cycle copies. Raise BadUse; CopyPausedError to end its turn."""
        self._keep_name()
        self._report(secondary)
        self._paused.check(secondary, self._secondaries)
        if self._share.has_surplus():
            raise CopyPausedError

    def _pause(self, secondary: Secondary) -> None:
        """Keep off a secondary that is paused or held. Another process may lock it now.

        If it is neither, its copy ended only because partitions are to be given back.
        """
        if not self._paused.covers(secondary):
            self._go_on_later(secondary)
            return
        self._meetings.let_go(secondary)
        secondary.pause(self._paused.step(secondary))

    def _save(self, states: Sequence[tuple[Secondary, SecondaryState]]) -> None:
        """Save states durably, with the identities of their secondaries.

        Then drop the records that they make needless.
        """
        save_states(self._ports.states, self._ports.clock.now_us(), states)
        for secondary, _ in states:
            self._snapshots.note_saved(secondary)
            self._logs.forget_applied(secondary)

    def _stop(self, secondary: Secondary, error: DeviceFailed) -> None:
        self._failures.stopped(secondary.volume.volume, str(error))
        self._snapshots.drop(secondary.volume.volume)
        secondary.stop(
            str(error),
            retry_at_s=self._ports.clock.monotonic_s() + _RETRY_S,
            advice=error.next or None,
            state=SiteState.DIVERGED if isinstance(error, CopyDiverged) else SiteState.STOPPED,
        )
        self._active.add(secondary.volume.volume)

    def _stop_all(self, failed: Sequence[Failed]) -> None:
        for secondary, error in failed:
            self._stop(secondary, error)

    # Reports

    def _report_waiting(self) -> None:
        """Report what the site waits for, if no answer of a mirror's source comes."""
        for secondary in self._secondaries.values():
            reason = self._ends.stall_reason(secondary.volume.partition)
            if reason is not None and secondary.state is SiteState.WAITING:
                secondary.go_idle(Idle(SiteState.WAITING, reason))
                self._report(secondary)
                self._changes.look(secondary)

    def _report(self, secondary: Secondary) -> bool:
        """Report the secondary if that is due. Return whether it was."""
        if not self._reporter.is_due(secondary):
            return False
        self._reporter.report(secondary, self._cycle_input(secondary))
        return True

    def _report_and_go_idle(self, secondary: Secondary) -> None:
        self._failures.note_state(secondary.volume.volume, secondary.state)
        self._changes.look(secondary)
        if secondary.state is SiteState.CONSISTENT:
            secondary.forget_reason()
        is_final = secondary.state in _FINAL
        if self._report(secondary) and is_final and secondary.staged is None:
            self._active.discard(secondary.volume.volume)

    def _cycle_input(self, secondary: Secondary) -> CycleInput:
        return self._logs.cycle_input(secondary, self._watch.lagging)


def _name(secondary: Secondary) -> str:
    return secondary.volume.volume
