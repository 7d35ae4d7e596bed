"""The state of a secondary when another copy of its volume was promoted. Pure.

Let P be the position behind which the promoted copy parted from the former primary, and A the
applied position of this secondary. It holds what the former primary wrote through A. The promoted
copy holds that only through P, and what its own host has written since. The log continues through
the promotion, and names the writes of both sides. So every block in which the two differ is named
above min(A, P): the secondary is brought up to date by exactly these blocks.

What it read above its last proof (suspect_after) may hold writes that no command ever named,
because the host died before it published them. The promoted copy lacks them. So the log is applied
again from the last proof on. What it holds above that position, it holds as after a cycle that was
cut off: it equals the primary at no position until a cycle through at least A has ended.

A former primary that rejoins has a state of the same kind, with A = P (consumers/failover/).
"""

from __future__ import annotations

from dataclasses import replace

from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volumes import Volume


def continued_state(
    saved: SecondaryState, volume: Volume, *, is_forked: bool
) -> SecondaryState | None:
    """Return the state in the volume's generation; None if everything has to be copied.

    saved: of a generation that a promotion ended. is_forked: hosts sent writes to the secondary
    themselves: it may then hold writes that no command names.

    The history of the positions is the caller's business.
    """
    parted = volume.parted_after(saved.generation)
    applied = saved.applied_position
    if parted is None or applied is None or is_forked:
        return None
    if saved.is_unproved_copy:
        return None  # any block may hold what was never named
    proved = applied if saved.suspect_after is None else min(applied, saved.suspect_after)
    position = min(proved, parted)
    is_same = saved.cycle_through is None and position == saved.consistent_position
    return replace(
        saved,
        generation=volume.generation,
        applied_position=position,
        suspect_after=None,
        cycle_through=None if is_same else max(applied, saved.cycle_through or applied),
        changed_through=None,
        consistent_position=position if is_same else None,
        rung=Rung.CHANGED,
        anchor=saved.anchor if position == applied else None,
    )


def unknown_parting(saved: SecondaryState, volume: Volume, *, is_forked: bool) -> str:
    """Return why continued_state() returned None, for people. Take its arguments.

    A promotion must have ended the generation of the state.
    """
    why = "this secondary's own copy of everything wasn't finished, or isn't proved"
    if volume.parted_after(saved.generation) is None:
        ending = volume.promotion_ending(saved.generation)
        since = [] if ending is None else volume.promotions[volume.promotions.index(ending) :]
        site = next(
            (promotion.site for promotion in since if promotion.parted_position is None), None
        )
        why = (
            f"the copy of site {site} was promoted before its copy of everything was proved, or "
            "while hosts forked writes to it"
        )
    elif is_forked:
        why = "hosts forked writes to this secondary, which no command may name"
    return f"nobody knows in which blocks the two copies differ: {why}"
