"""Retention: up to where a volume's oldest records may be deleted. Pure.

Nobody that is registered for a volume, site or backup, is left behind: what it hasn't applied stays, unless the operator
said after how long it may go all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.domain.volumes import Volume
from mirrorlog.tracking_log.records import TIERS

DEFAULT_KEEP_S: Final[Mapping[str, float]] = {"second": 300.0, "minute": 7200.0, "hour": 86_400.0}
"""A site that was away for a moment goes on where it was, and doesn't take a whole day again for it."""


def kept_once_held_s(
    tier: int, volume: Mapping[str, float], settings: Mapping[str, float]
) -> float:
    """For how long records of a tier below the top are kept when a higher tier holds them.

    The volume's word goes before the settings'. A tier is kept at least as long as those below it: it is what proves that
    theirs may go.
    """
    words = {**DEFAULT_KEEP_S, **settings, **volume}
    return max(words.get(name, 0.0) for name in TIERS[: tier + 1])


def kept_at_all_s(
    top: int, volume: Mapping[str, float], settings: Mapping[str, float]
) -> float | None:
    """For how long the log is kept; None: for ever. `top`: the highest tier there is."""
    return {**settings, **volume}.get(TIERS[top])


@dataclass(frozen=True, slots=True)
class Limit:
    """Records through `through` may go. held_by: who keeps more than the settings ask for."""

    through: int
    held_by: tuple[SiteProgress, ...] = ()


def limit(volume: Volume | None, due: int, overdue: int, reports: Sequence[SiteProgress]) -> Limit:
    """due: records through it are old enough; overdue: old enough to go past sites too (BEFORE_FIRST: none ever is).

    What lies at or below the volume's origin no reader may ask for, and no site needs.
    """
    needed = {id(report): needs_after(volume, report) for report in reports}
    slowest = min(needed.values(), default=due)
    through = min(due, max(slowest, overdue))
    return Limit(
        through,
        held_by=tuple(
            report for report in reports if through < due and needed[id(report)] == slowest
        ),
    )


def needs_after(volume: Volume | None, report: SiteProgress) -> int:
    """Where the site stands; one that has applied nothing of this generation may still want all of it."""
    if volume is None:
        return BEFORE_FIRST if report.applied_position is None else report.applied_position
    if report.applied_position is None or report.generation != volume.generation:
        return volume.origin_position
    return max(report.applied_position, volume.origin_position)
