"""The options that say which points of a backup are kept."""

from __future__ import annotations

from typing import Annotated

import typer

from mirrorlog.consumers.backup.repository.keep import KeepRules

_ALL = "-1 for all"

KeepLastOption = Annotated[
    int, typer.Option("--keep-last", metavar="N", help=f"Keep the last N points; {_ALL}.")
]
KeepHourlyOption = Annotated[
    int,
    typer.Option(
        "--keep-hourly", metavar="N", help=f"Keep the last point of each of N hours; {_ALL}."
    ),
]
KeepDailyOption = Annotated[
    int,
    typer.Option(
        "--keep-daily", metavar="N", help=f"Keep the last point of each of N days; {_ALL}."
    ),
]
KeepWeeklyOption = Annotated[
    int,
    typer.Option(
        "--keep-weekly", metavar="N", help=f"Keep the last point of each of N weeks; {_ALL}."
    ),
]
KeepMonthlyOption = Annotated[
    int,
    typer.Option(
        "--keep-monthly", metavar="N", help=f"Keep the last point of each of N months; {_ALL}."
    ),
]
KeepYearlyOption = Annotated[
    int,
    typer.Option(
        "--keep-yearly", metavar="N", help=f"Keep the last point of each of N years; {_ALL}."
    ),
]


def keep_rules(
    *, last: int, hourly: int, daily: int, weekly: int, monthly: int, yearly: int
) -> KeepRules | None:
    """Return the rules of the options; None if none is given. Raise BadUse as KeepRules."""
    if not any((last, hourly, daily, weekly, monthly, yearly)):
        return None
    return KeepRules(
        last=last, hourly=hourly, daily=daily, weekly=weekly, monthly=monthly, yearly=yearly
    )
