"""GroupCycles: cycles of consistency groups, which move all members or none.

group_step.py decides. docs/decisions/consistency-groups.md has the order of the steps, and why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mirrorlog.consumers.resync.cycle_calls import CycleCalls
from mirrorlog.consumers.resync.cycle_steps import Idle, Resync
from mirrorlog.consumers.resync.group_journals import GroupCycleEndedError, GroupJournals
from mirrorlog.consumers.resync.group_step import (
    CommonMoment,
    GroupMode,
    GroupRule,
    MemberView,
    common_point,
    group_rule,
    keeps_point,
    member_step,
    quiet_state,
    quiet_step,
    snapshot_cycle,
)
from mirrorlog.consumers.resync.journaled_cycles import CommitName
from mirrorlog.consumers.resync.known_group import (
    LEAST_STAGING_S,
    GroupCycle,
    GroupFigures,
    KnownGroup,
    figures_of,
)
from mirrorlog.consumers.resync.meetings import SecondaryMeetings
from mirrorlog.consumers.resync.replica_logs import ReplicaLogs
from mirrorlog.consumers.resync.secondaries import Secondaries
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.resync.staging_step import StageBlocks, StagingStep
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.clock import Clock

log = logging.getLogger("mirrorlog.site")

_HELD_S: Final = 10.0
"""How long the snapshots of a group may wait for the log to reach them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPorts:
    """What cycles of groups need.

    secondaries: those of the site, by volume. devices: the port to them. is_paused: returns whether
    the site keeps off one. draw_id: returns a new UUID. interval_s: the time between two common
    points at least.
    """

    site: str
    secondaries: Mapping[str, Secondary]
    devices: Secondaries
    clock: Clock
    is_paused: Callable[[Secondary], bool]
    draw_id: Callable[[], str]
    interval_s: float


class GroupCycles:
    """The cycles of the groups of one site. One thread calls it."""

    def __init__(
        self,
        ports: GroupPorts,
        journals: GroupJournals,
        meetings: SecondaryMeetings,
        logs: ReplicaLogs,
        calls: CycleCalls,
    ) -> None:
        self._ports, self._journals = ports, journals
        self._meetings, self._logs, self._calls = meetings, logs, calls
        self._groups: Final[dict[str, KnownGroup]] = {}
        self._figures: Final[dict[str, GroupFigures]] = {}

    def follow(self, volumes: Iterable[Volume]) -> None:
        """Take the members of all groups: all volumes that name one and aren't retired."""
        members = dict[str, list[Volume]]()
        for volume in volumes:
            if volume.group is not None:
                members.setdefault(volume.group, []).append(volume)
        for name in self._groups.keys() - members.keys():
            self._drop(self._groups.pop(name))
            self._figures.pop(name, None)
        for name, group_members in members.items():
            group = self._groups.setdefault(name, KnownGroup(name))
            group.members = sorted(group_members, key=lambda volume: volume.volume)

    def own_step(self, secondary: Secondary) -> Idle | None:
        """Return the step of a secondary whose journal is one of its group now; otherwise None."""
        group = self._groups.get(secondary.volume.group or "")
        if group is None or group.cycle is None or group.cycle.taken:
            return None
        if not self._is_as_it_was(secondary, group.cycle):
            self._drop(group)
            return None
        return Idle(
            SiteState.CONSISTENT,
            f"what changed is staged in the journals of group {group.name}, and waits for its "
            "proof",
        )

    def member_step(self, secondary: Secondary, step: StagingStep) -> StagingStep:
        """Return the step of a secondary, whose own next step is `step`, as its group has it."""
        group = self._groups.get(secondary.volume.group or "")
        if group is None or not isinstance(step, StageBlocks):
            return step
        return member_step(self._rule(group, refusal=group.refusal), secondary.saved, step)

    def run(self) -> set[str]:
        """Take the next step of each group. Return the volumes that need a step or a report."""
        touched = set[str]()
        for group in self._groups.values():
            cycle, told = group.cycle, group.told
            try:
                self._advance(group)
            except GroupCycleEndedError as error:
                group.unproved_cycles += group.cycle is None
                self._drop(group)
                self._wait(group)
                if group.refusal is not None:
                    group.staging.note_failed(self._ports.clock.monotonic_s())
                self._tell(group, f"group {group.name} reaches no new common point now: {error}")
            if group.cycle is not cycle or group.told != told:
                touched |= {volume.volume for volume in group.members}
            self._figures[group.name] = figures_of(group, self._views(group))
        return touched & self._ports.secondaries.keys()

    def figures(self) -> list[GroupFigures]:
        """Return what is exported of each group, as of the last round. Any thread may call it."""
        return list(self._figures.values())

    def close(self) -> None:
        """Give up all snapshots."""
        for group in self._groups.values():
            self._drop(group)

    def _advance(self, group: KnownGroup) -> None:
        """Take the next step of a group. Raise GroupCycleEndedError if its cycle ends there."""
        now_s = self._ports.clock.monotonic_s()
        if group.snapshots.is_over(now_s):
            group.refusal = None
        rule = self._rule(group, refusal=None)
        if rule.mode is not GroupMode.TOGETHER:
            self._drop(group)
            self._tell(group, rule.reason)
        elif group.cycle is not None:
            self._go_on(group, group.cycle)
        elif not self._needs_point(group):
            self._tell(group, None)
        elif now_s >= group.due_s and group.staging.is_over(now_s):
            self._begin(group)

    def _go_on(self, group: KnownGroup, cycle: GroupCycle) -> None:
        """Go on with a cycle that has begun."""
        members = self._members(group)
        is_same = {member.volume.volume for member in members} == cycle.saved.keys()
        if not is_same or not all(self._is_as_it_was(member, cycle) for member in members):
            raise GroupCycleEndedError("a member was changed meanwhile")
        commit = CommitName(group.name, cycle.moment.id)
        if cycle.taken:
            states = self._read(members, cycle, commit)
        else:
            states = self._proved(members, cycle.moment)
        if states is None:
            return
        self._journals.apply(states, commit)
        group.cycle = None
        group.common_points += 1
        group.staging.note_done()
        _close(cycle)
        self._wait(group)
        self._tell(group, None)

    def _read(
        self, members: Sequence[Secondary], cycle: GroupCycle, commit: CommitName
    ) -> list[tuple[Secondary, SecondaryState]] | None:
        """Read the snapshots into the journals, once the log has reached them.

        Return the states to save when they are applied; None if the log hasn't reached them yet.
        """
        exports = {name: taken.export for name, taken in cycle.taken.items()}
        inputs = [(member, self._calls.cycle_input(member)) for member in members]
        for secondary, cycle_input in inputs:
            watermark = cycle_input.watermark
            if watermark is None or watermark < exports[secondary.volume.volume].position:
                if self._ports.clock.monotonic_s() >= cycle.until_s:
                    raise GroupCycleEndedError("the log didn't reach the snapshots in time")
                return None
        steps, states = list[tuple[Secondary, Resync | None]](), []
        for secondary, cycle_input in inputs:
            name, saved = secondary.volume.volume, secondary.saved
            assert saved is not None
            planned = snapshot_cycle(saved, cycle_input, exports[name], cycle.moment)
            if isinstance(planned, str):
                raise GroupCycleEndedError(f"{name}: {planned}")
            steps.append((secondary, planned.step))
            states.append((secondary, planned.done))
        self._journals.stage(steps, cycle.taken, commit)
        return states

    def _proved(
        self, members: Sequence[Secondary], moment: CommonMoment
    ) -> list[tuple[Secondary, SecondaryState]] | None:
        """Return the states that the journals prove; None as long as they prove nothing."""
        states = []
        for secondary in members:
            together = secondary.staged or secondary.saved
            assert together is not None
            state = quiet_state(together, self._calls.cycle_input(secondary), moment)
            if isinstance(state, str):
                raise GroupCycleEndedError(f"{secondary.volume.volume}: {state}")
            states.append((secondary, state))
        known = [(secondary, state) for secondary, state in states if state is not None]
        return known if len(known) == len(states) else None

    def _begin(self, group: KnownGroup) -> None:
        """Begin a cycle: take snapshots, or stage the primaries themselves if there are none."""
        members = self._members(group)
        checks = [(secondary, _check_step(secondary)) for secondary in members]
        failed = self._meetings.check_primaries(checks, self._logs.changed_since)
        for secondary, error in failed:
            self._calls.stop(secondary, error)
        if failed:
            raise GroupCycleEndedError(f"a primary can't be read: {failed[0][1]}")
        saved = {member.volume.volume: (member.volume, member.saved) for member in members}
        cycle = GroupCycle(self._moment(), saved, {}, 0.0)
        if group.refusal is None:
            group.refusal = self._take(members, cycle)
            if group.refusal is None:
                group.snapshots.note_done()
            else:
                is_lasting = not all(self._has_snapshots(member) for member in members)
                now_s = self._ports.clock.monotonic_s()
                group.snapshots.note_failed(now_s, is_lasting=is_lasting)
                self._tell(group, self._rule(group, refusal=group.refusal).reason)
        if group.refusal is not None:
            if not keeps_point(self._views(group)) and self._has_changes(members):
                self._wait(group)  # each is copied for itself
                return
            self._stage_quiet(members, CommitName(group.name, cycle.moment.id))
            # Each primary equals what was staged from here on until the commands' end is asked for.
            cycle.moment = replace(cycle.moment, at_us=self._ports.clock.now_us())
        group.cycle = cycle

    def _moment(self) -> CommonMoment:
        """Return the moment of a new cycle, which isn't before now."""
        return CommonMoment(id=self._ports.draw_id(), at_us=self._ports.clock.now_us())

    def _take(self, members: Sequence[Secondary], cycle: GroupCycle) -> str | None:
        """Take snapshots of all members at one moment; return why that can't be done."""
        for secondary in members:
            if not self._has_snapshots(secondary):
                return (
                    f"the primary of {secondary.volume.volume} has no snapshots (`host serve` with "
                    "its native filter has them), so it moves only while all members are quiet"
                )
        try:
            cycle.taken = self._ports.devices.take_snapshots([member.volume for member in members])
        except DeviceFailed as error:
            return f"no snapshots of its members at one moment: {error}"
        cycle.until_s = self._ports.clock.monotonic_s() + _HELD_S
        return None

    def _has_snapshots(self, secondary: Secondary) -> bool:
        return self._ports.devices.has_snapshots(secondary.volume)

    def _stage_quiet(self, members: Sequence[Secondary], commit: CommitName) -> None:
        """Stage what the log names of all members, from the primaries themselves."""
        steps = list[tuple[Secondary, Resync | None]]()
        for secondary in members:
            assert secondary.saved is not None
            step = quiet_step(secondary.saved, self._calls.cycle_input(secondary))
            if isinstance(step, str):
                raise GroupCycleEndedError(f"{secondary.volume.volume}: {step}")
            steps.append((secondary, step.step))
        self._journals.stage(steps, {}, commit)

    def _rule(self, group: KnownGroup, *, refusal: str | None) -> GroupRule:
        """Return the rule of a group. refusal: as in group_rule()."""
        return group_rule(
            group.name,
            self._views(group),
            has_journals=self._journals.are_used,
            refusal=refusal,
        )

    def _views(self, group: KnownGroup) -> list[MemberView]:
        views = []
        for volume in group.members:
            secondary = self._ports.secondaries.get(volume.volume)
            is_promoted = volume.primary_site == self._ports.site
            if secondary is None:
                view = MemberView(volume=volume, saved=None, is_here=False)
            else:
                view = MemberView(
                    volume=secondary.volume,
                    saved=secondary.saved,
                    is_here=True,
                    is_forked=self._logs.of(volume.volume).fork is not None,
                    is_met=secondary.is_met,
                    is_paused=self._ports.is_paused(secondary),
                )
            views.append(replace(view, is_promoted_here=is_promoted))
        return views

    def _members(self, group: KnownGroup) -> list[Secondary]:
        return [self._ports.secondaries[volume.volume] for volume in group.members]

    def _needs_point(self, group: KnownGroup) -> bool:
        """Return whether the members lack something, or are at no common point yet."""
        return common_point(self._views(group)) is None or self._has_changes(self._members(group))

    def _has_changes(self, members: Sequence[Secondary]) -> bool:
        """Return whether the log names what a member lacks."""
        for secondary in members:
            saved, watermark = secondary.saved, self._logs.watermark(secondary)
            if saved is None or saved.applied_position is None or watermark is None:
                continue
            log_of = self._logs.of(secondary.volume.volume)
            if log_of.missed(after=saved.applied_position, through=watermark.through):
                return True
        return False

    def _is_as_it_was(self, secondary: Secondary, cycle: GroupCycle) -> bool:
        known = cycle.saved.get(secondary.volume.volume)
        return known == (secondary.volume, secondary.saved)

    def _wait(self, group: KnownGroup) -> None:
        """Let no cycle of the group begin for a while."""
        interval_s = self._ports.interval_s
        if group.refusal is not None:
            interval_s = max(interval_s, LEAST_STAGING_S)
        group.due_s = self._ports.clock.monotonic_s() + interval_s

    def _tell(self, group: KnownGroup, reason: str | None) -> None:
        """Log and report why a group reaches no common point; None if it does."""
        if reason is not None and reason != group.told:
            log.warning("%s: %s", self._ports.site, reason)
        group.told = reason
        for volume in group.members:
            secondary = self._ports.secondaries.get(volume.volume)
            if secondary is not None:
                secondary.note_group(reason)

    def _drop(self, group: KnownGroup) -> None:
        """Give up the cycle of a group, if there is one."""
        cycle, group.cycle = group.cycle, None
        if cycle is None:
            return
        group.unproved_cycles += 1
        _close(cycle)
        if not cycle.taken:
            known = map(self._ports.secondaries.get, cycle.saved)
            self._journals.drop([cycle for cycle in known if cycle is not None])


def _close(cycle: GroupCycle) -> None:
    for taken in cycle.taken.values():
        taken.device.close()


def _check_step(secondary: Secondary) -> Resync:
    """Return a step by which a primary is checked, as before a cycle by the log."""
    assert secondary.saved is not None
    return Resync(Rung.CHANGED, secondary.saved, secondary.saved, BlockSet(), None)
