"""How long ago the broker took an event, by the time that it gave the message."""

from __future__ import annotations

from typing import Final, Protocol, TypeVar

from mirrorlog.status.health import Health

AGE_UNKNOWN: Final = (
    Health.UNKNOWN,
    "the reports topic holds the times of hosts, so nobody knows how old a report is",
    "Run `mirrorlog topics create`.",
)
"""What is said of a report whose age isn't known: health, reason and what to do."""
Said_co = TypeVar("Said_co", covariant=True)


class Heard(Protocol[Said_co]):
    """An event and the broker's time of its message (reading/present_state.py has one)."""

    @property
    def report(self) -> Said_co:
        """The event."""

    @property
    def appended_at_us(self) -> int | None:
        """Microseconds since 1970; None if the topic holds the times of hosts."""


def age_s(heard: Heard[object], now_us: int) -> float | None:
    """Return the seconds since the broker took the event; None if its time isn't known.

    A clock that is behind the broker's makes it 0.
    """
    at_us = heard.appended_at_us
    return None if at_us is None else max(0.0, (now_us - at_us) / 1e6)
