"""Promotions of one volume or of all members of its group: held, planned, and carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.promoting import (
    NotConsistent,
    assess,
    claim_fields,
    finish_promotion,
    finished_fields,
    lost_in_words,
    promotion_cost,
    publish_promotion,
    published_address,
)
from mirrorlog.consumers.failover.group_promotion import (
    GroupPromotion,
    PlannedPromotion,
    promote_all,
)
from mirrorlog.consumers.failover.held_secondary import (
    HeldSecondary,
    hold_secondary,
    is_primary_here,
)
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.consumers.state.state_files import SecondaryStateFiles
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, StateDamaged


@dataclass(frozen=True, slots=True)
class HeldPlan:
    """A plan, and by name the secondaries that are held for it: all but those that are finished."""

    plan: GroupPromotion
    held: Mapping[str, HeldSecondary]

    @property
    def names(self) -> list[str]:
        """The names of all members."""
        return [member.volume.volume for member in self.plan.members]

    def costs(self) -> list[str]:
        """Return for each member what its promotion means, in sentences."""
        return [self._cost(member) for member in self.plan.members]

    def _cost(self, member: PlannedPromotion) -> str:
        name, site = member.volume.volume, self.plan.site
        if member.claim is None:
            return f"The secondary of site {site} is the primary of volume {name} already."
        return promotion_cost(member.volume, site, self.held[name], member.claim, member.lost)

    def moment(self) -> str:
        """Return in a sentence whether all members are as of one moment."""
        if (doubt := self.plan.doubt()) is not None:
            return f"Not of one moment: {doubt}."
        if unknown := self.plan.unknown():
            return f"Nobody knows as of which moment {', '.join(unknown)} was promoted."
        return "All of them are at one moment."

    def fields(self) -> list[dict[str, object]]:
        """Return for each member what its promotion means, as JSON has it."""
        fields: list[dict[str, object]] = []
        for member in self.plan.members:
            name = member.volume.volume
            own: dict[str, object] = {"volume": name, "is_promoted": member.is_promoted}
            if member.claim is not None:
                claim, held = member.claim, self.held[name]
                own |= claim_fields(self.plan.site, held, claim, member.lost)
            fields.append({**own, "common_point_id": member.point_id})
        return fields


def check_address(moved: Sequence[Volume], address: str | None) -> None:
    """Raise BadUse if several volumes would have one address."""
    if len(moved) > 1 and address is not None and "{volume}" not in address:
        raise BadUse(
            "one address can't be that of several volumes",
            where=address,
            next="Write {volume} where the name of each volume stands.",
        )


def hold_and_plan(
    call: Invocation,
    stack: ExitStack,
    volumes: Sequence[Volume],
    site: str,
    folder: Path,
    timeout_s: float,
) -> HeldPlan:
    """Hold the secondaries of all volumes until the stack closes, and plan their promotion.

    volumes: in the order of their names. folder: of the site, absolute. Nothing is changed but that
    the site keeps off the secondaries. Raise as hold_secondary() and assess().
    """
    states, held = SecondaryStateFiles(folder / "states"), dict[str, HeldSecondary]()
    finished = {
        volume.volume
        for volume in volumes
        if volume.primary_site == site and is_primary_here(site, folder, volume, call.settings)
    }
    for volume in volumes:
        if volume.volume not in finished:
            held[volume.volume] = stack.enter_context(
                hold_secondary(site, folder, volume, call.settings, patience_s=timeout_s)
            )
    members = []
    for volume in volumes:
        name, claim, lost = volume.volume, None, None
        if volume.primary_site == site:
            saved = _saved(states, name)
        else:
            claim, lost = assess(call, volume, site, held[name], timeout_s)
            saved = held[name].saved
        members.append(
            PlannedPromotion(
                volume=volume,
                point_id=None if saved is None else saved.common_point_id,
                claim=claim,
                lost=lost,
                is_finished=name in finished,
            )
        )
    return HeldPlan(GroupPromotion(site, tuple(members)), held)


def _saved(states: SecondaryStateFiles, name: str) -> SecondaryState | None:
    """Return the state of a secondary that was promoted; None if nothing is known of it."""
    try:
        return states.load(name)
    except StateDamaged:
        return None


def check_nothing_lost(plan: GroupPromotion) -> None:
    """Raise NotConsistent, which names each member, if the promotion may lose something."""
    losses = plan.losses()
    if not losses:
        return
    reasons = [
        f"{member.volume.volume}: {member.claim.reason or ''} "
        f"{lost_in_words(member.volume, member.lost)}".replace(":  ", ": ")
        for member in plan.members
        if member.claim is not None and member.volume.volume in losses
    ]
    raise NotConsistent(
        "the promotion would lose something, so nothing was done. " + " ".join(reasons),
        where=f"volume {', '.join(losses)} at {plan.site}",
        next="See that no host writes to the volume, then repeat this.",
    )


@dataclass(frozen=True, slots=True)
class KafkaPromotions:
    """Promotes members through Kafka and on this machine (PromotionSteps).

    address: of the new primaries, with {volume} for the name of each; None: their paths.
    done: by name, what was done, as JSON has it.
    """

    call: Invocation
    held: Mapping[str, HeldSecondary]
    site: str
    address: str | None
    timeout_s: float
    done: dict[str, dict[str, object]] = field(default_factory=dict)

    def publish(self, member: PlannedPromotion) -> Volume:
        """Publish the promotion, and wait for the node's answer."""
        assert member.claim is not None
        name, held = member.volume.volume, self.held[member.volume.volume]
        named = None if self.address is None else self.address.replace("{volume}", name)
        return publish_promotion(
            self.call.settings,
            member.volume,
            site=self.site,
            address=published_address(held.address, named),
            claim=member.claim,
            timeout_s=self.timeout_s,
            held=self.held.values(),
        )

    def finish(self, member: PlannedPromotion, volume: Volume) -> None:
        """Mark the copy, and let this machine's host open it once."""
        name = volume.volume
        self.done[name] = finish_promotion(
            self.call,
            volume,
            self.held[name],
            lost=member.lost,
            is_again=member.is_promoted,
        )


def carry_out(
    call: Invocation, held: HeldPlan, *, address: str | None, timeout_s: float
) -> list[dict[str, object]]:
    """Promote all members; return for each what was done, as JSON has it.

    address: as the user gave it. Raise as promote_all().
    """
    plan = held.plan
    steps = KafkaPromotions(call, held.held, plan.site, address, timeout_s)
    promote_all(plan, steps)
    return [
        steps.done.get(member.volume.volume) or finished_fields(member.volume, lost=None)
        for member in plan.members
    ]
