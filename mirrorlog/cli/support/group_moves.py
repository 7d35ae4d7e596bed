"""Which members of a consistency group move or rejoin, and whether one may without the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mirrorlog.consumers.failover.group_claims import members_elsewhere, other_members
from mirrorlog.domain.volumes import Volume, members_of
from mirrorlog.errors import BadUse, MirrorlogError


class GroupSplit(MirrorlogError):
    """A member of a consistency group would be parted from the others, and nobody said --force."""


def whole_group(volume: Volume, volumes: Iterable[Volume]) -> list[Volume]:
    """Return all members of the volume's group, by name. Raise BadUse if it is in none."""
    if volume.group is None:
        raise BadUse(
            "the volume is in no consistency group",
            where=f"volume {volume.volume}",
            next=f"Leave --group out, or put it into one: `mirrorlog volume group "
            f"{volume.volume} GROUP`.",
        )
    return members_of(volume.group, volumes)


def members_to_move(
    volume: Volume, volumes: Iterable[Volume], site: str, *, whole: bool, may_part: bool
) -> list[Volume]:
    """Return the volumes that a failback to a site moves: the volume, or with `whole` its group.

    A group is returned with the members whose primary is at the site already: a run that died may
    have left something to do. Raise BadUse if there is no group. Without `whole`, raise GroupSplit
    if another member's primary isn't at the site, unless `may_part` is given.
    """
    if whole:
        return whole_group(volume, volumes)
    others = other_members(volume, volumes, site)
    if others and not may_part:
        raise GroupSplit(
            f"it is a member of consistency group {volume.group}, whose other members stay "
            f"elsewhere: {_names(others)}",
            where=f"volume {volume.volume} at {site}",
            next="--group moves all of them. --force moves this one alone. "
            f"{parting_cost(volume, others, site)}",
        )
    return [volume]


def parting_cost(volume: Volume, others: Sequence[Volume], site: str) -> str:
    """Return what is given up if a volume moves to a site without these members; may be empty."""
    if not others:
        return ""
    return (
        f"Then no write of it is lost, but group {volume.group} has no common point at site "
        f"{site} until {_names(others)} moved there, too: a disaster meanwhile leaves copies of "
        "different moments."
    )


def check_whole(volume: Volume, volumes: Iterable[Volume], address: str) -> None:
    """Raise GroupSplit if a former primary is to rejoin, and its group is split between sites.

    address: of the former primary.
    """
    others = members_elsewhere(volume, volumes)
    if others:
        raise GroupSplit(
            f"consistency group {volume.group} is split: the primary of {volume.volume} is at site "
            f"{volume.primary_site}, and that of {_names(others)} isn't",
            where=f"volume {volume.volume}, {address}",
            next=f"Promote {_names(others)} at site {volume.primary_site}, too. With --force, "
            f"{splitting_cost(volume, others)}",
        )


def splitting_cost(volume: Volume, others: Sequence[Volume]) -> str:
    """Return what is given up if a former primary rejoins while its group is split."""
    return (
        f"what this copy of {volume.volume} holds alone is lost, and with it the only copy that "
        f"is of one moment with the primaries of {_names(others)}."
    )


def _names(volumes: Sequence[Volume]) -> str:
    return ", ".join(volume.volume for volume in volumes)
