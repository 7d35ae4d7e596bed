"""`mirrorlog promote`: the secondary of a site becomes the primary."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.adapters.addresses import place_of
from mirrorlog.cli.support.confirming import DryRunOption, YesOption, is_confirmed
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.cli.support.promoting import lost_fields, lost_in_words, publish_promotion
from mirrorlog.cli.support.site_addresses import SecondaryOption, with_addresses
from mirrorlog.cli.support.volume_view import volume_fields
from mirrorlog.consumers.failover.claims import SecondaryClaim, claim_of
from mirrorlog.consumers.failover.held_secondary import HeldSecondary, hold_secondary
from mirrorlog.consumers.failover.lost_writes import LostWrites, lost_writes
from mirrorlog.consumers.failover.site_log_now import read_site_log
from mirrorlog.domain.site_progress import check_site_name
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, MirrorlogError
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.wiring import HostWiring, default_host_name
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.units import parse_duration_s

app = typer.Typer()
SiteOption = Annotated[str, typer.Option("--site", metavar="SITE", help="The site's name.")]
FolderOption = Annotated[Path, typer.Option("--dir", help="The site's folder.")]


class NotConsistent(MirrorlogError):
    """A secondary isn't consistent, and nobody said --force."""


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
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    timeout: Annotated[str, typer.Option(help="Wait this long for site, log and node.")] = "30s",
) -> None:
    """Make the secondary of a site the primary. Run it there, where the secondary is.

    The old primary isn't asked: it may be lost. Its host is fenced: it lets no write begin any more
    as soon as it reads of the promotion, and what it wrote by then is listed by `divergence`.

    1. The site lets go of the secondary: it is paused, and this process takes the lock.
    2. The log is read through the last command. It says what the secondary lacks. If the
       secondary isn't consistent, this ends here, unless --force is given.
    3. The promotion is published. Of two at once, the node records exactly one.
    4. The secondary gets the mark of a primary, and loses that of a secondary.
    5. This machine's host opens it once, so that its activity log covers the volume from now on.
    6. The lock and the pause end. The site keeps off the volume.

    If this dies before step 3, the site stays paused: repeat it, or resume the site. If it dies
    later, repeat it: it goes on with step 4. No host opens the new primary before that.
    """
    call = with_addresses(invocation(context), check_site_name(site), folder, [], secondary or [])
    volume = find_volume(call.settings, name)
    if volume.is_retired:
        raise BadUse("the volume is retired", where=f"volume {name}", next="Create a new one.")
    timeout_s = parse_duration_s(timeout)
    with hold_secondary(
        site, folder.absolute(), volume, call.settings, patience_s=timeout_s
    ) as held:  # 1
        if volume.primary_site == site:
            _finish(call, volume, held, lost=None, is_again=True)
            return
        now = read_site_log(call.settings, volume, site, SystemClock(), timeout_s)  # 2
        claim = claim_of(held.saved, volume, now.log, doubt=held.doubt)
        lost = _lost(volume, claim, now.log.volume, now.through)
        cost = _cost(volume, site, held, claim, lost)
        if claim.consistent_position is None and not force and not dry_run:
            raise NotConsistent(
                f"the secondary isn't consistent: {claim.reason}",
                where=f"volume {name} at {site}, {held.address}",
                next="If the primary lives, wait: `mirrorlog site wait`. If it is lost: --force. "
                + cost,
            )
        if not is_confirmed(call, name, cost, yes=yes, dry_run=dry_run):
            return
        volume = publish_promotion(
            call.settings,
            volume,
            site=site,
            address=held.address,
            claim=claim,
            timeout_s=timeout_s,
        )  # 3
        _finish(call, volume, held, lost=lost, is_again=False)


def _lost(volume: Volume, claim: SecondaryClaim, log: VolumeLog, through: int) -> LostWrites | None:
    """Return what the secondary lacks of the log; None if nobody knows."""
    after = claim.consistent_position
    after = claim.parted_position if after is None else after
    if after is None:
        return None
    return lost_writes(volume, log, after=after, through=through)


def _cost(
    volume: Volume,
    site: str,
    held: HeldSecondary,
    claim: SecondaryClaim,
    lost: LostWrites | None,
) -> str:
    state = f"consistent at position {claim.consistent_position}"
    if claim.consistent_position is None:
        state = f"consistent at no position: {claim.reason}"
    return (
        f"The primary of volume {volume.volume} is then {held.address} at site {site}, which is "
        f"{state}. No host of {volume.primary} writes to the volume any more. "
        f"{lost_in_words(volume, lost)}"
    )


def _finish(
    call: Invocation,
    volume: Volume,
    held: HeldSecondary,
    *,
    lost: LostWrites | None,
    is_again: bool,
) -> None:
    """Do steps 4 and 5, and say what was done. They are harmless if they were done before."""
    name = volume.volume
    if place_of(volume.primary) != place_of(held.address):
        raise BadUse(
            f"the volume's primary was promoted at another address, {volume.primary}",
            where=f"volume {name}, {held.address}",
            next="Name the address with --secondary.",
        )
    held.become_primary(volume)  # 4
    note = _open_once(call, volume, held)  # 5
    promotion = volume.promotions[-1] if volume.promotions else None
    call.output.print_json(
        {
            "schema_version": 1,
            **volume_fields(volume),
            "position": None if promotion is None else promotion.position,
            "parted_position": None if promotion is None else promotion.parted_position,
            "lost": lost_fields(lost),
        }
    )
    since = "" if promotion is None else f" since position {promotion.position}"
    what = "is the primary already" if is_again else "is the primary"
    words = "" if is_again else f" {lost_in_words(volume, lost)}"
    call.output.print_text(
        f"{volume.primary} {what} of volume {name}{since}, generation {volume.generation}.{words} "
        f"Start its host here: `mirrorlog host serve {name}`. On the former primary's machine: "
        f"`mirrorlog rejoin {name} --site SITE --dir DIR`.{note}"
    )


def _open_once(call: Invocation, volume: Volume, held: HeldSecondary) -> str:
    """Let this machine's host open the primary once, and close it. Return a note if that failed.

    Its activity log then covers the volume. Otherwise the first host counts all of it as dirty.
    """
    request = OpenRequest(volume, held.device, newly_created=False, is_promoted=True)
    try:
        with ExitStack() as stack:
            wiring = HostWiring(default_host_name(volume.volume), call.settings, stack)
            volumes = {**wiring.read_catalog(), volume.volume: volume}
            lines: list[str] = []
            with wiring.start_host(volumes, forks={}, report=lines.append) as host:
                host.open_all([request])
    except MirrorlogError as error:
        return f" The first host that opens it counts all of it as dirty: {error}"
    return ""
