"""`mirrorlog rejoin`: a former primary follows the new one."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.cli.support.confirming import DryRunOption, YesOption, is_confirmed
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.group_moves import check_whole, splitting_cost, whole_group
from mirrorlog.cli.support.group_rejoins import GroupRejoin, RejoinOptions, open_group
from mirrorlog.cli.support.lookup import find_volume, load_volumes
from mirrorlog.cli.support.mirror_options import at_source
from mirrorlog.cli.support.rejoining import print_rejoined, rejoin_by, rejoined_fields
from mirrorlog.consumers.failover.group_claims import members_elsewhere
from mirrorlog.domain.volumes import Volume

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
    whole: Annotated[
        bool,
        typer.Option(
            "--group",
            help="Let the former primaries of all members of its consistency group follow. "
            "{volume} in --copy, --host and --address stands for the name of each.",
        ),
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

    With --group, all former primaries are locked and checked before one of them changes.

    If this is interrupted, repeat it. Then run the site; it goes on after each interruption.

    With --address, the site writes to the copy through that NBD export. Samples of the copy tell it
    whether the export is the right one. The folder may be carried to the site's machine.
    """
    call = at_source(invocation(context))
    volumes = load_volumes(call.settings)
    volume = find_volume(call.settings, name)
    members = whole_group(volume, volumes.values()) if whole else [volume]
    options = RejoinOptions(copy=copy, host=host, export=address, copies_all=copy_all)
    with ExitStack() as stack:
        group = open_group(
            call, stack, members, site=site, folder=folder, options=options, is_whole=whole
        )
        if not dry_run and not copy_all:
            group.check_known()
        splits = _splits(group, volumes.values(), may_split=force or dry_run)
        cost = " ".join([group.cost() if whole else group.plans[0].cost(), *splits])
        facts = {"volumes": group.fields()} if whole else {}
        kind, of = ("group", str(volume.group)) if whole else ("volume", name)
        if not is_confirmed(call, of, cost, yes=yes, dry_run=dry_run, kind=kind, facts=facts):
            return
        done = [
            (plan, rejoin_by(call, plan, options.for_volume(plan.volume.volume).host))
            for plan in group.plans
        ]
    fields = [rejoined_fields(plan, described) for plan, described in done]
    together = {"schema_version": 1, "group": volume.group, "volumes": fields, **group.others()}
    call.output.print_json(together if whole else fields[0])
    for plan, described in done:
        print_rejoined(call, plan, described)


def _splits(group: GroupRejoin, volumes: Iterable[Volume], *, may_split: bool) -> list[str]:
    """Return what it costs that the group is split between sites, if it is.

    Raise GroupSplit if it is, unless `may_split`.
    """
    costs = []
    for plan in group.plans:
        if others := members_elsewhere(plan.volume, volumes):
            if not may_split:
                check_whole(plan.volume, volumes, plan.address)
            costs.append(f"Its group is split: {splitting_cost(plan.volume, others)}")
    return costs
