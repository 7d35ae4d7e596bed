"""All former primaries of a group rejoin: each is locked and checked before one of them changes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.rejoining import RejoinPlan, is_following, open_plan
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse


@dataclass(frozen=True, slots=True, kw_only=True)
class RejoinOptions:
    """What the user says of former primaries. In a text {volume} stands for the name of each.

    copy, host, export: as in open_plan(); None: as there.
    """

    copy: str | None = None
    host: str | None = None
    export: str | None = None
    copies_all: bool = False

    def for_volume(self, name: str) -> RejoinOptions:
        """Return the options of one volume."""

        def named(text: str | None) -> str | None:
            return None if text is None else text.replace("{volume}", name)

        return RejoinOptions(
            copy=named(self.copy),
            host=named(self.host),
            export=named(self.export),
            copies_all=self.copies_all,
        )

    def check_for(self, members: Sequence[Volume]) -> None:
        """Raise BadUse if several volumes would have one copy or one address.

        One host may have written to several volumes.
        """
        for text in (self.copy, self.export):
            if len(members) > 1 and text is not None and "{volume}" not in text:
                raise BadUse(
                    "one address can't be that of several volumes",
                    where=text,
                    next="Write {volume} where the name of each volume stands.",
                )


@dataclass(frozen=True, slots=True)
class GroupRejoin:
    """What the rejoin of a group does.

    plans: of the former primaries that are to change, each locked. following: the members whose
    former primary follows already. unpromoted: those that have no former primary.
    """

    plans: tuple[RejoinPlan, ...]
    following: tuple[Volume, ...]
    unpromoted: tuple[Volume, ...]

    def cost(self) -> str:
        """Return for each member what is given up, in sentences."""
        texts = [f"Volume {plan.volume.volume}: {plan.cost()}" for plan in self.plans]
        texts += [
            f"Volume {volume.volume}: its former primary follows already."
            for volume in self.following
        ]
        texts += [
            f"Volume {volume.volume}: no copy of it was ever promoted, so it is left as it is."
            for volume in self.unpromoted
        ]
        return " ".join(texts)

    def fields(self) -> list[dict[str, object]]:
        """Return for each former primary that is to change what is done, as JSON has it."""
        return [
            {
                "volume": plan.volume.volume,
                "copy": plan.kept_at,
                "parted_position": plan.parted_position,
                "copies_all": plan.copies_all,
            }
            for plan in self.plans
        ]

    def others(self) -> dict[str, object]:
        """Return the names of the members that aren't changed, as JSON has them."""
        return {
            "following": [volume.volume for volume in self.following],
            "unpromoted": [volume.volume for volume in self.unpromoted],
        }

    def check_known(self) -> None:
        """Raise BadUse if it isn't known of a copy in which blocks it differs."""
        unknown = [plan for plan in self.plans if plan.needs_all]
        if unknown:
            error = unknown[0].unknown_error()
            copies = ", ".join(f"volume {plan.volume.volume}, {plan.address}" for plan in unknown)
            raise BadUse(error.what, where=copies, next=error.next)


def open_group(
    call: Invocation,
    stack: ExitStack,
    members: Sequence[Volume],
    *,
    site: str,
    folder: Path,
    options: RejoinOptions,
    is_whole: bool,
) -> GroupRejoin:
    """Lock the former primaries of all members until the stack closes, and check each of them.

    is_whole: a member whose former primary follows already, or that has none, is no error. Raise as
    open_plan().
    """
    options.check_for(members)
    plans, following, unpromoted = [], [], []
    for member in members:
        own = options.for_volume(member.volume)
        if is_whole and not member.promotions:
            unpromoted.append(member)
        elif (
            is_whole
            and member.primary_site != site
            and is_following(call, member, site, folder, copy=own.copy, export=own.export)
        ):
            following.append(member)
        else:
            plan = open_plan(
                call,
                member.volume,
                site=site,
                folder=folder,
                copy=own.copy,
                copies_all=own.copies_all,
                host=own.host,
                export=own.export,
            )
            plans.append(stack.enter_context(plan))
    return GroupRejoin(tuple(plans), tuple(following), tuple(unpromoted))
