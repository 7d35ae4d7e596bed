"""The promotion of all members of a consistency group: planned as data, then carried out.

1. All secondaries are held, so none of them moves any more.
2. What each is worth is found out. That is the plan: nothing was changed so far.
3. All promotions are published, in the order of the members' names.
4. All copies get the mark of a primary.

Of two runs at two sites at once, one wins for the whole group: both begin with the same member, the
node records one promotion of it, and the other run ends there. A run that is killed in step 3 or 4
is repeated: what it promoted is known by the descriptions, and the rest is still held at its point,
because the site stays paused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mirrorlog.consumers.failover.claims import SecondaryClaim
from mirrorlog.consumers.failover.lost_writes import LostWrites
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import MirrorlogError


class PromotionCutOff(MirrorlogError):
    """Some members of a group were promoted, and another one wasn't."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPromotion:
    """What the promotion of one member means.

    volume: as it was described when its secondary was held.
    point_id: of the common point at which the secondary is; None if it is at none.
    claim: what the secondary is worth; None if it was promoted by an earlier run.
    lost: what the promotion loses; None if nobody knows, or if it was promoted already.
    is_finished: it was promoted, and is marked as the primary: nothing is left to be done.
    """

    volume: Volume
    point_id: str | None
    claim: SecondaryClaim | None
    lost: LostWrites | None = None
    is_finished: bool = False

    @property
    def is_promoted(self) -> bool:
        """Whether an earlier run promoted it."""
        return self.claim is None


@dataclass(frozen=True, slots=True)
class GroupPromotion:
    """The plan. members: by name, in the order in which they are promoted."""

    site: str
    members: tuple[PlannedPromotion, ...]

    def doubt(self) -> str | None:
        """Return why the members aren't at one common point; None if they are.

        Members that were promoted earlier count as far as their point is known.
        """
        if len(self.members) < 2:
            return None
        known = [member for member in self.members if member.point_id is not None]
        for member in self.members:
            if member.point_id is None and not member.is_promoted:
                return f"{member.volume.volume} is at no common point of its group"
        for member in known:
            if member.point_id != known[0].point_id:
                return (
                    f"{known[0].volume.volume} and {member.volume.volume} are at different points"
                )
        return None

    def unknown(self) -> list[str]:
        """Return the names of the members that were promoted, nobody knows at which point."""
        return [
            member.volume.volume
            for member in self.members
            if member.is_promoted and member.point_id is None
        ]

    def refusals(self) -> list[str]:
        """Return why the group isn't to be promoted without force, in words; empty if it is."""
        reasons = [
            f"{member.volume.volume} isn't consistent: {member.claim.reason}"
            for member in self.members
            if member.claim is not None and member.claim.consistent_position is None
        ]
        if (doubt := self.doubt()) is not None:
            reasons.append(doubt)
        return reasons

    def losses(self) -> list[str]:
        """Return the names of the members whose promotion may lose something."""
        return [
            member.volume.volume
            for member in self.members
            if member.claim is not None
            and (
                member.claim.consistent_position is None
                or member.lost is None
                or member.lost.blocks
                or not member.lost.is_complete
            )
        ]


class PromotionSteps(Protocol):
    """How one member is promoted."""

    def publish(self, member: PlannedPromotion) -> Volume:
        """Publish the promotion; return the description that the node made of it.

        Raise MirrorlogError if it isn't recorded: another one came first, or no node answers.
        """
        ...

    def finish(self, member: PlannedPromotion, volume: Volume) -> None:
        """Mark the copy as the primary, as the description says. Doing it again is harmless."""
        ...


def promote_all(plan: GroupPromotion, steps: PromotionSteps) -> None:
    """Carry out steps 3 and 4 for all members. All secondaries must still be held.

    If a promotion isn't recorded, no further one is published, and those that were are finished.
    Raise PromotionCutOff then, or the error itself if it was the first one.
    """
    promoted = dict[str, Volume]()
    failed: MirrorlogError | None = None
    for member in plan.members:
        try:
            recorded = member.volume if member.is_promoted else steps.publish(member)
        except MirrorlogError as error:
            failed = error
            break
        promoted[recorded.volume] = recorded
    for member in plan.members:
        if member.volume.volume in promoted and not member.is_finished:
            steps.finish(member, promoted[member.volume.volume])
    if failed is None:
        return
    if not promoted:
        raise failed
    left = [m.volume.volume for m in plan.members if m.volume.volume not in promoted]
    raise PromotionCutOff(
        f"of the group, {', '.join(promoted)} was promoted at {plan.site}, and "
        f"{', '.join(left)} wasn't: {failed.what}",
        where=failed.where,
        next=f"Repeat this when it can go on: what is left stays at its point. {failed.next}",
    ) from failed
