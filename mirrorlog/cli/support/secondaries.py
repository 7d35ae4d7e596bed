"""Which addresses the secondaries of a new volume may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mirrorlog.adapters.addresses import place_of
from mirrorlog.domain.site_progress import check_site_name
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse


def check_secondaries(
    volume: str, primary: str, secondaries: Mapping[str, str], others: Iterable[Volume]
) -> None:
    """Raise BadUse for a secondary at the address of a primary, or of another volume's secondary.

    secondaries: by site, their addresses. A site opens primaries by their addresses, too, so these
    are compared with all of them; with secondaries only at the same site. Links are followed where
    they are on this machine. The site itself looks again at what it really opens.
    """
    active = [other for other in others if not other.is_retired and other.volume != volume]
    primaries = {place_of(primary): volume} | {
        place_of(other.primary): other.volume for other in active
    }
    for site, address in secondaries.items():
        check_site_name(site)
        place = place_of(address)
        if place in primaries:
            raise _taken(address, f"the primary of volume '{primaries[place]}'")
        for other in active:
            if site in other.secondaries and place_of(other.secondaries[site]) == place:
                raise _taken(address, f"the secondary of volume '{other.volume}' at {site}")


def _taken(address: str, whose: str) -> BadUse:
    return BadUse(
        f"this is {whose}",
        where=address,
        next="Give each secondary a file or device of its own.",
    )
