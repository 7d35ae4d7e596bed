"""`mirrorlog failback`: a site's secondary becomes the primary in the planned order."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.adapters.addresses import open_primary
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.cli.support.confirming import DryRunOption, YesOption, is_confirmed
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.cli.support.mirror_options import at_source
from mirrorlog.cli.support.moving import check_sessions
from mirrorlog.cli.support.promoting import (
    AddressOption,
    NotConsistent,
    assess,
    finish_promotion,
    lost_in_words,
    publish_promotion,
    published_address,
)
from mirrorlog.cli.support.rejoining import (
    HostNotRecovered,
    has_leftovers,
    open_plan,
    rejoin_by,
)
from mirrorlog.cli.support.site_addresses import SecondaryOption, with_addresses
from mirrorlog.cli.support.waiting import wait_until_site_proves
from mirrorlog.consumers.failover.held_secondary import hold_secondary
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
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    timeout: Annotated[str, typer.Option(help="Wait this long for the site.")] = "5min",
) -> None:
    """Make a site's secondary the primary in the planned order, without loss.

    Run it where the secondary is. It brings a volume back after a failover, and moves it to a site
    while all is well.

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
    former_name = former_site or volume.primary_site
    if former_folder is not None and former_name is None:
        raise BadUse(
            "the former primary is that of no site yet",
            where=f"volume {name}",
            next="Say with --former-site which site keeps it from now on.",
        )
    check_sessions(call.settings, volume, ())  # 1
    if former_folder is not None:
        _check_settled(call, volume)
    cost = (
        f"The secondary of site {site} is then the primary of volume {name}, and {volume.primary} "
        "follows it. Nothing is lost."
    )
    if not is_confirmed(call, name, cost, yes=yes, dry_run=dry_run):
        return
    if volume.primary_site != site:
        wait_until_site_proves(call.settings, name, site, timeout_s)  # 2
    _promote(call, volume, site, folder.absolute(), timeout_s, address)  # 3
    if former_folder is not None and former_name is not None:
        with open_plan(call, name, site=former_name, folder=former_folder) as plan:  # 4
            if plan.needs_all:
                raise plan.unknown_error()
            rejoin_by(call, plan, None, is_published=True)
        call.output.print_text(
            f"{plan.address} follows as the secondary of site {former_name}: "
            f"`mirrorlog site run {former_name} --dir {former_folder}`"
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
    volume: Volume,
    site: str,
    folder: Path,
    timeout_s: float,
    address: str | None,
) -> None:
    """Promote the secondary if that loses nothing. Raise NotConsistent otherwise."""
    with hold_secondary(site, folder, volume, call.settings, patience_s=timeout_s) as held:
        if volume.primary_site == site:
            finish_promotion(call, volume, held, lost=None, is_again=True)
            return
        claim, lost = assess(call, volume, site, held, timeout_s)
        if claim.consistent_position is None or lost is None or lost.blocks:
            raise NotConsistent(
                f"the promotion would lose something, so nothing was done. {claim.reason or ''}"
                f"{lost_in_words(volume, lost)}".strip(),
                where=f"volume {volume.volume} at {site}",
                next="See that no host writes to the volume, then repeat this.",
            )
        check_sessions(call.settings, volume, ())
        promoted = publish_promotion(
            call.settings,
            volume,
            site=site,
            address=published_address(held.address, address),
            claim=claim,
            timeout_s=timeout_s,
        )
        finish_promotion(call, promoted, held, lost=lost, is_again=False)
