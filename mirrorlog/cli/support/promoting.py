"""The steps of a promotion that the command line takes, and what it loses, in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer

from mirrorlog.adapters.addresses import absolute_address, place_of
from mirrorlog.adapters.nbd_client.nbd_uri import is_nbd
from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.lookup import find_volume, load_volumes
from mirrorlog.cli.support.sending import check_accepted, send_made, sender
from mirrorlog.cli.support.volume_view import volume_fields
from mirrorlog.consumers.failover.backing_files import doubt_of
from mirrorlog.consumers.failover.claims import SecondaryClaim, claim_of
from mirrorlog.consumers.failover.group_claims import group_doubt, other_members
from mirrorlog.consumers.failover.held_secondary import HeldSecondary
from mirrorlog.consumers.failover.lost_writes import LostWrites, lost_writes
from mirrorlog.consumers.failover.site_log_now import read_site_log
from mirrorlog.consumers.state.state_files import SecondaryStateFiles
from mirrorlog.domain.commands import CommandKind, RejectReason, StatusCode
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.promotions import PromotionCommand
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, KafkaFailed, MirrorlogError
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.wiring import HostWiring, default_host_name
from mirrorlog.settings import Settings
from mirrorlog.units import format_size

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URI",
        help="Publish this address of the new primary, at which sites reach it, as in "
        "nbds://HOST/EXPORT. The default is its path on this machine.",
    ),
]


class NotConsistent(MirrorlogError):
    """A secondary isn't consistent, and nobody said --force."""


class AnotherPrimary(MirrorlogError):
    """Another promotion, or a renewal, came first."""


def publish_promotion(
    settings: Settings,
    volume: Volume,
    *,
    site: str,
    address: str,
    claim: SecondaryClaim,
    timeout_s: float,
    held: Collection[HeldSecondary],
) -> Volume:
    """Publish the promotion of a site's secondary; return the description that the node made of it.

    held: this secondary, and those of its group that are promoted with it. They stay paused, unless
    the node refuses the command: until it answers, nobody knows whether the command counts.

    Raise AnotherPrimary if the volume has another generation by then, BadInput if the node refuses
    the command otherwise, KafkaFailed if no node answers: the command then counts when one does.
    """
    before = [(secondary, secondary.stays_paused) for secondary in held]
    for secondary in held:
        secondary.stays_paused = True
    now_us = SystemClock().now_us()
    command = PromotionCommand(
        volume=volume.volume,
        generation=volume.generation,
        host=sender(),
        session=str(uuid4()),
        sequence=-1,
        kind=CommandKind.PROMOTE,
        extents=ExtentColumns.of(()),
        first_at_us=now_us,
        last_at_us=now_us,
        new_generation=str(uuid4()),
        site=site,
        primary=address,
        primary_id=str(uuid4()),
        parted_position=claim.parted_position,
    )
    try:
        status = send_made(settings, volume, command, timeout_s)
    except KafkaFailed as error:
        hint = f"{error.next} The secondary stays paused until you repeat this.".strip()
        raise KafkaFailed(error.what, where=error.where, next=hint) from error
    if status.code is StatusCode.REJECTED:
        for secondary, stayed_paused in before:
            secondary.stays_paused = stayed_paused
    promoted = find_volume(settings, volume.volume)
    if status.code is StatusCode.REJECTED and status.reason == RejectReason.OTHER_GENERATION:
        who = "a renewal came first"
        if promoted.primary_site is not None:
            who = f"the secondary of site {promoted.primary_site} is the primary now"
        raise AnotherPrimary(
            f"{who}: the volume has generation {promoted.generation}, and not "
            f"{volume.generation} any more. Nothing was promoted here",
            where=f"volume {volume.volume} at {site}, position {status.position}",
            next=f"Look at `mirrorlog volume show {volume.volume}`. The site goes on as a "
            "secondary of the primary that won.",
        )
    check_accepted(status)
    return promoted


def published_address(held_address: str, address: str | None) -> str:
    """Return the address of the new primary that the description names. Raise BadUse if it is none.

    held_address: its path as a URI. address: as the user gave it.
    """
    return held_address if address is None else absolute_address(address)


def lost_fields(lost: LostWrites | None) -> dict[str, object] | None:
    """Return what is lost as JSON has it; None if nobody knows."""
    if lost is None:
        return None
    return {
        "after_position": lost.after,
        "through_position": lost.through,
        "blocks": len(lost.blocks),
        "bytes": lost.size_bytes,
        "writes": lost.writes,
        "hosts": list(lost.hosts),
        "first_write_at": None if lost.first_at_us is None else format_time(lost.first_at_us),
        "last_write_at": None if lost.last_at_us is None else format_time(lost.last_at_us),
        "is_complete": lost.is_complete,
    }


def claim_fields(
    site: str, held: HeldSecondary, claim: SecondaryClaim, lost: LostWrites | None
) -> dict[str, object]:
    """Return what a promotion of a held secondary would mean, as JSON has it."""
    return {
        "site": site,
        "secondary": held.address,
        "consistent_position": claim.consistent_position,
        "parted_position": claim.parted_position,
        "reason": claim.reason,
        "lost": lost_fields(lost),
    }


def lost_in_words(volume: Volume, lost: LostWrites | None) -> str:
    """Return in a sentence what a promotion loses. lost: None if nobody knows."""
    if lost is None:
        return (
            "Nobody knows in which blocks the secondary differs from the primary: all sites copy "
            "everything, or, if they are started with --checksum, write what differs."
        )
    if not lost.blocks and lost.is_complete:
        return "By the log, nothing that was published is lost."
    if not lost.blocks:
        return f"Nobody knows what is lost: the log has a hole after position {lost.after}."
    since = None if lost.first_at_us is None else format_time(lost.first_at_us)
    more = "" if lost.is_complete else " The log has a hole there, so it is more than that."
    return (
        f"Lost: up to {lost.writes} writes by {', '.join(lost.hosts) or 'unknown hosts'}, to "
        f"{len(lost.blocks)} blocks ({format_size(lost.size_bytes)}), "
        f"{'' if since is None else f'since {since}, '}after position {lost.after}. "
        f"`mirrorlog changed {volume.volume} --since @{lost.after}` lists them.{more}"
    )


def assess(
    call: Invocation, volume: Volume, site: str, held: HeldSecondary, timeout_s: float
) -> tuple[SecondaryClaim, LostWrites | None]:
    """Return what a held secondary is worth, and what its promotion loses; None if nobody knows.

    The log is read through the last command. Raise KafkaFailed.
    """
    now = read_site_log(call.settings, volume, site, SystemClock(), timeout_s)
    doubt = held.doubt
    if doubt is None and held.saved is not None and held.differing is not None:
        doubt = doubt_of(held.saved, held.differing, volume, now.log, now.through)
    claim = claim_of(held.saved, volume, now.log, doubt=doubt)
    after = claim.consistent_position
    after = claim.parted_position if after is None else after
    if after is None:
        return claim, None
    return claim, lost_writes(volume, now.log.volume, after=after, through=now.through)


def assess_group(
    call: Invocation,
    volume: Volume,
    site: str,
    folder: Path,
    held: HeldSecondary,
    *,
    may_be_mirror: bool = False,
) -> tuple[list[Volume], str | None]:
    """Return the other members of the volume's group, and why they aren't at one common point.

    folder: of the site. Members that were promoted here already are left out. Raise KafkaFailed.
    """
    if volume.group is None:
        return [], None
    volumes = load_volumes(call.settings, may_be_mirror=may_be_mirror)
    others = other_members(volume, volumes.values(), site)
    return others, group_doubt(held.saved, others, SecondaryStateFiles(folder / "states"))


def group_in_words(others: Sequence[Volume], doubt: str | None) -> str:
    """Return what a promotion means for the other members of the group, to follow other text."""
    if not others:
        return ""
    names = ", ".join(other.volume for other in others)
    state = (
        "is at the same moment" if doubt is None else f"isn't surely at the same moment: {doubt}"
    )
    return (
        f" It is in a consistency group with {names}, which {state}. Promote all of them before "
        "anybody writes to one."
    )


def promotion_cost(
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


def finish_promotion(
    call: Invocation,
    volume: Volume,
    held: HeldSecondary,
    *,
    lost: LostWrites | None,
    is_again: bool,
) -> dict[str, object]:
    """Do steps 4 and 5 of `promote`, and say what was done. Return the same as JSON has it.

    Step 5 is left out if step 4 was done before: a host may have used the primary since.
    """
    name = volume.volume
    if not is_nbd(volume.primary) and place_of(volume.primary) != place_of(held.address):
        raise BadUse(
            f"the volume's primary was promoted at another address, {volume.primary}",
            where=f"volume {name}, {held.address}",
            next="Name the address with --secondary.",
        )
    if is_again and not held.is_marked_for(volume):
        raise BadUse(
            "this isn't the copy that was promoted: it is marked neither as the primary nor as the "
            "site's secondary",
            where=f"volume {name}, {held.address}",
            next="Name the right one with --secondary.",
        )
    note = ""
    if held.become_primary(volume):  # 4
        note = _open_once(call, volume, held)  # 5
    promotion = volume.promotions[-1] if volume.promotions else None
    since = "" if promotion is None else f" since position {promotion.position}"
    what = "is the primary already" if is_again else "is the primary"
    words = "" if is_again else f" {lost_in_words(volume, lost)}"
    where = f" --primary {held.address}" if is_nbd(volume.primary) else ""
    call.output.print_text(
        f"{volume.primary} {what} of volume {name}{since}, generation {volume.generation}.{words} "
        f"Start its host here: `mirrorlog host serve {name}{where}`. On the former primary's "
        f"machine: `mirrorlog rejoin {name} --site SITE --dir DIR`.{note}"
    )
    return finished_fields(volume, lost=lost)


def finished_fields(volume: Volume, *, lost: LostWrites | None) -> dict[str, object]:
    """Return what a promotion has done, as JSON has it. lost: None if nobody knows."""
    promotion = volume.promotions[-1] if volume.promotions else None
    return {
        "schema_version": 1,
        **volume_fields(volume),
        "position": None if promotion is None else promotion.position,
        "parted_position": None if promotion is None else promotion.parted_position,
        "lost": lost_fields(lost),
    }


def _open_once(call: Invocation, volume: Volume, held: HeldSecondary) -> str:
    """Let this machine's host open the primary once, and close it. Return a note if that failed.

    Its activity log then covers the volume. Otherwise the first host counts all of it as dirty.
    """
    is_promoted = bool(volume.promotions)  # a renewal may have come since
    request = OpenRequest(volume, held.device, newly_created=False, is_promoted=is_promoted)
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
