"""When a verification that is repeated runs next: pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from mirrorlog.errors import BadUse
from mirrorlog.units import parse_duration_s

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME: Final = re.compile(rf"(?:({'|'.join(_DAYS)}) )?([01]?\d|2[0-3]):([0-5]\d)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class VerifySchedule:
    """Either a time of the day, on each day or on one weekday, or a pause between two runs.

    weekday: 0 for Monday; None for each day. minute: of the day. pause_s: from the beginning of a
    run to the beginning of the next one; the next one begins at once if the run took longer.
    """

    weekday: int | None = None
    minute: int = 0
    pause_s: float | None = None

    def next_run(self, now: datetime, last_run: datetime | None) -> datetime:
        """Return when the next run begins, in the time zone of `now`; `now` if it is due.

        last_run: when the last one began; None before the first.
        """
        if self.pause_s is not None:
            return now if last_run is None else last_run + timedelta(seconds=self.pause_s)
        hour, minute = divmod(self.minute, 60)
        due = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
        while due < now or (self.weekday is not None and due.weekday() != self.weekday):
            due += timedelta(days=1)
        return due


def parse_schedule(text: str) -> VerifySchedule:
    """Parse `03:00`, `sun 03:00` or `12h`. Raise BadUse if it is none of these."""
    match = _TIME.fullmatch(text.strip())
    if match is not None:
        day, hour, minute = match.groups()
        weekday = None if day is None else _DAYS.index(day.lower())
        return VerifySchedule(weekday, int(hour) * 60 + int(minute))
    try:
        pause_s = parse_duration_s(text)
    except BadUse:
        pause_s = 0.0
    if pause_s <= 0:
        raise BadUse(
            f"'{text[:40]}' isn't a schedule",
            next="Write a local time (03:00), a weekday and a time (sun 03:00), or a pause (12h).",
        )
    return VerifySchedule(pause_s=pause_s)
