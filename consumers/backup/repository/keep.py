"""Which points are kept, by rules as those of restic and borg. Pure.

Each rule goes from the newest point to the oldest and keeps the newest point of each of its last N
periods in which there is a point. A point is kept if any rule keeps it. The newest point is always
kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, tzinfo
from typing import Final

from mirrorlog.errors import BadUse

ALL: Final = -1
"""A rule with this number keeps a point of every period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRules:
    """How many periods of each kind are kept: 0 for none, ALL for all.

    Raise BadUse if no rule keeps anything, or for another negative number.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    def __post_init__(self) -> None:
        counts = [getattr(self, field.name) for field in fields(self)]
        if min(counts) < ALL or not any(counts):
            raise BadUse(
                "these rules keep no point" if not any(counts) else "a rule has a negative number",
                next="Say what is kept, for example --keep-hourly 24 --keep-daily 7.",
            )


@dataclass(frozen=True, slots=True)
class DatedPoint:
    """A point, and its time in microseconds since 1970."""

    point: str
    time_us: int


@dataclass(frozen=True, slots=True)
class KeepDecision:
    """What becomes of a point. reasons: the rules that keep it, for people; none: it is dropped."""

    point: str
    reasons: tuple[str, ...]

    @property
    def is_kept(self) -> bool:
        """Whether the point stays."""
        return bool(self.reasons)


_PERIODS: Final[dict[str, Callable[[datetime], tuple[int, ...]]]] = {
    "hourly": lambda time: (time.year, time.month, time.day, time.hour, time.fold),
    "daily": lambda time: (time.year, time.month, time.day),
    "weekly": lambda time: time.isocalendar()[:2],
    "monthly": lambda time: (time.year, time.month),
    "yearly": lambda time: (time.year,),
}
"""The period in which a time lies. Weeks begin on Monday (ISO 8601)."""


def decide_kept(
    points: Sequence[DatedPoint], rules: KeepRules, zone: tzinfo = UTC
) -> tuple[KeepDecision, ...]:
    """Return what becomes of each point, newest first. zone: where days begin."""
    newest_first = sorted(points, key=lambda point: (point.time_us, point.point), reverse=True)
    reasons: dict[str, list[str]] = {point.point: [] for point in newest_first}
    for point in newest_first if rules.last == ALL else newest_first[: rules.last]:
        reasons[point.point].append("last")
    for rule, period_of in _PERIODS.items():
        for name in _kept_by(newest_first, getattr(rules, rule), period_of, zone):
            reasons[name].append(rule)
    if newest_first and not reasons[newest_first[0].point]:
        reasons[newest_first[0].point].append("newest")
    return tuple(KeepDecision(name, tuple(kept_by)) for name, kept_by in reasons.items())


def _kept_by(
    newest_first: Sequence[DatedPoint],
    count: int,
    period_of: Callable[[datetime], tuple[int, ...]],
    zone: tzinfo,
) -> list[str]:
    """Return the points that a rule keeps."""
    kept: dict[tuple[int, ...], str] = {}
    for point in newest_first:
        time = datetime.fromtimestamp(point.time_us / 1e6, zone)
        kept.setdefault(period_of(time), point.point)
    names = list(kept.values())
    return names if count == ALL else names[:count]
