"""What the secondaries of a consistency group are worth together, before one is promoted."""

from __future__ import annotations

from collections.abc import Iterable

from mirrorlog.consumers.state.secondary_state import SecondaryState, SecondaryStateStore
from mirrorlog.domain.volumes import Volume, members_of
from mirrorlog.errors import DeviceFailed, StateDamaged


def other_members(volume: Volume, volumes: Iterable[Volume], site: str) -> list[Volume]:
    """Return the other members of the volume's group that weren't promoted at the site, by name."""
    if volume.group is None:
        return []
    return [
        member
        for member in members_of(volume.group, volumes)
        if member.volume != volume.volume and member.primary_site != site
    ]


def members_elsewhere(volume: Volume, volumes: Iterable[Volume]) -> list[Volume]:
    """Return the other members of the volume's group whose primary isn't at its site, by name.

    Return none if the volume's primary is at no site: it was never promoted, or was moved since.
    """
    site = volume.primary_site
    return [] if site is None else other_members(volume, volumes, site)


def group_doubt(
    saved: SecondaryState | None, others: Iterable[Volume], states: SecondaryStateStore
) -> str | None:
    """Return why a secondary isn't at one common point with the others; None if it is.

    saved: its state. It is held, so no cycle of the group moves the others meanwhile. others: see
    other_members(). states: of the site.
    """
    point = None if saved is None else saved.common_point_id
    for other in others:
        if point is None:
            return "it is at no common point of its group"
        try:
            state = states.load(other.volume)
        except (StateDamaged, DeviceFailed) as error:
            return f"nothing is known of {other.volume}: {error}"
        if state is None or state.generation != other.generation:
            return f"this site has no copy of {other.volume}"
        if state.common_point_id != point:
            return f"the secondary of {other.volume} is at another point"
    return None
