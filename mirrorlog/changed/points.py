"""Points in a volume's history, as people and programs write them. worded_times.py has more words.

2h ago, 30min ago           a time, that long before now by the clock of whoever parses it
2026-11-22T18:30:00Z        a time, ISO 8601 (RFC 3339); UTC unless it names a zone; a date alone is
                            its midnight
@1234, 1234                 a log position: the commands through it lie before the point
barrier:NAME                the newest BARRIER command of that name
site:NAME                   what the site has applied
origin, now                 where the log of the volume begins, and its end
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, TypeAlias

from mirrorlog.domain.extents import MAX_BYTE
from mirrorlog.errors import BadUse
from mirrorlog.units import parse_duration_s

_POSITION: Final = re.compile(r"@?([0-9]{1,19}|-1)")
_AGO: Final = re.compile(r"(.*\S)\s+ago")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HOW_TO_WRITE: Final = (
    "Write 2026-11-22T18:30:00Z, '2h ago', @1234, barrier:NAME, site:NAME, origin or now."
)


@dataclass(frozen=True, slots=True)
class AtTime:
    """A time. at_us: microseconds since 1970, UTC."""

    at_us: int


@dataclass(frozen=True, slots=True)
class AtPosition:
    """A log position of the volume's partition; -1 is the one before the first."""

    position: int


@dataclass(frozen=True, slots=True)
class AtBarrier:
    """The newest BARRIER command of the volume with that name."""

    name: str


@dataclass(frozen=True, slots=True)
class AtSite:
    """The position that the site has applied."""

    site: str


@dataclass(frozen=True, slots=True)
class AtOrigin:
    """The point where the log of the volume begins."""


@dataclass(frozen=True, slots=True)
class AtEnd:
    """The end of the commands at the time of the question."""


Point: TypeAlias = AtTime | AtPosition | AtBarrier | AtSite | AtOrigin | AtEnd


class AnsweringClock(StrEnum):
    """The clock by which a question's times are understood."""

    BROKER = "broker"  # when the broker took the commands
    OWN = "own"  # the writes' own times: a recording was imported into the volume


@dataclass(frozen=True, slots=True)
class AskedTimes:
    """The times that a question named, in microseconds since 1970, UTC.

    since_us, until_us: None for a point that isn't a time. volume_began_us: when the volume was
    created, or its recorded history begins, if the question reached back further: the answer begins
    there. None otherwise. clock: by which the times were understood; None if no point is a time.
    """

    since_us: int | None = None
    until_us: int | None = None
    volume_began_us: int | None = None
    clock: AnsweringClock | None = None


NO_TIMES: Final = AskedTimes()
"""Of a question whose points are no times."""


def parse_point(text: str, now_us: int) -> Point:
    """Return the point that `text` names. Raise BadUse if it names none.

    now_us: the time from which "ago" counts back.
    """
    words = text.strip()
    if words in ("origin", "now"):
        return AtOrigin() if words == "origin" else AtEnd()
    kind, colon, name = words.partition(":")
    if colon and kind in ("barrier", "site"):
        if not name:
            raise BadUse(f"'{words}' names no {kind}", next=f"Write {kind}:NAME.")
        return AtBarrier(name) if kind == "barrier" else AtSite(name)
    if match := _POSITION.fullmatch(words):
        return AtPosition(_checked(int(match.group(1)), words))
    if match := _AGO.fullmatch(words):
        ago_s = parse_duration_s(match.group(1))
        return AtTime(now_us - round(ago_s * 1e6) if ago_s < now_us / 1e6 else 0)
    return AtTime(_time_us(words))


def _checked(position: int, text: str) -> int:
    if position > MAX_BYTE:
        raise BadUse(f"'{text}' can't be a log position: they end at 2^63 - 1")
    return position


def _time_us(text: str) -> int:
    try:
        time = datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise BadUse(
            f"'{text[:60]}' is no point in a volume's history", next=_HOW_TO_WRITE
        ) from error
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (time - _EPOCH) // timedelta(microseconds=1)


def format_time(at_us: int) -> str | None:
    """Return the time by RFC 3339, in UTC, with microseconds.

    Return None for a time that a host's clock may show and no calendar has.
    """
    try:
        return (_EPOCH + timedelta(microseconds=at_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except OverflowError:
        return None
