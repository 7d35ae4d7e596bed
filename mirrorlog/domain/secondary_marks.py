"""The mark of a secondary: whose it is, and how many cycles have written to it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from mirrorlog.domain.site_progress import check_site_name
from mirrorlog.domain.volumes import check_volume_name


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondaryMark:
    """What a site writes beside a secondary, and what a fork must find there.

    secondary_id: a random UUID in canonical form. The site draws a new one whenever nothing is
        known of the contents.
    site, volume: whose secondary it is.
    epoch: the number of cycles that may have written to the secondary since it has its id.

    Raise BadUse for a site or volume name that is none, ValueError for other values that no mark
    has.
    """

    secondary_id: str
    site: str
    volume: str
    epoch: int = 0

    def __post_init__(self) -> None:
        check_volume_name(self.volume)
        check_site_name(self.site)
        if str(UUID(self.secondary_id)) != self.secondary_id:
            raise ValueError(f"'{self.secondary_id}' isn't a UUID in canonical form")
        if type(self.epoch) is not int or not 0 <= self.epoch < 1 << 63:
            raise ValueError(f"epoch can't be '{self.epoch}'")
