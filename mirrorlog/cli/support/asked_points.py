"""The options --since and --until of questions to a volume's history, and their points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

import typer

from mirrorlog.changed.points import AtTime, Point, format_time
from mirrorlog.changed.worded_times import understand_point
from mirrorlog.ports.clock import SystemClock

SinceOption = Annotated[
    str,
    typer.Option(
        "--since",
        help="Start after this point: a time (ISO 8601, in UTC unless it names a zone, "
        "'2h ago', 'yesterday 18:00'), @POSITION, barrier:NAME, site:NAME, origin or now.",
    ),
]
UntilOption = Annotated[
    str, typer.Option("--until", help="End at this point, which is written as for --since.")
]


@dataclass(frozen=True, slots=True)
class AskedPoints:
    """The points of a question, each with its text."""

    since_text: str
    until_text: str
    since: Point
    until: Point

    @classmethod
    def of(cls, since: str, until: str) -> Self:
        """Return the points that the texts name, as of now. Raise BadUse if one names none."""
        now_us = SystemClock().now_us()
        return cls(since, until, understand_point(since, now_us), understand_point(until, now_us))

    @property
    def times(self) -> dict[str, str]:
        """The points that are times, by their option's name, in UTC."""
        points = {"since": self.since, "until": self.until}
        return {
            name: time
            for name, point in points.items()
            if isinstance(point, AtTime) and (time := format_time(point.at_us))
        }

    @property
    def times_in_words(self) -> str:
        """The same for people; empty if no point is a time."""
        return ", ".join(f"{name} {time}" for name, time in self.times.items())

    def as_fields(self, *, after: int, through: int) -> dict[str, Any]:
        """Return what --json says of the points and their positions."""
        times = self.times
        return {
            "since": {"asked": self.since_text, "at": times.get("since"), "position": after},
            "until": {"asked": self.until_text, "at": times.get("until"), "position": through},
        }
