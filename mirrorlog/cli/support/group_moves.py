"""Whether a member of a consistency group may move or rejoin without the other members."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mirrorlog.consumers.failover.group_claims import members_elsewhere, other_members
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import MirrorlogError


class GroupSplit(MirrorlogError):
    """A member of a consistency group would be parted from the others, and nobody said --force."""


def members_to_move(
    volume: Volume, volumes: Iterable[Volume], site: str, *, whole: bool, may_part: bool
) -> list[Volume]:
    """Return the volumes that a failback to a site moves: the volume, and with `whole` its group.

    Other members whose primary is at the site already are left out. Raise GroupSplit if one isn't,
    unless the group moves as a whole or `may_part` is given.
    """
    others = other_members(volume, volumes, site)
    if whole:
        return [volume, *others]
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
