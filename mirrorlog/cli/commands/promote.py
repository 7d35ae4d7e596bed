"""`mirrorlog promote`: the secondary of a site becomes the primary."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.cli.support.confirming import DryRunOption, YesOption, is_confirmed
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.group_moves import whole_group
from mirrorlog.cli.support.group_promotions import (
    HeldPlan,
    carry_out,
    check_address,
    hold_and_plan,
)
from mirrorlog.cli.support.lookup import find_volume, load_volumes
from mirrorlog.cli.support.mirror_options import at_source
from mirrorlog.cli.support.promoting import (
    AddressOption,
    NotConsistent,
    assess,
    assess_group,
    claim_fields,
    finish_promotion,
    group_in_words,
    promotion_cost,
    publish_promotion,
    published_address,
)
from mirrorlog.cli.support.site_addresses import SecondaryOption, with_addresses
from mirrorlog.consumers.failover.held_secondary import hold_secondary
from mirrorlog.domain.site_progress import check_site_name
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.units import parse_duration_s

app = typer.Typer()
SiteOption = Annotated[str, typer.Option("--site", metavar="SITE", help="The site's name.")]
FolderOption = Annotated[Path, typer.Option("--dir", help="The site's folder.")]


@app.command()
def promote(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    site: SiteOption,
    folder: FolderOption,
    secondary: SecondaryOption = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Promote it although it equals the primary at no position."),
    ] = False,
    address: AddressOption = None,
    whole: Annotated[
        bool,
        typer.Option(
            "--group",
            help="Promote all members of its consistency group. {volume} in an address stands for "
            "the name of each.",
        ),
    ] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    timeout: Annotated[str, typer.Option(help="Wait this long for site, log and node.")] = "30s",
) -> None:
    """Make the secondary of a site the primary. Run it there, where the secondary is.

    The old primary isn't asked: it may be lost. Its host is fenced: it lets no write begin any more
    as soon as it reads of the promotion, and what it wrote by then is listed by `divergence`.

    1. The site lets go of the secondary: it is paused, and this process takes the lock.
    2. The log is read through the last command. It says what the secondary lacks. If the
       secondary isn't consistent, or its consistency group is at no common point here, this ends
       here, unless --force is given.
    3. The promotion is published. Of two at once, the node records exactly one.
    4. The secondary gets the mark of a primary, and loses that of a secondary.
    5. This machine's host opens it once, so that its activity log covers the volume from now on.
    6. The lock and the pause end. The site keeps off the volume.

    With --group, all members are held and checked before one of them is promoted: they must be at
    one common point, unless --force is given.

    If this dies before step 3, the site stays paused: repeat it, or resume the site. If it dies
    later, or no node answers, repeat it: it goes on with step 4. Until then the site stays paused,
    and no host opens the new primary.

    At a site that reads a mirror, --dry-run says what the mirror proves. To promote, name the
    servers of the source: the promotion is a command in its log.
    """
    call = with_addresses(invocation(context), check_site_name(site), folder, [], secondary or [])
    call = at_source(call, or_mirror=dry_run)
    volume = find_volume(call.settings, name, may_be_mirror=dry_run)
    if volume.is_retired:
        raise BadUse("the volume is retired", where=f"volume {name}", next="Create a new one.")
    timeout_s = parse_duration_s(timeout)
    if whole:
        members = whole_group(volume, load_volumes(call.settings, may_be_mirror=dry_run).values())
        check_address(members, address)
        with ExitStack() as stack:
            held_all = hold_and_plan(call, stack, members, site, folder.absolute(), timeout_s)
            if _is_group_confirmed(call, volume, held_all, force=force, yes=yes, dry_run=dry_run):
                done = carry_out(call, held_all, address=address, timeout_s=timeout_s)
                together = {"schema_version": 1, "group": volume.group, "volumes": done}
                call.output.print_json(together)
        return
    with hold_secondary(
        site, folder.absolute(), volume, call.settings, patience_s=timeout_s
    ) as held:  # 1
        if volume.primary_site == site:
            call.output.print_json(finish_promotion(call, volume, held, lost=None, is_again=True))
            return
        claim, lost = assess(call, volume, site, held, timeout_s)  # 2
        others, doubt = assess_group(call, volume, site, folder, held, may_be_mirror=dry_run)
        cost = promotion_cost(volume, site, held, claim, lost) + group_in_words(others, doubt)
        if claim.consistent_position is None and not force and not dry_run:
            raise NotConsistent(
                f"the secondary isn't consistent: {claim.reason}",
                where=f"volume {name} at {site}, {held.address}",
                next="If the primary lives, wait: `mirrorlog site wait`. If it is lost: --force. "
                + cost,
            )
        if doubt is not None and not force and not dry_run:
            raise NotConsistent(
                f"its consistency group {volume.group} isn't consistent here: {doubt}",
                where=f"volume {name} at {site}, {held.address}",
                next="If the primaries live, wait until the site reports a common point. If they "
                f"are lost: --force. {cost}",
            )
        claimed = claim_fields(site, held, claim, lost)
        if not is_confirmed(call, name, cost, yes=yes, dry_run=dry_run, facts=claimed):
            return
        volume = publish_promotion(
            call.settings,
            volume,
            site=site,
            address=published_address(held.address, address),
            claim=claim,
            timeout_s=timeout_s,
            held=[held],
        )  # 3
        call.output.print_json(finish_promotion(call, volume, held, lost=lost, is_again=False))


def _is_group_confirmed(
    call: Invocation, volume: Volume, held: HeldPlan, *, force: bool, yes: bool, dry_run: bool
) -> bool:
    """Return whether to go on with the promotion of a group. Raise NotConsistent without force."""
    refusals, costs = held.plan.refusals(), " ".join([*held.costs(), held.moment()])
    if refusals and not force and not dry_run:
        raise NotConsistent(
            f"group {volume.group} isn't consistent here: {'; '.join(refusals)}",
            where=f"{', '.join(held.names)} at {held.plan.site}",
            next="If the primaries live, wait until the site reports a common point. If they are "
            f"lost: --force. {costs}",
        )
    facts = {
        "site": held.plan.site,
        "is_whole": not refusals,
        "reason": "; ".join(refusals) or None,
        "volumes": held.fields(),
    }
    group = str(volume.group)
    return is_confirmed(call, group, costs, yes=yes, dry_run=dry_run, kind="group", facts=facts)
