"""`mirrorlog rejoin`: a former primary follows the new one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.cli.support.confirming import DryRunOption, YesOption, is_confirmed
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.group_moves import check_whole, splitting_cost
from mirrorlog.cli.support.lookup import load_volumes
from mirrorlog.cli.support.mirror_options import at_source
from mirrorlog.cli.support.rejoining import open_plan, print_rejoined, rejoin_by
from mirrorlog.consumers.failover.group_claims import members_elsewhere

app = typer.Typer()


@app.command()
def rejoin(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    site: Annotated[
        str,
        typer.Option("--site", metavar="SITE", help="The site that keeps it from now on."),
    ],
    folder: Annotated[Path, typer.Option("--dir", help="The site's folder.")],
    copy: Annotated[
        str | None,
        typer.Option(
            metavar="URI", help="The former primary, if it isn't at the address that it had."
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option("--host", help="The host that wrote to it, if that isn't host-VOLUME."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="The NBD export by which the site reaches the former primary, which is served "
            "here.",
        ),
    ] = None,
    copy_all: Annotated[
        bool,
        typer.Option("--all", help="Copy everything, and not only what both sides wrote."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Do it although its consistency group is split."),
    ] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Let a former primary follow the new one. Run it on the former primary's machine.

    Its site then copies exactly the blocks that either side wrote since the two copies parted. What
    was written to it alone is lost: `mirrorlog divergence` lists it.

    A member of a consistency group waits until all members were promoted at one site: before that,
    this copy may be the only one that is of one moment with the other primaries. --force gives that
    up.

    1. The former primary is locked: no host writes to it any more.
    2. What its host left unpublished is published, so that the log names all that it wrote.
    3. The description names the copy as the site's secondary.
    4. The copy gets the mark of a secondary, and the site a state of it. Then it loses the mark of
       a primary.

    If this is interrupted, repeat it. Then run the site; it goes on after each interruption.

    With --address, the site writes to the copy through that NBD export. Samples of the copy tell it
    whether the export is the right one. The folder may be carried to the site's machine.
    """
    call = at_source(invocation(context))
    with open_plan(
        call,
        name,
        site=site,
        folder=folder,
        copy=copy,
        copies_all=copy_all,
        host=host,
        export=address,
    ) as plan:
        if plan.needs_all and not copy_all and not dry_run:
            raise plan.unknown_error()
        volumes = load_volumes(call.settings).values()
        if not force and not dry_run:
            check_whole(plan.volume, volumes, plan.address)
        cost = plan.cost()
        if others := members_elsewhere(plan.volume, volumes):
            cost += f" Its group is split: {splitting_cost(plan.volume, others)}"
        if not is_confirmed(call, name, cost, yes=yes, dry_run=dry_run):
            return
        volume = rejoin_by(call, plan, host)
    print_rejoined(call, plan, volume)
