"""Where a site reaches primaries and keeps secondaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

from mirrorlog.adapters.addresses import check_address
from mirrorlog.domain.volumes import Volume, check_volume_name
from mirrorlog.errors import BadUse

ALL_VOLUMES: Final = "*"
NAME: Final = "{volume}"


@dataclass(frozen=True, slots=True)
class SiteAddresses:
    """The addresses of one site.

    folder: of the site. It holds the secondaries that have no other address.
    primaries, secondaries: by volume, the addresses that hold at this site and not elsewhere. The
        one under ALL_VOLUMES holds for every other volume. NAME in an address stands for the
        volume's name.
    """

    site: str
    folder: Path
    primaries: Mapping[str, str] = field(default_factory=dict)
    secondaries: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for addresses in (self.primaries, self.secondaries):
            for volume, address in addresses.items():
                if volume != ALL_VOLUMES:
                    check_volume_name(volume)
                check_address(address)
        if NAME not in self.secondaries.get(ALL_VOLUMES, NAME):
            raise BadUse(
                "one address would be that of every volume's secondary",
                where=f"site {self.site}",
                next=f"Write {NAME} where the name of the volume belongs in it.",
            )

    def primary(self, volume: Volume) -> str:
        """Return the address at which this site reads the volume's primary."""
        return _chosen(self.primaries, volume) or volume.primary

    def secondary(self, volume: Volume) -> str:
        """Return the address of the volume's secondary: by default VOLUME.img in the folder."""
        own = _chosen(self.secondaries, volume) or volume.secondaries.get(self.site)
        return own or (self.folder / f"{volume.volume}.img").as_uri()


def _chosen(addresses: Mapping[str, str], volume: Volume) -> str | None:
    address = addresses.get(volume.volume) or addresses.get(ALL_VOLUMES)
    return None if address is None else address.replace(NAME, quote(volume.volume, safe=""))
