"""`mirrorlog rejoin`: a former primary follows the new one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.adapters.addresses import open_primary, parse_file_address
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.cli.support.confirming import DryRunOption, YesOption, is_confirmed
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.cli.support.rejoining import (
    check_site_is_free,
    publish_leftovers,
    publish_secondary,
)
from mirrorlog.cli.support.volume_view import volume_fields
from mirrorlog.consumers.failover.former_primary import (
    FormerPrimary,
    become_secondary,
    check_former,
    check_no_other,
    former_address,
)
from mirrorlog.domain.site_progress import check_site_name
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.producers.wiring import default_host_name

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
    copy_all: Annotated[
        bool,
        typer.Option("--all", help="Copy everything, and not only what both sides wrote."),
    ] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Let a former primary follow the new one. Run it on the former primary's machine.

    Its site then copies exactly the blocks that either side wrote since the two copies parted. What
    was written to it alone is lost: `mirrorlog divergence` lists it.

    1. The former primary is locked: no host writes to it any more.
    2. What its host left unpublished is published, so that the log names all that it wrote.
    3. The description names the copy as the site's secondary.
    4. The copy gets the mark of a secondary, and the site a state of it. Then it loses the mark of
       a primary.

    If this is interrupted, repeat it. Then run the site; it goes on after each interruption.
    """
    call, folder = invocation(context), folder.absolute()
    volume = find_volume(call.settings, name)
    check_site_is_free(volume, check_site_name(site))
    address = parse_file_address(copy or former_address(volume)).uri
    marks = PrimaryMarkFiles(call.settings.primary_marks_dir)
    with open_primary(address, exclusive=True) as device:  # 1
        former = check_former(volume, device, address, marks)
        check_no_other(volume, address, site=site, folder=folder)
        copies_all = copy_all or not _is_position_known(volume, former)
        if copies_all and not copy_all and not dry_run:
            raise BadUse(
                "nobody knows in which blocks this copy differs from the primary",
                where=f"volume {name}, {address}",
                next="--all copies everything.",
            )
        cost = (
            f"What {address} holds and {volume.primary} doesn't is lost. It follows as the "
            f"secondary of site {site}, by "
            + ("a copy of everything." if copies_all else "the blocks that either side wrote.")
        )
        if not is_confirmed(call, name, cost, yes=yes, dry_run=dry_run):
            return
        if not copies_all and former.promotion is not None:
            publish_leftovers(
                call,
                volume,
                address,
                former.mark,
                former.promotion,
                host or default_host_name(name),
            )  # 2
        volume = publish_secondary(call.settings, volume, site, address)  # 3
        become_secondary(
            former, volume, site=site, folder=folder, copies_all=copies_all, marks=marks
        )  # 4
    _print_result(call, volume, former, site=site, folder=folder, copies_all=copies_all)


def _is_position_known(volume: Volume, former: FormerPrimary) -> bool:
    """Return whether it is known where the copy parted."""
    if former.promotion is None:
        return False
    return volume.parted_after(former.promotion.former_generation) is not None


def _print_result(
    call: Invocation,
    volume: Volume,
    former: FormerPrimary,
    *,
    site: str,
    folder: Path,
    copies_all: bool,
) -> None:
    parted = None
    if former.promotion is not None and not copies_all:
        parted = volume.parted_after(former.promotion.former_generation)
    call.output.print_json(
        {
            "schema_version": 1,
            **volume_fields(volume),
            "site": site,
            "parted_position": parted,
            "copies_all": copies_all,
        }
    )
    how = "a copy of everything" if copies_all else f"what changed after position {parted}"
    call.output.print_text(
        f"{former.device.address} is the secondary of volume {volume.volume} at site {site} now, "
        f"and follows by {how}. Run the site here: `mirrorlog site run {site} --dir {folder}`"
    )
