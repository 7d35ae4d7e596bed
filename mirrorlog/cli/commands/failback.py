"""`mirrorlog failback`: a site's secondary becomes the primary in the planned order."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.adapters.addresses import open_primary
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.cli.support.confirming import DryRunOption, YesOption, is_confirmed
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.group_moves import members_to_move, parting_cost
from mirrorlog.cli.support.group_promotions import (
    carry_out,
    check_address,
    check_nothing_lost,
    hold_and_plan,
)
from mirrorlog.cli.support.lookup import find_volume, load_volumes
from mirrorlog.cli.support.mirror_options import at_source
from mirrorlog.cli.support.moving import check_sessions
from mirrorlog.cli.support.promoting import AddressOption
from mirrorlog.cli.support.rejoining import (
    HostNotRecovered,
    has_leftovers,
    is_following,
    open_plan,
    rejoin_by,
)
from mirrorlog.cli.support.site_addresses import SecondaryOption, with_addresses
from mirrorlog.cli.support.waiting import wait_until_site_proves
from mirrorlog.consumers.failover.group_claims import other_members
from mirrorlog.domain.site_progress import check_site_name
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.producers.wiring import default_host_name
from mirrorlog.units import parse_duration_s

app = typer.Typer()


@app.command()
def failback(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    site: Annotated[
        str, typer.Option("--site", metavar="SITE", help="Its secondary becomes the primary.")
    ],
    folder: Annotated[Path, typer.Option("--dir", help="The site's folder.")],
    secondary: SecondaryOption = None,
    former_site: Annotated[
        str | None,
        typer.Option(metavar="SITE", help="The site that keeps the former primary from now on."),
    ] = None,
    former_folder: Annotated[
        Path | None,
        typer.Option(
            "--former-dir",
            help="Its folder. Give it if the former primary is on this machine, too: it rejoins.",
        ),
    ] = None,
    address: AddressOption = None,
    whole: Annotated[
        bool,
        typer.Option(
            "--group",
            help="Move all members of its consistency group. {volume} in an address stands for the "
            "name of each.",
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Move it although the other members of its group stay."),
    ] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    timeout: Annotated[str, typer.Option(help="Wait this long for the site.")] = "5min",
) -> None:
    """Make a site's secondary the primary in the planned order, without loss.

    Run it where the secondary is. It brings a volume back after a failover, and moves it to a site
    while all is well. A member of a consistency group moves with --group, or after the others: each
    step below is then done for all members before the next one begins.

    1. Stop: no host may have the volume open. End it first; this checks it.
    2. Drain: the site, which runs, proves that its secondary equals the primary as of the last
       command.
    3. Promote: as `promote`, but only if nothing is lost. A host that came meanwhile ends this.
    4. Follow: the former primary rejoins as the secondary of its site. If it is on another machine,
       `mirrorlog rejoin` there does this step.
    """
    call = at_source(invocation(context))
    call = with_addresses(call, check_site_name(site), folder, [], secondary or [])
    volume, timeout_s = find_volume(call.settings, name), parse_duration_s(timeout)
    volumes = load_volumes(call.settings).values()
    moved = members_to_move(volume, volumes, site, whole=whole, may_part=force or dry_run)
    check_address(moved, address)
    if former_folder is not None:
        _check_former_sites(moved, site, former_site)
    _check_stopped(call, moved, site, is_former_here=former_folder is not None)  # 1
    left = [member for member in other_members(volume, volumes, site) if member not in moved]
    cost = " ".join(filter(None, [*_costs(moved, site), parting_cost(volume, left, site)]))
    if not is_confirmed(call, name, cost, yes=yes, dry_run=dry_run):
        return
    for member in moved:
        if member.primary_site != site:
            wait_until_site_proves(call.settings, member.volume, site, timeout_s)  # 2
    done = _promote(call, moved, site, folder.absolute(), timeout_s, address)  # 3
    together = {"schema_version": 1, "group": volume.group, "volumes": done}
    call.output.print_json(together if whole else done[0])
    if former_folder is not None:
        for member in moved:
            _follow(call, member, site, former_site, former_folder)  # 4


def _costs(moved: Sequence[Volume], site: str) -> list[str]:
    return [
        f"The secondary of site {site} is then the primary of volume {member.volume}, and "
        f"{member.primary} follows it. Nothing is lost."
        for member in moved
        if member.primary_site != site
    ]


def _check_stopped(
    call: Invocation, moved: Sequence[Volume], site: str, *, is_former_here: bool
) -> None:
    """Raise BadUse if a host has a volume open, and HostNotRecovered as _check_settled().

    A member whose primary is at the site already isn't asked: it is promoted no more.
    """
    for member in moved:
        if member.primary_site != site:
            check_sessions(call.settings, member, ())
            if is_former_here:
                _check_settled(call, member)


def _site_of_former(volume: Volume, site: str, former_site: str | None) -> str | None:
    """Return the site that keeps the former primary; None if nobody knows.

    site: the one to which the volume moves. former_site: as the user named it.
    """
    if former_site is not None or volume.primary_site != site:
        return former_site or volume.primary_site
    return volume.promotions[-1].former_site if volume.promotions else None


def _check_former_sites(moved: Sequence[Volume], site: str, former_site: str | None) -> None:
    """Raise BadUse if it isn't known which site keeps a former primary."""
    for member in moved:
        if _site_of_former(member, site, former_site) is None:
            raise BadUse(
                "the former primary is that of no site yet",
                where=f"volume {member.volume}",
                next="Say with --former-site which site keeps it from now on.",
            )


def _follow(
    call: Invocation, volume: Volume, site: str, former_site: str | None, folder: Path
) -> None:
    """Let the former primary of a volume rejoin as the secondary of its site.

    volume: as it was described before step 3. A former primary that follows already is left as it
    is. Of one that an earlier run promoted, its host's leftovers are looked for again.
    """
    keeper = _site_of_former(volume, site, former_site) or ""
    was_promoted = volume.primary_site == site
    if was_promoted and is_following(call, volume, keeper, folder):
        return
    with open_plan(call, volume.volume, site=keeper, folder=folder) as plan:
        if plan.needs_all:
            raise plan.unknown_error()
        rejoin_by(call, plan, None, is_published=not was_promoted)
    call.output.print_text(
        f"{plan.address} follows as the secondary of site {keeper}: "
        f"`mirrorlog site run {keeper} --dir {folder}`"
    )


def _check_settled(call: Invocation, volume: Volume) -> None:
    """Raise HostNotRecovered or BadUse unless the primary's host has left nothing unpublished."""
    marks = PrimaryMarkFiles(call.settings.primary_marks_dir)
    with open_primary(volume.primary, exclusive=True) as device:
        mark = marks.read(device)
    host = default_host_name(volume.volume)
    if mark is None or has_leftovers(call, volume, mark, host):
        raise HostNotRecovered(
            "the host of the primary may have left writes unpublished",
            where=f"volume {volume.volume}, host {host}",
            next=f"`mirrorlog host recover {volume.volume}` publishes them. Then repeat this.",
        )


def _promote(
    call: Invocation,
    volumes: Sequence[Volume],
    site: str,
    folder: Path,
    timeout_s: float,
    address: str | None,
) -> list[dict[str, object]]:
    """Promote the secondaries if that loses nothing; return what was done, as JSON has it.

    Nothing is promoted before each of them is held and was found to lose nothing. Raise
    NotConsistent otherwise.
    """
    with ExitStack() as stack:
        held = hold_and_plan(call, stack, volumes, site, folder, timeout_s)
        check_nothing_lost(held.plan)
        for member in held.plan.members:
            if not member.is_promoted:
                check_sessions(call.settings, member.volume, ())
        return carry_out(call, held, address=address, timeout_s=timeout_s)
