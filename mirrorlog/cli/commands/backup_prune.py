"""`mirrorlog backup prune`: remove the points of a volume that no rule keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from mirrorlog.cli.support.backup_options import LockWaitOption
from mirrorlog.cli.support.confirming import DryRunOption
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.keep_options import (
    KeepDailyOption,
    KeepHourlyOption,
    KeepLastOption,
    KeepMonthlyOption,
    KeepWeeklyOption,
    KeepYearlyOption,
    keep_rules,
)
from mirrorlog.cli.support.repository_points import FromRepositoryOption, no_points
from mirrorlog.cli.support.tables import Column, print_table
from mirrorlog.consumers.backup.repository.keep import KeepDecision
from mirrorlog.consumers.backup.repository.opening import open_repository
from mirrorlog.consumers.backup.repository.prune import PruneReport
from mirrorlog.consumers.backup.repository.prune_by_rules import decide_points, prune_by_rules
from mirrorlog.errors import BadUse
from mirrorlog.units import format_count, parse_duration_s

app = typer.Typer()

_COLUMNS = (Column("POINT"), Column("KEPT BY", wraps=True))


@app.command()
def prune(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    repo: FromRepositoryOption,
    keep_last: KeepLastOption = 0,
    keep_hourly: KeepHourlyOption = 0,
    keep_daily: KeepDailyOption = 0,
    keep_weekly: KeepWeeklyOption = 0,
    keep_monthly: KeepMonthlyOption = 0,
    keep_yearly: KeepYearlyOption = 0,
    dry_run: DryRunOption = False,
    lock_wait: LockWaitOption = "0s",
) -> None:
    """Remove the points of a volume that no --keep option keeps.

    A point is kept if any option keeps it; the newest one is always kept. All kept points stay as
    they are, byte for byte, also if the prune is killed: the next one goes on. Days begin in UTC.
    """
    call = invocation(context)
    rules = keep_rules(
        last=keep_last,
        hourly=keep_hourly,
        daily=keep_daily,
        weekly=keep_weekly,
        monthly=keep_monthly,
        yearly=keep_yearly,
    )
    if rules is None:
        raise BadUse(
            "these rules keep no point",
            next="Say what is kept, for example --keep-hourly 24 --keep-daily 7.",
        )
    with open_repository(
        call.settings, repo, lock_wait_s=parse_duration_s(lock_wait)
    ) as repository:
        catalog = repository.catalog(name)
        if not catalog.points:
            raise no_points(name, repository.store.where)
        decisions = decide_points(catalog, rules)
        report = PruneReport() if dry_run else prune_by_rules(repository, name, rules)
    _print(call, name, decisions, report, dry_run=dry_run)


def _print(
    call: Invocation,
    name: str,
    decisions: Sequence[KeepDecision],
    report: PruneReport,
    *,
    dry_run: bool,
) -> None:
    call.output.print_json(
        {
            "schema_version": 1,
            "volume": name,
            "dry_run": dry_run,
            "points": [
                {"point": one.point, "is_kept": one.is_kept, "kept_by": list(one.reasons)}
                for one in decisions
            ],
            "removed": report.removed,
            "merged": report.merged,
            "hidden": report.hidden,
            "damaged": report.damaged,
        }
    )
    rows = [(one.point, ", ".join(one.reasons) or "REMOVED") for one in decisions]
    print_table(call.output, _COLUMNS, rows)
    if dry_run:
        call.output.print_text("nothing was removed (--dry-run)")
        return
    text = f"removed {format_count(len(report.removed), 'image')} and merged {len(report.merged)}"
    if report.hidden:
        kept = format_count(len(report.hidden), "image")
        text += f"; kept {kept} of removed points, on which others stand"
    call.output.print_text(text)
    for text in report.damaged:
        call.output.print_note(f"warning: {text}")
