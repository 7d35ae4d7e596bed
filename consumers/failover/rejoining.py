"""The state with which a former primary becomes a secondary that follows the new primary. Pure."""

from __future__ import annotations

from mirrorlog.consumers.state.secondary_state import SecondaryIdentity, SecondaryState
from mirrorlog.domain.promotions import Promotion
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volumes import Volume


def rejoining_state(
    volume: Volume, promotion: Promotion, identity: SecondaryIdentity
) -> SecondaryState | None:
    """Return the state of a former primary; None if everything has to be copied to it.

    promotion: the one that ended its time as the primary. identity: of the secondary that it is
    now. The log must name every write to it: its host has ended, and has published what it had left
    unpublished.

    The copy holds everything through the position behind which the two parted. What both sides
    wrote since, the log names: the site copies these blocks from the new primary, and no others
    (consumers/resync/parting.py).
    """
    parted = volume.parted_after(promotion.former_generation)
    if parted is None:
        return None
    return SecondaryState(
        volume.volume,
        promotion.former_generation,
        applied_position=parted,
        cycle_through=promotion.position,
        rung=Rung.CHANGED,
        identity=identity,
        history_id=volume.history_id,
    )


def promotion_that_ended(
    volume: Volume, *, primary_id: str | None, address: str
) -> Promotion | None:
    """Return the promotion that ended the time of a copy as the primary; None if none is known.

    primary_id: of the copy's mark; None if it has none. address: of the copy.
    The copy was the primary last before that promotion.
    """
    for promotion in reversed(volume.promotions):
        if promotion.former_primary_id is not None:
            if promotion.former_primary_id == primary_id:
                return promotion
        elif promotion.former_primary == address:
            return promotion
    return None
