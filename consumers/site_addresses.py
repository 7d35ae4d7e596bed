"""Where a site reaches primaries and keeps secondaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import quote

from mirrorlog.adapters.addresses import check_address
from mirrorlog.adapters.nbd_client.nbd_uri import is_nbd
from mirrorlog.domain.site_progress import check_site_name
from mirrorlog.domain.volumes import Volume, check_volume_name
from mirrorlog.errors import BadUse
from mirrorlog.settings import Settings

ALL_VOLUMES: Final = "*"
NAME: Final = "{volume}"
_AT: Final = "@"


@dataclass(frozen=True, slots=True)
class SiteAddresses:
    """The addresses of one site.

    folder: of the site. It holds the secondaries that have no other address.
    primaries, secondaries: by volume, the addresses that hold at this site and not elsewhere. The
        one under ALL_VOLUMES holds for every other volume. NAME in an address stands for the
        volume's name. A primary may also be under VOLUME@SITE: it holds while the secondary of that
        site is the primary, because it was promoted.
    """

    site: str
    folder: Path
    primaries: Mapping[str, str] = field(default_factory=dict)
    secondaries: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_settings(cls, site: str, folder: Path, settings: Settings) -> SiteAddresses:
        """Return the addresses of a site as the settings name them. Raise BadUse for a bad one."""
        return cls(site, folder, settings.site_primaries, settings.site_secondaries)

    def __post_init__(self) -> None:
        for addresses in (self.primaries, self.secondaries):
            for volume, address in addresses.items():
                name, at, site = volume.partition(_AT)
                if name != ALL_VOLUMES:
                    check_volume_name(name)
                if at and addresses is self.primaries:
                    check_site_name(site)
                elif at:
                    check_volume_name(volume)
                check_address(address)
        if NAME not in self.secondaries.get(ALL_VOLUMES, NAME):
            raise BadUse(
                "one address would be that of every volume's secondary",
                where=f"site {self.site}",
                next=f"Write {NAME} where the name of the volume belongs in it.",
            )

    def primary(self, volume: Volume) -> str:
        """Return the address at which this site reads the volume's primary.

        An NBD export has no mark, so nothing tells the primary's from that of a former one. After a
        promotion such an address counts only if it says for which site's copy it is. Raise BadUse
        if this site knows another one alone.
        """
        known = _chosen(self.primaries, volume)
        if volume.primary_site is None:
            return known or volume.primary
        promoted = _chosen(self.primaries, volume, volume.primary_site)
        if promoted is not None:
            return promoted
        if known is None or not is_nbd(known):
            return known or volume.primary
        if is_nbd(volume.primary):
            return volume.primary
        raise BadUse(
            f"the copy of site {volume.primary_site} was promoted, and nothing tells whether "
            f"{known} is that copy or a former primary",
            where=f"volume {volume.volume} at {self.site}",
            next="Say where the new primary is: "
            f"--primary {volume.volume}{_AT}{volume.primary_site}=URI.",
        )

    def secondary(self, volume: Volume) -> str:
        """Return the address of the volume's secondary: by default VOLUME.img in the folder."""
        own = _chosen(self.secondaries, volume) or volume.secondaries.get(self.site)
        return own or _address_in(self.folder, volume.volume)


@lru_cache(maxsize=8192)
def _address_in(folder: Path, volume: str) -> str:
    return (folder / f"{volume}.img").as_uri()


def _chosen(addresses: Mapping[str, str], volume: Volume, site: str | None = None) -> str | None:
    """Return the address of a volume; with `site`, the one that holds while it has the primary."""
    at = "" if site is None else f"{_AT}{site}"
    address = addresses.get(volume.volume + at) or addresses.get(ALL_VOLUMES + at)
    return None if address is None else address.replace(NAME, quote(volume.volume, safe=""))
