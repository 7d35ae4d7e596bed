"""The command that promotes a secondary, and what it loses, in words."""

from __future__ import annotations

from uuid import uuid4

from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.cli.support.sending import check_accepted, send_made, sender
from mirrorlog.consumers.failover.claims import SecondaryClaim
from mirrorlog.consumers.failover.lost_writes import LostWrites
from mirrorlog.domain.commands import CommandKind, RejectReason, StatusCode
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.promotions import PromotionCommand
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import MirrorlogError
from mirrorlog.ports.clock import SystemClock
from mirrorlog.settings import Settings
from mirrorlog.units import format_size


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
) -> Volume:
    """Publish the promotion of a site's secondary; return the description that the node made of it.

    Raise AnotherPrimary if the volume has another generation by then, BadInput if the node refuses
    the command otherwise, KafkaFailed if no node answers: the command then counts when one does.
    """
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
    status = send_made(settings, volume, command, timeout_s)
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


def lost_in_words(volume: Volume, lost: LostWrites | None) -> str:
    """Return in a sentence what a promotion loses. lost: None if nobody knows."""
    if lost is None:
        return (
            "Nobody knows in which blocks the secondary differs from the primary: all sites copy "
            "everything."
        )
    if not lost.blocks and lost.is_complete:
        return "By the log, nothing that was published is lost."
    more = "" if lost.is_complete else " The log has a hole there, so it is more than that."
    return (
        f"Lost: up to {lost.writes} writes by {', '.join(lost.hosts) or 'unknown hosts'}, to "
        f"{len(lost.blocks)} blocks ({format_size(lost.size_bytes)}), since "
        f"{format_time(lost.first_at_us or 0)}, after position {lost.after}. "
        f"`mirrorlog changed {volume.volume} --since @{lost.after}` lists them.{more}"
    )
