"""Puts together what it takes to hold a site's secondary still."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mirrorlog.adapters.addresses import path_of
from mirrorlog.adapters.nbd_client.nbd_uri import is_nbd, parse_nbd_uri
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.consumers.drills.holding import HoldPorts
from mirrorlog.consumers.drills.still_secondaries import (
    look_at_export,
    open_still_export,
    open_still_file,
)
from mirrorlog.consumers.failover.held_secondary import meet_saved
from mirrorlog.consumers.secondary_files import SecondaryFiles
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.consumers.site_primaries import SitePrimaries
from mirrorlog.consumers.state.drill_holds import DrillHolds
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import Clock
from mirrorlog.settings import Settings


def still_address(settings: Settings, volume: Volume, site: str, folder: Path) -> str:
    """Return the address of a secondary. folder: of its site. Raise BadUse if there is none."""
    if not volume.is_followed_by(site):
        raise BadUse(
            f"{volume.volume} is retired, or its primary is at site {site}: there is no secondary",
            where=f"volume {volume.volume} at {site}",
            next="`mirrorlog volume show` has its description.",
        )
    address = SiteAddresses.from_settings(site, folder, settings).secondary(volume)
    if is_nbd(address):
        return address
    path = path_of(address)
    if not path.exists():
        raise BadUse("there is no secondary", where=str(path), next="Name its site's folder.")
    return address


def ports_to_hold(
    settings: Settings,
    volume: Volume,
    address: str,
    *,
    site: str,
    folder: Path,
    clock: Clock,
    stopped: Callable[[], bool],
) -> HoldPorts:
    """Return what it takes to hold the secondary at `address` still. folder: of its site."""
    ports = partial(
        HoldPorts, holds=DrillHolds(folder), clock=clock, sleep=time.sleep, stopped=stopped
    )
    if is_nbd(address):
        uri = parse_nbd_uri(address)
        return ports(
            where=str(uri),
            open_still=lambda: open_still_export(folder, volume, uri),
            look=lambda device: look_at_export(site, folder, volume, device),
        )
    path = path_of(address)
    addresses = SiteAddresses.from_settings(site, folder, settings)
    marks = PrimaryMarkFiles(settings.primary_marks_dir)
    files = SecondaryFiles(addresses, SitePrimaries(addresses, marks))
    return ports(
        where=str(path),
        open_still=lambda: open_still_file(path),
        look=lambda _: meet_saved(site, folder, volume, files.find),
    )
