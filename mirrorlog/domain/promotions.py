"""Promotions: the secondary of a site becomes the primary of its volume.

docs/decisions/failing-over.md says why a command decides it, and what follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mirrorlog.domain.commands import TrackingCommand

MAX_PROMOTIONS: Final = 16
"""How many promotions a description names. What parted before is copied in full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """A promotion, as the volume's description keeps it.

    position: of its command in the volume's partition.
    site: its secondary is the primary since then.
    parted_position: the two copies parted behind it. At this position the promoted copy held what
        the former primary held, but for blocks that the log names above it. None if nobody knows.
    former_generation: the generation that the promotion ended.
    former_primary: the address of the primary until then. former_primary_id: of its mark.
    former_site: the site whose secondary that one had been. All three as far as they were known.
    at_us: when the command was made, microseconds since 1970 by its sender's clock.
    """

    position: int
    site: str
    parted_position: int | None
    former_generation: str
    former_primary: str
    at_us: int
    former_primary_id: str | None = None
    former_site: str | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PromotionCommand(TrackingCommand):
    """A tracking command of the kind PROMOTE. It has a contract of its own (promotion.vN.avsc).

    So no other command carries its fields. `generation` is the one that it ends: if the volume has
    another one by then, the command is refused. Of two promotions at once one wins.

    new_generation is never None. site, parted_position: as in Promotion.
    primary: the address of the new primary. primary_id: of the mark that it gets.
    """

    site: str
    primary: str
    primary_id: str
    parted_position: int | None
