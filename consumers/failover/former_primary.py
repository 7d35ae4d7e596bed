"""A former primary on this machine becomes the secondary of a site."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from mirrorlog.adapters.addresses import open_file, path_of, place_of
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.folders import create_folder
from mirrorlog.adapters.nbd_client.nbd_uri import is_nbd
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.adapters.secondary_marks import write_marks
from mirrorlog.consumers.failover.exported_copies import ExportedCopy
from mirrorlog.consumers.failover.rejoining import promotion_that_ended, rejoining_state
from mirrorlog.consumers.secondary_exports import export_mark_path
from mirrorlog.consumers.secondary_files import SecondaryFiles
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.consumers.site_primaries import SitePrimaries
from mirrorlog.consumers.state.secondary_state import SecondaryIdentity, SecondaryState
from mirrorlog.consumers.state.state_files import SecondaryStateFiles
from mirrorlog.domain.primary_marks import PrimaryMark
from mirrorlog.domain.promotions import Promotion
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse


@dataclass(frozen=True, slots=True)
class FormerPrimary:
    """A copy that was the primary once.

    device: open for writing, and locked. mark: of a primary, which no host accepts any more.
    promotion: that ended its time; None if the description names none.
    """

    device: FileDevice
    mark: PrimaryMark
    promotion: Promotion | None


def former_address(volume: Volume) -> str:
    """Return the address of the last former primary that is a file or device of this machine.

    Raise BadUse if there is none.
    """
    for promotion in reversed(volume.promotions):
        address = promotion.former_primary
        is_here = not is_nbd(address) and path_of(address).exists()
        if is_here and place_of(address) != place_of(volume.primary):
            return address
    raise BadUse(
        "no former primary of the volume is on this machine, at the address that it had",
        where=f"volume {volume.volume}",
        next="Run this on the machine of the former primary. If it is at another address now, name "
        "it with --copy.",
    )


def check_former(
    volume: Volume, device: FileDevice, address: str, marks: PrimaryMarkFiles
) -> FormerPrimary:
    """Return the former primary that the device is. Raise BadUse if it isn't one of the volume."""
    mark = marks.read(device)
    where = f"volume {volume.volume}, {address}"
    if mark is None or not mark.is_of(volume):
        raise BadUse(
            "this isn't marked as a primary of the volume",
            where=where,
            next="Name the former primary with --copy. If this one lost its mark, or follows "
            "already, start its site.",
        )
    if volume.primary_id is None or mark.primary_id == volume.primary_id:
        raise BadUse(
            "this is the volume's primary now",
            where=where,
            next="Promote another copy first, or run this where the former primary is.",
        )
    promotion = promotion_that_ended(volume, primary_id=mark.primary_id, address=address)
    return FormerPrimary(device, mark, promotion)


def check_no_other(volume: Volume, address: str, *, site: str, folder: Path) -> None:
    """Raise BadUse if the site keeps another secondary of the volume than that at the address."""
    described = volume.secondaries.get(site)
    own = folder / f"{volume.volume}.img"
    place = place_of(address)
    is_other = described is not None and place_of(described) != place
    if is_other or (described is None and own.exists() and place_of(str(own)) != place):
        raise BadUse(
            f"the site keeps another secondary of the volume, at {described or own}",
            where=f"volume {volume.volume} at {site}",
            next="Use a site of another name for the former primary.",
        )


def is_secondary_now(
    volume: Volume,
    address: str,
    *,
    site: str,
    folder: Path,
    marks: PrimaryMarkFiles,
    export: str | None = None,
) -> bool:
    """Return whether a former primary follows as the secondary of a site already.

    address, export: as in become_secondary(). Nothing is locked or changed. Raise DeviceFailed.
    """
    described = volume.secondaries.get(site)
    if described is None or place_of(described) != place_of(export or address):
        return False
    with open_file(address, writable=False) as device:
        if marks.read(device) is not None:
            return False
    if export is not None:
        return export_mark_path(folder, volume).exists()
    addresses = SiteAddresses(site, folder)
    return SecondaryFiles(addresses, SitePrimaries(addresses, marks)).find(volume).mark is not None


def become_secondary(
    former: FormerPrimary,
    volume: Volume,
    *,
    site: str,
    folder: Path,
    copies_all: bool,
    marks: PrimaryMarkFiles,
    export: ExportedCopy | None = None,
) -> None:
    """Turn a former primary into the secondary of a site.

    1. It gets the mark of a secondary, durably.
    2. The site's state of it is saved: what it holds, and from which position on it parted. If
       nobody knows that, or with `copies_all`, the state says so, and the site copies everything.
    3. It loses the mark of a primary. Only now the site doesn't keep off it any more, and a crash
       before leaves a former primary, which rejoins again.

    volume: it names the device, or its export, as the site's secondary (check_no_other). Every
    write to the device must be named by the log, unless `copies_all`. export: by which the site
    reaches it; None if it is on the site's machine. Raise DeviceFailed.
    """
    device, name = former.device, volume.volume
    addresses = SiteAddresses(site, folder)
    create_folder(folder)
    device.flush()
    identity = SecondaryIdentity(
        secondary_id=str(uuid4()),
        epoch=0,
        size_bytes=device.size_bytes,
        lasting=device.identity.lasting if export is None else None,
    )
    state = SecondaryState(name, volume.generation, identity=identity)
    if former.promotion is not None and not copies_all:
        state = rejoining_state(volume, former.promotion, identity) or state
    mark = SecondaryMark(secondary_id=identity.secondary_id, site=site, volume=name, epoch=0)
    if export is None:
        files = SecondaryFiles(addresses, SitePrimaries(addresses, marks))
        files.write_marks([(volume, mark)])  # 1
    else:
        write_marks({export_mark_path(folder, volume): mark})  # 1
        state = replace(state, samples=export.samples)
    SecondaryStateFiles(folder / "states").save(state)  # 2
    marks.remove(device)  # 3
