"""`mirrorlog backup drop`: remove single points of a volume, also damaged ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from mirrorlog.cli.support.backup_options import LockWaitOption
from mirrorlog.cli.support.confirming import DryRunOption, YesOption, is_confirmed
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.repository_points import FromRepositoryOption
from mirrorlog.consumers.backup.repository.drop import drop_points, is_prunable, plan_drop
from mirrorlog.consumers.backup.repository.opening import open_repository
from mirrorlog.consumers.backup.repository.prune import prune_volume
from mirrorlog.consumers.backup.repository.repository_writer import RepositoryWriter, open_writer
from mirrorlog.units import format_count, is_or_are, parse_duration_s

app = typer.Typer()


@app.command()
def drop(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    points: Annotated[list[str], typer.Argument(metavar="POINT...")],
    repo: FromRepositoryOption,
    with_dependents: Annotated[
        bool,
        typer.Option(
            "--with-dependents", help="Remove the points that stand on them, too: all of them."
        ),
    ] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    lock_wait: LockWaitOption = "0s",
) -> None:
    """Remove single points of a volume for good, also those whose manifest can't be read.

    The points that stand on a sound one stay as they are, byte for byte. Nothing can be kept of
    what stands on a damaged one: it goes along with --with-dependents.
    """
    call = invocation(context)
    wanted = set(points)
    with (
        open_repository(call.settings, repo, lock_wait_s=parse_duration_s(lock_wait)) as repository,
        open_writer(repository, f"drop of points of {name}") as writer,
    ):
        catalog = repository.catalog(name)
        is_merging = not with_dependents and is_prunable(catalog, wanted)
        order = (
            sorted(wanted)
            if is_merging
            else plan_drop(catalog, wanted, with_dependents=with_dependents)
        )
        points_text = f"{format_count(len(order), 'point')} of {name} {is_or_are(len(order))}"
        cost = f"{points_text} removed for good: {', '.join(order)}."
        facts = {"removed": order}
        if is_confirmed(call, name, cost, yes=yes, dry_run=dry_run, facts=facts):
            _remove(writer, name, order, is_merging=is_merging)
            _print(call, name, order)


def _remove(
    writer: RepositoryWriter, volume: str, order: Sequence[str], *, is_merging: bool
) -> None:
    if is_merging:
        prune_volume(writer, volume, set(order))
    else:
        drop_points(writer, volume, order)


def _print(call: Invocation, volume: str, order: Sequence[str]) -> None:
    call.output.print_json({"schema_version": 1, "volume": volume, "removed": list(order)})
    call.output.print_text(f"{volume}: removed {', '.join(order)}")
