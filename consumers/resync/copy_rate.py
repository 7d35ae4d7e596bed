"""How fast a site may copy: rates by the time of day, and a token bucket (pure)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mirrorlog.errors import BadUse
from mirrorlog.units import parse_size

MINUTES: Final = 24 * 60
"""Minutes of a day."""
UNLIMITED: Final = "max"
ADAPTIVE: Final = "auto"
_ELSE: Final = "else"
_PERIOD: Final = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-4]):([0-5]\d)")
_EXAMPLES: Final = (
    "Write a rate like 50MB/s, max, auto or auto:50MB/s, or 08:00-18:00=auto,else=max."
)
_BURST_S: Final = 0.25
"""A bucket that was idle lets the bytes of this time pass at once."""
_SHORTEST_S: Final = 1e-9
"""A shorter wait is none: a clock's number may not show it."""


@dataclass(frozen=True, slots=True)
class CopyRate:
    """A rate. limit_bytes_s: None for no limit. is_adaptive: it yields to the primary's load, too
    (copy_yield.py)."""

    limit_bytes_s: int | None = None
    is_adaptive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePeriod:
    """A part of each day, [begin_minute, end_minute), over midnight if it ends before it begins."""

    begin_minute: int
    end_minute: int
    rate: CopyRate

    def holds_at(self, minute: int) -> bool:
        """Return whether the minute of the day, from 0 to MINUTES - 1, lies in the period."""
        if self.begin_minute < self.end_minute:
            return self.begin_minute <= minute < self.end_minute
        return minute >= self.begin_minute or minute < self.end_minute


@dataclass(frozen=True, slots=True)
class RateSchedule:
    """The rates of a day. No two periods overlap. otherwise: the rate outside of them."""

    periods: tuple[RatePeriod, ...] = ()
    otherwise: CopyRate = CopyRate()

    @property
    def is_unlimited(self) -> bool:
        """Return whether there is no limit at any time."""
        return all(rate == CopyRate() for rate in self._rates())

    @property
    def is_adaptive(self) -> bool:
        """Return whether a rate of it yields to the primary's load."""
        return any(rate.is_adaptive for rate in self._rates())

    def rate_at(self, minute: int) -> CopyRate:
        """Return the rate at a minute of the day."""
        for period in self.periods:
            if period.holds_at(minute):
                return period.rate
        return self.otherwise

    def _rates(self) -> list[CopyRate]:
        return [self.otherwise, *(period.rate for period in self.periods)]


def parse_rates(text: str) -> RateSchedule:
    """Return the schedule that the text describes. Raise BadUse if it describes none.

    The text is a rate: `50MB/s`, `50MB`, `max`, `auto`, or `auto:50MB/s`, which is the lower one of
    both. Or it is a list of `HH:MM-HH:MM=RATE` and at most one `else=RATE`, with commas between.
    Without `else` there is no limit outside of the periods.
    """
    if "=" not in text:
        return RateSchedule((), _parse_rate(text))
    periods: list[RatePeriod] = []
    otherwise: list[CopyRate] = []
    for part in text.split(","):
        name, equals, rate = part.strip().partition("=")
        if not equals:
            raise BadUse(f"'{part.strip()}' isn't a period with a rate", next=_EXAMPLES)
        if name.strip() == _ELSE:
            otherwise.append(_parse_rate(rate))
        else:
            periods.append(_parse_period(name.strip(), _parse_rate(rate)))
    if len(otherwise) > 1:
        raise BadUse(f"'{text}' says 'else' more than once", next=_EXAMPLES)
    _check_overlaps(text, periods)
    return RateSchedule(tuple(periods), otherwise[0] if otherwise else CopyRate())


def _parse_rate(text: str) -> CopyRate:
    text = text.strip()
    if text == UNLIMITED:
        return CopyRate()
    name, colon, limit = text.partition(":")
    if name == ADAPTIVE:
        return CopyRate(_parse_limit(limit) if colon else None, is_adaptive=True)
    return CopyRate(_parse_limit(text))


def _parse_limit(text: str) -> int:
    rate_bytes_s = parse_size(text.removesuffix("/s"))
    if rate_bytes_s < 1:
        raise BadUse(
            f"a site can't copy at {text}",
            next="Give a rate above 0, or stop the copying with `mirrorlog site pause`.",
        )
    return rate_bytes_s


def _parse_period(text: str, rate: CopyRate) -> RatePeriod:
    match = _PERIOD.fullmatch(text)
    if match is None:
        raise BadUse(f"'{text}' isn't a time of the day", next=_EXAMPLES)
    hours = [int(number) for number in match.groups()]
    begin, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    if begin == end or end > MINUTES:
        raise BadUse(f"the period '{text}' has no minute, or ends after 24:00", next=_EXAMPLES)
    return RatePeriod(begin_minute=begin, end_minute=end, rate=rate)


def _check_overlaps(text: str, periods: Sequence[RatePeriod]) -> None:
    for minute in range(MINUTES):
        if sum(period.holds_at(minute) for period in periods) > 1:
            raise BadUse(
                f"'{text}' has two rates at {minute // 60:02}:{minute % 60:02}", next=_EXAMPLES
            )


class TokenBucket:
    """Says how long to wait so that a rate is kept on average.

    In any span of t seconds with the rate r, less than r * (t + 0.25) bytes are taken, and one
    request more, because a request is taken whole.
    """

    def __init__(self) -> None:
        self._tokens = 0.0
        self._at_s: float | None = None

    def wait_s(self, now_s: float, rate_bytes_s: int | None) -> float:
        """Return the seconds until the next request may be taken, if the rate stays the same.

        now_s: of the monotonic clock. rate_bytes_s: since the last call; None for no limit.
        """
        if rate_bytes_s is None:
            self._tokens, self._at_s = 0.0, now_s
            return 0.0
        elapsed_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        self._at_s = now_s
        self._tokens = min(self._tokens + elapsed_s * rate_bytes_s, _BURST_S * rate_bytes_s)
        rest_s = -self._tokens / rate_bytes_s
        return rest_s if rest_s >= _SHORTEST_S else 0.0

    def take(self, size_bytes: int) -> None:
        """Take a request. Call it when wait_s() has returned 0."""
        self._tokens -= size_bytes
