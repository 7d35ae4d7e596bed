"""What a site does with the members of a consistency group, as pure functions.

A group is in one of three modes, by what is known of all its members:

    TOGETHER   nothing is missing: members move only by cycles of the group
    STAYS      something is missing, and the secondaries are at a common point: they stay there
    APART      something is missing, and there is no common point: each is copied for itself

A member leaves a common point for itself only where its own next step is none that a journal can
take: the cycle is too large for it, or everything is to be copied.
docs/decisions/consistency-groups.md has the reasons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from mirrorlog.consumers.resync.cycle import is_settled, next_step
from mirrorlog.consumers.resync.cycle_steps import CycleInput, Idle, Resync
from mirrorlog.consumers.resync.snapshot_step import is_believed
from mirrorlog.consumers.resync.staging_step import StageBlocks, StagingStep
from mirrorlog.consumers.state.secondary_state import CommonPoint, SecondaryState
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.domain.snapshots import SnapshotExport
from mirrorlog.domain.volumes import Volume

_NO_WAY: Final = "the log doesn't lead from the secondary's position to a common point"


class GroupMode(Enum):
    """How the members of a group are copied: see the module."""

    TOGETHER = auto()
    STAYS = auto()
    APART = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberView:
    """What a site knows of one member.

    saved: its saved state; None if there is none. is_here: this process copies it.
    is_promoted_here: its secondary at this site is the volume's primary now. is_forked: hosts write
    to the secondary themselves. is_met, is_paused: see Secondary and PausedSecondaries.
    """

    volume: Volume
    saved: SecondaryState | None
    is_here: bool
    is_promoted_here: bool = False
    is_forked: bool = False
    is_met: bool = True
    is_paused: bool = False

    @property
    def is_consistent(self) -> bool:
        """Whether the secondary is consistent at its applied position."""
        saved = self.saved
        return (
            saved is not None
            and saved.generation == self.volume.generation
            and saved.consistent_position is not None
            and saved.consistent_position == saved.applied_position
        )


@dataclass(frozen=True, slots=True)
class GroupRule:
    """The mode of a group. reason: what is missing; None in the mode TOGETHER."""

    mode: GroupMode
    reason: str | None = None


def group_rule(
    group: str, members: Sequence[MemberView], *, has_journals: bool, refusal: str | None
) -> GroupRule:
    """Return how the members of a group are copied.

    has_journals: the site stages cycles. refusal: why the last snapshots of the group couldn't be
    taken; None if they could, or it is time to try again.
    """
    reason = _obstacle(members, has_journals=has_journals) or refusal
    if reason is None:
        return GroupRule(GroupMode.TOGETHER)
    if has_journals and keeps_point(members):
        return GroupRule(GroupMode.STAYS, f"group {group} stays at its common point: {reason}")
    return GroupRule(GroupMode.APART, f"group {group} has no common point: {reason}")


def _obstacle(members: Sequence[MemberView], *, has_journals: bool) -> str | None:
    """Return what keeps the members from a cycle of their group; None for nothing."""
    if not has_journals:
        return "the site runs without --consistency crash"
    for member in members:
        name = member.volume.volume
        if member.is_promoted_here:
            return f"the secondary of {name} was promoted at this site"
        if not member.is_here:
            return f"volume {name} isn't copied by this process"
        if member.volume.shared:
            return f"volume {name} is shared, so its hosts have no snapshots"
        if member.is_forked:
            return f"hosts write to the secondary of {name} themselves (--fork)"
        if member.is_paused:
            return f"volume {name} is paused"
        if not member.is_met:
            return f"the secondary of {name} can't be used now"
        if not member.is_consistent:
            return f"the secondary of {name} isn't consistent yet"
    return None


def common_point(members: Sequence[MemberView]) -> str | None:
    """Return the id of the common point at which all secondaries are; None if there is none."""
    ids = {None if member.saved is None else member.saved.common_point_id for member in members}
    return ids.pop() if len(ids) == 1 else None


def keeps_point(members: Sequence[MemberView]) -> bool:
    """Return whether the secondaries are at a common point, or were when some were promoted."""
    return common_point([member for member in members if not member.is_promoted_here]) is not None


def member_step(rule: GroupRule, saved: SecondaryState | None, step: StagingStep) -> StagingStep:
    """Return the step of a member, whose own next step is `step`, under the rule of its group."""
    if not isinstance(step, StageBlocks) or rule.mode is GroupMode.APART:
        return step
    if rule.mode is GroupMode.TOGETHER:
        return Idle(SiteState.CONSISTENT, "it waits for the next common point of its group")
    if saved is None or saved.common_point_id is None:
        return step
    return Idle(SiteState.CONSISTENT, rule.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonMoment:
    """The moment of one cycle of a group.

    id: of the common point, a canonical UUID. at_us: see CommonPoint.
    """

    id: str
    at_us: int | None

    def at(self, position: int) -> CommonPoint:
        """Return the common point of a member that was at `position` then."""
        return CommonPoint(self.id, position, self.at_us)


@dataclass(frozen=True, slots=True)
class MemberCycle:
    """What a cycle of the group does with one member.

    step: the blocks to read; None if the log names none. done: the state to save when the cycle is
    applied.
    """

    step: Resync | None
    done: SecondaryState


def snapshot_cycle(
    saved: SecondaryState, cycle_input: CycleInput, snapshot: SnapshotExport, moment: CommonMoment
) -> MemberCycle | str:
    """Return what a cycle that reads snapshots does with a member; or why there can't be one.

    saved: the secondary is consistent there. snapshot: of the member at `moment`, up to which the
    log is complete.
    """
    position = snapshot.position
    is_newest = position == cycle_input.watermark
    at_point = replace(
        cycle_input,
        watermark=position,
        anchor=cycle_input.anchor if is_newest else None,
        snapshot=snapshot,
    )
    if not is_believed(snapshot, at_point):
        return "another host may have written, or the volume's history isn't that of its host"
    step, mark = next_step(saved, at_point), moment.at(position)
    if isinstance(step, Resync) and step.reads_snapshot:
        return MemberCycle(step, replace(step.done, common_point=mark))
    if not isinstance(step, Idle) or step.state is not SiteState.CONSISTENT:
        return _NO_WAY
    return MemberCycle(None, _unchanged(saved, at_point, mark))


def quiet_step(saved: SecondaryState, cycle_input: CycleInput) -> MemberCycle | str:
    """Return what to stage of a member from its primary itself; or why that can't be done.

    The state `done` isn't proved yet, but for that of a member of which nothing changed.
    """
    step = next_step(saved, replace(cycle_input, snapshot=None))
    if isinstance(step, Resync) and step.rung is Rung.CHANGED and step.blocks is not None:
        return MemberCycle(step, step.done)
    is_unchanged = isinstance(step, Idle) and step.state is SiteState.CONSISTENT
    return MemberCycle(None, saved) if is_unchanged else _NO_WAY


def quiet_state(
    together: SecondaryState, cycle_input: CycleInput, moment: CommonMoment
) -> SecondaryState | str | None:
    """Return the state to save of a member whose primary was quiet since it was staged.

    together: of the secondary and its journal. read_end of `cycle_input` was asked for after all
    members had been read. The primary then equals `together` at the moment when the last of these
    reads was over, if the log is settled since then, and names nothing above the position that was
    read. If that holds for each member, that is `moment`, the common point.

    Return None while it isn't known, and a reason if the primary wasn't quiet.
    """
    through, watermark = together.applied_position, cycle_input.watermark
    if through is None or watermark is None or watermark < through:
        return _NO_WAY
    if together.history_id not in (None, cycle_input.history_id):
        return _NO_WAY
    if cycle_input.log.hole(after=through, through=watermark) is not None:
        return _NO_WAY
    if cycle_input.log.missed(after=through, through=watermark):
        return "it was written to while it was read, and there is no snapshot"
    if not is_settled(cycle_input, watermark):
        return None
    return _unchanged(
        replace(
            together, suspect_after=None, changed_through=None, rung=together.rung or Rung.CHANGED
        ),
        cycle_input,
        moment.at(watermark),
    )


def _unchanged(
    state: SecondaryState, cycle_input: CycleInput, point: CommonPoint
) -> SecondaryState:
    """Return the state at a common point up to which the log names nothing new."""
    return replace(
        state,
        applied_position=point.position,
        consistent_position=point.position,
        history_id=cycle_input.history_id,
        anchor=cycle_input.anchor,
        common_point=point,
    )
