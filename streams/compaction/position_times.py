"""Moments: where a partition's log was complete at a time, so that the age of its records is known. Pure.

A position has no time of its own, and what hosts say of the time isn't trusted with deleting. So the node writes down each
minute through where the log is complete. A record is at least as old as any moment at or above its end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.tracking_log.heads import Watermark

EVERY_S: Final = 60
_THINNED: Final = ((6 * 3600, EVERY_S), (8 * 86_400, 3600))
"""(younger than, one in each): above the last one a day. Thinned moments make records younger, never older."""
_DAY_S: Final = 86_400


def sound(moments: Sequence[Watermark], complete_through: int) -> list[Watermark]:
    """The moments in the order of time, without those that a later one or the watermark contradicts.

    The commands topic was made anew then, and positions don't mean what they did: nothing is deleted by such a moment.
    """
    kept: list[Watermark] = []
    lowest = complete_through
    for moment in sorted(moments, key=lambda moment: moment.at_us, reverse=True):
        if moment.through <= lowest:
            kept.append(moment)
            lowest = moment.through
    return kept[::-1]


def position_at(moments: Sequence[Watermark], at_us: float) -> int:
    """Records through this position, or below, are at least as old as `at_us`; `moments` in the order of time."""
    number = bisect_right(moments, at_us, key=lambda moment: moment.at_us)
    return moments[number - 1].through if number else BEFORE_FIRST


def superfluous(moments: Sequence[Watermark], now_us: int) -> list[Watermark]:
    """Those that may go: of each stretch of time the first one stays, and the newest of all."""
    seen: set[tuple[int, int]] = set()
    found = []
    for moment in moments[:-1]:
        age_s = (now_us - moment.at_us) / 1e6
        width_s = next((width for younger_s, width in _THINNED if age_s < younger_s), _DAY_S)
        slot = (width_s, moment.at_us // (width_s * 1_000_000))
        if slot in seen:
            found.append(moment)
        seen.add(slot)
    return found
