"""SecondarySteps: takes the next steps of several secondaries, from their meeting on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from mirrorlog.consumers.resync.cycle import next_step
from mirrorlog.consumers.resync.cycle_steps import (
    AdvancePosition,
    ContinueLog,
    CycleStep,
    Idle,
    MarkConsistent,
    Resync,
    SkipInitialCopy,
)
from mirrorlog.consumers.resync.samples import SampleVerdict, moved_samples, verdict_of
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.resync.secondary_turns import SecondaryTurns
from mirrorlog.consumers.resync.site_cycles import SiteCycles
from mirrorlog.consumers.resync.site_parts import SiteParts
from mirrorlog.consumers.resync.site_volumes import SiteVolumes
from mirrorlog.consumers.resync.staging_step import (
    ApplyStaged,
    InPlace,
    StageBlocks,
    StagingStep,
)
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.site_progress import SiteState

log = logging.getLogger("mirrorlog.site")

_NEWER_DESCRIPTION: Final = Idle(
    SiteState.SETTLING,
    "the log is by a newer description of the volume than the one that is known here",
    awaits_source=True,
)


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


class SecondarySteps:
    """Meets secondaries, and does what is decided about them (cycle.py, staging_step.py)."""

    def __init__(
        self, parts: SiteParts, turns: SecondaryTurns, volumes: SiteVolumes, cycles: SiteCycles
    ) -> None:
        self._parts: Final = parts
        self._turns, self._volumes = turns, volumes
        self._copier, self._groups = cycles.copier, cycles.groups
        self._staged, self._in_place = cycles.staged, cycles.in_place
        self._logs, self._watch, self._meetings = parts.logs, parts.watch, parts.meetings
        self._paused, self._save = parts.paused, parts.save
        self._copies_in_place: Final = cycles.copies_in_place

    def advance(self, secondaries: Sequence[Secondary]) -> None:
        """Take the next steps of these secondaries, until each is idle or has run one cycle.

        Each is met first: nothing is claimed of a secondary that isn't there, or isn't the same.
        States are saved for all of them together.
        """
        looking = self._meet(self._without_waiting(self._begin_looks(secondaries)))
        unable = self._staged.redo([secondary for secondary in looking if secondary.is_met])
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
                    self._parts.failures.stopped(secondary.volume.volume, step.reason or "")
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
                self._note_new(secondary, state, steps)
            case MarkConsistent(state) | AdvancePosition(state):
                log_of = self._logs.of(secondary.volume.volume)
                samples = moved_samples(secondary.volume, secondary.saved, state, log_of)
                steps.to_save.append((secondary, replace(state, samples=samples)))
            case ContinueLog(state):
                self._continue_log(secondary, state)

    def _note_new(self, secondary: Secondary, state: SecondaryState, steps: _Steps) -> None:
        """Add the step of a secondary that equals its new primary, as `state` says, to `steps`.

        If a cycle follows at once, `state` isn't saved: the cycle saves its own before it writes
        anything.
        """
        cycle_input = self._parts.cycle_input(secondary)
        step = next_step(state, cycle_input)
        is_plain = self._copies_in_place and secondary.volume.group is None
        if is_plain and cycle_input.log.fork is None and isinstance(step, Resync) and step.blocks:
            steps.cycles.append((secondary, step))
        else:
            steps.to_save.append((secondary, state))

    def _begin_looks(self, secondaries: Sequence[Secondary]) -> list[Secondary]:
        """Begin to look for the next steps. Return those that can be met now.

        Others wait after a failure, can't be loaded, or are paused.
        """
        now_s = self._parts.ports.clock.monotonic_s
        looking = [
            secondary
            for secondary in secondaries
            if secondary.begin_look(now_s(), self._logs.watermark(secondary))
            and self._volumes.load(secondary)
        ]
        return self._without_paused(looking)

    def _without_waiting(self, secondaries: Sequence[Secondary]) -> list[Secondary]:
        """Let those go on to wait for which the log decides nothing yet; return the others.

        They were met, their cycle waits for its proof, and nothing is claimed of them meanwhile. So
        they needn't be met again for each watermark. No host forks to them, which would have to
        find what was met.
        """
        return [secondary for secondary in secondaries if not self._goes_on_waiting(secondary)]

    def _goes_on_waiting(self, secondary: Secondary) -> bool:
        """Return whether the step of a secondary is to wait on. If it is, that is done."""
        volume = secondary.volume
        if (
            secondary.state is not SiteState.SETTLING
            or not secondary.is_met
            or secondary.is_check_due
            or secondary.staged is not None
            or secondary.differing
            or volume.group is not None
            or self._watch.is_unchecked(volume.volume)
            or self._watch.is_other(volume.volume)
            or self._watch.ended(volume.partition) is not None
        ):
            return False
        if self._parts.has_newer_description(volume.volume):
            secondary.go_idle(_NEWER_DESCRIPTION)
            return True
        cycle_input = self._parts.cycle_input(secondary)
        step = next_step(secondary.saved, cycle_input)
        if not isinstance(step, Idle) or step.state is not SiteState.SETTLING:
            return False
        if cycle_input.log.fork is not None:
            return False
        self._parts.snapshots.note_step(volume.volume, step, self._logs.watermark(secondary))
        secondary.go_idle(step)
        return True

    def _without_paused(self, secondaries: Sequence[Secondary]) -> list[Secondary]:
        """Pause those of these that an operator has paused or a drill holds; return the others."""
        for secondary in filter(self._paused.covers, secondaries):
            self._turns.pause(secondary)
        return self._paused.others(secondaries)

    def _continue_log(self, secondary: Secondary, state: SecondaryState) -> None:
        """Let a secondary follow another copy that was promoted (parting.py).

        Its log is read again: records below the position that it had applied were dropped.
        """
        log.warning(
            "%s at %s: site %s was promoted; the log is applied again after position %s",
            secondary.volume.volume,
            self._parts.name,
            secondary.volume.primary_site,
            state.applied_position,
        )
        secondary.expect_other_primary()
        self._save([(secondary, state)])
        self._turns.read_log_again(secondary)

    def _meet(self, secondaries: Sequence[Secondary]) -> list[Secondary]:
        """Meet secondaries. Return those whose next step may be taken."""
        before = [(secondary, secondary.differing) for secondary in secondaries]
        failed = self._meetings.meet_all(
            [
                secondary
                for secondary in secondaries
                if secondary.volume.is_followed_by(self._parts.name)
            ]
        )
        self._turns.stop_all(failed)
        for secondary, _ in failed:
            if secondary.volume.promotions:
                secondary.note_unloaded()  # a former primary that rejoins gets a state meanwhile
        for secondary, differing in before:
            if secondary.differing and secondary.differing is not differing:  # read just now
                secondary.note_reading()
                self._parts.read_ends.note_over(secondary.volume.volume)
        stopped = {secondary for secondary, _ in failed}
        return [secondary for secondary in secondaries if secondary not in stopped]

    def _next_step(self, secondary: Secondary) -> StagingStep:
        """Return the next step of a secondary that was met.

        Start over first if it doesn't hold what earlier cycles wrote (samples.py).
        """
        if (step := self._step_of_ended_history(secondary)) is not None:
            return step
        if self._parts.has_newer_description(secondary.volume.volume):
            return _NEWER_DESCRIPTION
        saved = secondary.saved
        if secondary.differing and saved is not None:
            cycle_input = self._parts.cycle_input(secondary)
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
                    self._turns.stop_all(failed)
                    return secondary.status
        if (of_group := self._groups.own_step(secondary)) is not None:
            return of_group
        next_one = self._groups.member_step(secondary, self._staged.next_step(secondary))
        watermark = self._logs.watermark(secondary)
        self._parts.snapshots.note_step(secondary.volume.volume, next_one, watermark)
        return next_one

    def _step_of_ended_history(self, secondary: Secondary) -> CycleStep | None:
        """Return the step of a secondary whose log contradicts the commands topic; None otherwise.

        What was applied is forgotten, durably: if the topic grows past the position later, the
        position means something else. The same is done if only the saved position contradicts the
        topic: the secondary is copied in full then.
        """
        volume = secondary.volume
        if not volume.is_followed_by(self._parts.name):
            return None
        if self._watch.is_unchecked(volume.volume):  # it was loaded a moment ago
            self._parts.check_histories(set())
            if self._watch.is_unchecked(volume.volume) and self._logs.watermark(secondary):
                return Idle(
                    SiteState.SETTLING,
                    self._parts.ends.stall_reason(volume.partition)
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
            self._turns.stop_all(failed)
            return secondary.status
        return None if ended is None else Idle(SiteState.STOPPED, ended)
