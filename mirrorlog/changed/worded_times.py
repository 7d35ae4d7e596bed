"""Times in words, for people: `yesterday 18:00`, `10 minutes ago`, `last monday`, `3 nov 2026`.

What points.py doesn't know goes to the library dateparser (BSD-3-Clause), which is imported only
then: it takes 0.2 s. All times are UTC unless they name an offset. dateparser guesses where a text
is ambiguous, and leaves out what it can't use (`yesterday 25:00` becomes `yesterday`): so a text is
refused if a word of it isn't known here, if a number of it isn't used, or if another order of day
and month, or another choice between past and future, means another time.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from mirrorlog.changed.points import AtTime, Point, format_time, parse_point
from mirrorlog.errors import BadUse
from mirrorlog.units import parse_duration_s

EXAMPLES: Final = (
    "Write 2026-11-22T18:30:00Z, '2h ago', 'yesterday 18:00', @1234, barrier:NAME, site:NAME, "
    "origin or now."
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DURATION: Final = re.compile(r"\d+(\.\d+)?\s*[A-Za-z]+")
_LONGEST: Final = 60
_WORDS: Final = frozenset(
    re.findall(
        "[a-z]+",
        """
        yesterday today noon midnight at on of the last ago and a an am pm utc gmt t z st nd rd th
        monday tuesday wednesday thursday friday saturday sunday mon tue wed thu fri sat sun
        january february march april may june july august september october november december
        jan feb mar apr jun jul aug sep sept oct nov dec
        second minute hour day week month year seconds minutes hours days weeks months years
        sec secs min mins hr hrs
        """,
    )
)
_CALENDAR_UNITS: Final = re.compile(r"last\s+(week|month|year)s?")
_DAY_WORD: Final = re.compile(r"\b(yesterday|today)\b")


def understand_point(text: str, now_us: int) -> Point:
    """Return the point that `text` names, as points.parse_point() or as a time in words.

    now_us: the time from which words count. A duration alone, like `1h`, is that long ago.
    Raise BadUse, with examples, if the text names no point, or more than one.
    """
    words = text.strip()
    if _DURATION.fullmatch(words):
        try:
            parse_duration_s(words)
        except BadUse:
            pass
        else:
            return parse_point(f"{words} ago", now_us)
    try:
        return parse_point(words, now_us)
    except BadUse as error:
        if _is_worded(words):
            return AtTime(_worded_time_us(words.lower(), now_us))
        raise BadUse(error.what, next=error.next) from None


def _is_worded(text: str) -> bool:
    """Return whether the text has words, and none besides those that are known here."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    return bool(words) and len(text) <= _LONGEST and text.isascii() and _WORDS.issuperset(words)


def _worded_time_us(text: str, now_us: int) -> int:
    meanings = {
        meaning
        for order in ("DMY", "MDY", "YMD")
        for prefer in ("past", "future")
        for meaning in [_meaning(text, now_us, order, prefer)]
    }
    if None in meanings or _CALENDAR_UNITS.search(text):
        raise BadUse(f"'{text}' is no point in a volume's history", next=EXAMPLES)
    if len(meanings) > 1:
        times = sorted(time for time in meanings if time is not None)
        either = " or ".join(str(format_time(time)) for time in (times[0], times[-1]))
        raise BadUse(f"'{text}' may mean {either}", next=EXAMPLES)
    (only,) = meanings
    assert only is not None
    return only


def _meaning(text: str, now_us: int, order: str, prefer: str) -> int | None:
    """Return the time in microseconds that dateparser reads; None if it doesn't use all of it."""
    from dateparser.date import DateDataParser

    now = _EPOCH + timedelta(microseconds=now_us)
    parser = DateDataParser(
        languages=["en"],
        settings={
            "RELATIVE_BASE": now.replace(tzinfo=None),
            "TIMEZONE": "UTC",
            "RETURN_AS_TIMEZONE_AWARE": True,
            "RETURN_TIME_AS_PERIOD": True,
            "DATE_ORDER": order,
            "PREFER_DATES_FROM": prefer,
        },
    )
    read = parser.get_date_data(text)
    time = read.date_obj
    if time is None:
        return None
    if _DAY_WORD.search(text) and read.period != "time":
        if re.search(r"\d|noon|midnight", text):
            return None  # a time of the day that dateparser left out
        time = time.replace(hour=0, minute=0, second=0, microsecond=0)
    time_us: int = (time - _EPOCH) // timedelta(microseconds=1)
    return time_us
